"""The application in other people's servers: mounted in one of theirs, and under Ray Serve."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from tests.runtime.serving.conftest import SECONDS, free_port, until

import dlcv.serving
from dlcv.runtime.errors import BundleError, InputError


def test_an_application_of_others_may_hold_it(
    classify_bundle: Path, new_photo: Callable[..., Path]
) -> None:
    mounted = dlcv.serving.asgi_app(str(classify_bundle), engine="ort", api_keys=["k"])

    async def own(_: Any) -> PlainTextResponse:
        return PlainTextResponse("theirs")

    outer = Starlette(routes=[Route("/", own), Mount("/vision", mounted)])
    server = uvicorn.Server(uvicorn.Config(outer, port=free_port(), log_level="critical"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    until(lambda: server.started)
    url = f"http://127.0.0.1:{server.config.port}"
    try:
        assert requests.get(url, timeout=SECONDS).text == "theirs"
        assert requests.get(f"{url}/vision/v2/health/ready", timeout=SECONDS).json() == {
            "ready": True
        }
        data = new_photo("a.png", color="blue").read_bytes()
        ask = f"{url}/vision/predict/toy-classify"
        assert requests.post(ask, data=data, timeout=SECONDS).status_code == 401
        answer = requests.post(ask, data=data, headers={"x-api-key": "k"}, timeout=SECONDS)
        assert answer.json()["label"] == "blue"
    finally:
        server.should_exit = True
        thread.join(SECONDS)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bundles": []}, "needs a bundle"),
        ({}, "missing required field `bundles`"),
        ({"bundles": ["a"], "speed": 3}, "unknown field `speed`"),
        ({"bundles": ["a"], "queue": "long"}, r"Expected `int`, got `str` - at `\$.queue`"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        dlcv.serving.ray_app(settings)


def test_a_bundle_that_is_not_there_is_said() -> None:
    with pytest.raises(BundleError, match="no bundle at nowhere"):
        dlcv.serving.asgi_app("nowhere")


@pytest.fixture(scope="module")
def ray_serve(classify_bundle: Path) -> Iterator[str]:
    """The base URL of Ray Serve on this machine, with two replicas."""
    import ray
    from ray import serve

    port = free_port()
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        settings = {"bundles": [str(classify_bundle)], "engine": "ort", "replicas": 2, "cpus": 0.5}
        serve.run(dlcv.serving.ray_app(settings), name="dlcv", route_prefix="/")
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()
    finally:
        ray.shutdown()


@pytest.mark.filterwarnings("ignore")  # Ray's own, of its dependencies
def test_ray_serve_runs_the_same_application(
    ray_serve: str, classify_bundle: Path, new_photo: Callable[..., Path]
) -> None:
    import numpy as np
    import tritonclient.http

    data = new_photo("a.png", color="green").read_bytes()
    url = f"{ray_serve}/predict/toy-classify"
    for _ in range(10):
        assert requests.post(url, data=data, timeout=SECONDS).json()["label"] == "green"
    bad = requests.post(url, data=b"no image", timeout=SECONDS)
    assert (bad.status_code, "not an image" in bad.json()["error"]) == (400, True)
    with dlcv.load(classify_bundle, engine="ort") as predictor:
        pixels = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), np.uint8)
        expected = predictor.run(pixels)["probabilities"]
    client = tritonclient.http.InferenceServerClient(ray_serve.removeprefix("http://"))
    tensor = tritonclient.http.InferInput("image", [2, 8, 8, 3], "UINT8")
    tensor.set_data_from_numpy(pixels)
    answer = client.infer("toy-classify", [tensor]).as_numpy("probabilities")
    np.testing.assert_allclose(np.asarray(answer), expected, atol=1e-6)
    assert "dlcv_requests_total" in requests.get(f"{ray_serve}/metrics", timeout=SECONDS).text
