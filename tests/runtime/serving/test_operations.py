"""A server that runs: metrics, the access log, models that come and go, the signal to end."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from openapi_spec_validator import OpenAPIV31SpecValidator
from prometheus_client.parser import text_string_to_metric_families
from tests.runtime.serving.conftest import SAMPLES, SECONDS, ServerProcess, serving_process, until

from dlcv.runtime.serving.options import ServeOptions

Photo = Callable[..., Path]
EVERY_ADDRESS = "0.0.0.0"  # noqa: S104  # what is tested is what is said then


@pytest.fixture
def photo(new_photo: Photo) -> bytes:
    return new_photo("a.png").read_bytes()


# Metrics, log, description


def test_metrics_are_what_prometheus_reads(gated, photo: bytes) -> None:
    with gated(queue=4) as it:
        it.gate.open.set()
        for data in (photo, photo, b"no image"):
            requests.post(f"{it.app.url}/predict/toy", data=data, timeout=SECONDS)
        requests.post(f"{it.app.url}/predict/made-up-{'x' * 40}", data=photo, timeout=SECONDS)
        text = requests.get(f"{it.app.url}/metrics", timeout=SECONDS).text
        families = {family.name: family for family in text_string_to_metric_families(text)}
        metric = it.app.metric
        assert metric('dlcv_requests_total{code="200",model="toy",protocol="http"}') == 2
        assert metric('dlcv_requests_total{code="400",model="toy",protocol="http"}') == 1
        assert metric('dlcv_requests_total{code="404",model="",protocol="http"}') == 1
        assert metric('dlcv_refused_requests_total{model="toy",reason="bad_image"}') == 1
        assert metric('dlcv_refused_requests_total{model="",reason="unknown"}') == 1
        assert metric('dlcv_images_total{model="toy"}') == 2
        assert metric('dlcv_batch_images_count{model="toy"}') == 2
        assert metric('dlcv_model_ready{model="toy"}') == 1
        assert metric('dlcv_queue_images{model="toy"}') == 0
        assert metric('dlcv_queue_limit_images{model="toy"}') == 4
    assert "made-up" not in text
    assert families["dlcv_request_duration_seconds"].type == "histogram"
    assert families["dlcv_model_info"].samples[0].labels["engine"] == "fake"
    assert all(family.documentation for family in families.values())


def test_the_access_log_is_a_line_of_json_a_request(classify_bundle: Path, photo: bytes) -> None:
    import tritonclient.grpc

    with serving_process(classify_bundle) as server:
        url = f"{server.url}/predict/toy-classify"
        answer = requests.post(url, data=photo, headers={"X-Request-Id": "mine-1"}, timeout=SECONDS)
        assert answer.headers["x-request-id"] == "mine-1"
        forged = requests.post(url, data=b"x", headers={"X-Request-Id": "a b"}, timeout=SECONDS)
        assert forged.headers["x-request-id"] != "a b"
        with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
            assert client.is_server_live()
        code, out = server.stop()
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [line.get("status") for line in lines] == [200, 400, "OK"]
    first = lines[0]
    assert (first["id"], first["model"], first["images"]) == ("mine-1", "toy-classify", 1)
    assert (first["method"], first["path"], first["client"]) == (
        "POST",
        "/predict/toy-classify",
        "127.0.0.1",
    )
    assert first["bytes_in"] == len(photo)
    assert lines[1]["refused"] == "bad_image"
    assert lines[2]["method"] == "ServerLive"
    assert all(line["seconds"] >= 0 for line in lines)


def test_a_log_that_nobody_reads_does_not_stop_the_server(
    classify_bundle: Path, photo: bytes
) -> None:
    """The pipe of stdout is full after some hundred lines."""
    with serving_process(classify_bundle, grpc=False) as server, requests.Session() as session:
        for _ in range(400):
            answer = session.get(f"{server.url}/v2/health/live", timeout=SECONDS)
            assert answer.ok


def test_the_description_is_valid_openapi_with_every_model(server: ServerProcess) -> None:
    described = requests.get(f"{server.url}/openapi.json", timeout=SECONDS).json()
    OpenAPIV31SpecValidator(described).validate()
    for name in ("toy-classify", "toy-segment", "toy-embed", "toy-caption"):
        assert f"/predict/{name}" in described["paths"]
        assert f"/v2/models/{name}/infer" in described["paths"]


def test_with_keys_the_description_says_so(gated) -> None:
    options = ServeOptions(api_keys=frozenset(["k"]))
    with gated(options=options) as it:
        described = requests.get(
            f"{it.app.url}/openapi.json", headers={"x-api-key": "k"}, timeout=SECONDS
        ).json()
    OpenAPIV31SpecValidator(described).validate()
    assert described["security"] == [{"bearer": []}, {"key": []}]


def test_the_models_say_what_they_are(server: ServerProcess) -> None:
    models = requests.get(f"{server.url}/models", timeout=SECONDS).json()["models"]
    by_name = {model["name"]: model for model in models}
    classes = [{"name": "red", "color": [255, 0, 0]}, {"name": "green", "color": [0, 255, 0]}]
    assert by_name["toy-segment"]["classes"][:2] == classes
    assert by_name["toy-classify"]["outputs"][0] == "probabilities"
    assert by_name["toy-caption"]["task"] == "caption"


def test_spans_carry_the_client_s_trace(gated, photo: bytes) -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with gated() as it:
        it.gate.open.set()
        url = f"{it.app.url}/predict/toy"
        assert requests.post(url, data=photo, headers={"traceparent": parent}, timeout=SECONDS).ok
        until(lambda: any(s.name == "POST /predict/{name}" for s in exporter.get_finished_spans()))
    found = next(s for s in exporter.get_finished_spans() if s.name == "POST /predict/{name}")
    assert found.context is not None
    assert f"{found.context.trace_id:x}" == "af7651916cd43dd8448eb211c80319c"
    attributes = dict(found.attributes or {})
    assert attributes["http.response.status_code"] == 200
    assert (attributes["dlcv.model"], attributes["dlcv.images"]) == ("toy", 1)


# Models that come and go


def test_a_folder_s_bundles_are_taken_up_changed_and_let_go_without_dropping_a_request(
    classify_bundle: Path, segment_bundle: Path, photo: bytes, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    shutil.copytree(classify_bundle, folder / "colors")
    statuses: list[int] = []
    stop = threading.Event()
    with serving_process(
        "--models", folder, "--poll", "0.1", "--no-access-log", grpc=False
    ) as server:
        url = f"{server.url}/predict/colors"

        def ask() -> None:
            with requests.Session() as session:
                while not stop.is_set():
                    statuses.append(session.post(url, data=photo, timeout=SECONDS).status_code)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            shutil.copytree(segment_bundle, folder / "new")
            until(lambda: server.said("serving new (segment)"))
            broken = folder / "broken"
            shutil.copytree(classify_bundle, broken)
            (broken / "model.onnx").write_bytes(b"no graph")
            until(lambda: server.said(f"refused {broken}: "))
            os.utime(folder / "colors" / "manifest.json")
            until(lambda: sum("serving colors" in line for line in server.lines) == 2)
            (folder / "new" / "model.onnx").write_bytes(b"no graph")
            until(lambda: server.said("; the one before goes on"))
            assert requests.get(f"{server.url}/v2/models/new/ready", timeout=SECONDS).ok
            shutil.rmtree(folder / "new")
            until(lambda: server.said("no longer serving new"))
            assert requests.get(f"{server.url}/v2/models/new", timeout=SECONDS).status_code == 404
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert set(statuses) == {200}
    assert len(statuses) > 20


def test_an_empty_folder_is_live_but_not_ready(tmp_path: Path) -> None:
    with serving_process("--models", tmp_path, "--no-access-log", grpc=False) as server:
        assert requests.get(f"{server.url}/v2/health/live", timeout=SECONDS).status_code == 200
        ready = requests.get(f"{server.url}/v2/health/ready", timeout=SECONDS)
        assert (ready.status_code, ready.json()["error"]) == (503, "no model is loaded")


def test_a_set_of_prototypes_is_loaded_at_the_start(
    embed_bundle: Path, new_photo: Photo, tmp_path: Path
) -> None:
    import dlcv
    from dlcv.runtime.fewshot.prototypes import Prototypes

    warm, cold = new_photo("w.png", color="red"), new_photo("c.png", color="blue")
    with dlcv.load(embed_bundle, engine="ort") as predictor:
        Prototypes.fit(predictor, {"warm": [warm], "cold": [cold]}).save(tmp_path / "shades.npz")
    option = f"shades=toy-embed:{tmp_path / 'shades.npz'}"
    with serving_process(
        embed_bundle, "--engine", "ort", "--prototypes", option, grpc=False
    ) as server:
        url = f"{server.url}/predict/toy-embed?prototypes=shades"
        assert requests.post(url, data=cold.read_bytes(), timeout=SECONDS).json()["label"] == "cold"


# The end


def test_a_signal_ends_it_when_what_is_under_way_is_answered(
    classify_bundle: Path, new_photo
) -> None:
    """A body that is half there is a request under way."""
    photo = new_photo("a.png").read_bytes()
    with serving_process(classify_bundle, "--no-access-log") as server:
        host, _, port = server.http.partition(":")
        with socket.create_connection((host, int(port))) as connection:
            head = b"POST /predict/toy-classify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
            connection.sendall(head % len(photo) + photo[:20])
            time.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            until(lambda: server.said("ending: requests under way are answered"))
            time.sleep(0.3)
            assert server.process.poll() is None
            with pytest.raises(requests.ConnectionError):
                requests.get(f"{server.url}/v2/health/live", timeout=SECONDS)
            connection.sendall(photo[20:])
            connection.settimeout(SECONDS)
            answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200")
        assert server.process.wait(SECONDS) == 0


def test_the_end_does_not_wait_longer_than_it_was_told(classify_bundle: Path) -> None:
    with serving_process(classify_bundle, "--no-access-log", "--drain", "1", grpc=False) as server:
        host, _, port = server.http.partition(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /predict/toy-classify HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
            )
            time.sleep(0.3)
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(SECONDS) == 0
    assert not any("Traceback" in line for line in server.lines)


def test_a_second_signal_ends_it_at_once(classify_bundle: Path) -> None:
    with serving_process(classify_bundle, "--no-access-log", "--drain", "60", grpc=False) as server:
        host, _, port = server.http.partition(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /predict/toy-classify HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
            )
            time.sleep(0.3)
            server.process.send_signal(signal.SIGINT)
            until(lambda: server.said("ending:"))
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(SECONDS / 4) == 0


@pytest.mark.parametrize("model", ["imagenet-lite0", "voc-deeplab", "toy-embed"])
def test_the_acceptance_program_of_another_client_says_ok(
    model: str, embed_bundle: Path, data_root: Path
) -> None:
    """NVIDIA's client asks everything at once; it lies beside the datasets, and compares with `dlcv.load(MODEL)`."""
    program = data_root.parent / "acceptance" / "oip_client.py"
    if not program.is_file():
        pytest.skip(f"there is no {program}")
    bundle = embed_bundle if model == "toy-embed" else model
    with serving_process(bundle, "--engine", "ort", "--no-access-log") as server:
        addresses = ["--http", server.http, "--grpc", server.grpc]
        images = ["--images", str(SAMPLES / "cat.jpg"), str(SAMPLES / "dog.jpg")]
        done = subprocess.run(
            [sys.executable, program, *addresses, "--model", model, *images],
            cwd=embed_bundle.parent,  # where `toy-embed` is a folder
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed" in done.stdout
