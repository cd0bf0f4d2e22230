"""How a server starts: ports, bundles, what is refused; keys and TLS."""

import inspect
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from tests.runtime.serving.conftest import SECONDS, serving_process, until
from typer.testing import CliRunner

from dlcv.cli.infer.app import app as infer_app
from dlcv.cli.infer.serve import serve
from dlcv.runtime.serving.options import MIB, Limits, ServeOptions

Photo = Callable[..., Path]
EVERY_ADDRESS = "0.0.0.0"  # noqa: S104  # what is tested is what is said then


@pytest.fixture
def photo(new_photo: Photo) -> bytes:
    return new_photo("a.png").read_bytes()


# Starting


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(infer_app, ["serve", *map(str, arguments)])


def test_a_port_in_use_is_said_before_anything_is_loaded(classify_bundle: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(classify_bundle, "--port", port)
    assert done.exit_code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in str(done.exception)
    assert "serving" not in done.stderr


def test_two_servers_cannot_have_one_port(classify_bundle: Path) -> None:
    with serving_process(classify_bundle, "--no-access-log") as first:
        done = run(classify_bundle, "--port", first.http.rpartition(":")[2])
        assert "cannot listen on" in str(done.exception)
        done = run(classify_bundle, "--port", 0, "--grpc-port", first.grpc.rpartition(":")[2])
        assert "for gRPC; choose another port" in str(done.exception)
        assert requests.get(f"{first.url}/v2/health/ready", timeout=SECONDS).ok


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no bundle at nowhere"),
        (["{toy}", "{toy}"], "two bundles would be served as 'toy-classify'"),
        (["a/b={toy}"], "cannot be served as 'a/b'"),
        (["--models", "nowhere"], "--models nowhere is no folder"),
        (["{toy}", "--host", "999.1.1.1"], "is no address of this machine"),
        (["{toy}", "--tls-cert", "a.pem"], "needs both files"),
        (["{toy}", "--tls-cert", "a.pem", "--tls-key", "b.pem"], "there is no file a.pem"),
        (["{toy}", "--api-key-file", "nowhere"], "cannot read the API keys"),
        (["{toy}", "--prototypes", "pets"], "takes SET=MODEL:FILE"),
        (
            ["{toy}", "--prototypes", "pets=toy-classify:nowhere.npz"],
            "no prototypes at nowhere.npz",
        ),
        (["{toy}", "--prototypes", "pets=nope:nowhere.npz"], "there is no model 'nope'"),
        (["{toy}", "--engine", "nope"], "nope"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(
    classify_bundle: Path, arguments: list[str], words: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*(a.format(toy=classify_bundle) for a in arguments), "--port", 0, "--grpc-port", 0)
    assert done.exit_code == 1
    assert words in str(done.exception)


def test_the_extra_is_named_where_it_is_missing(monkeypatch, classify_bundle: Path) -> None:
    from dlcv.runtime.machine import system

    present = system.is_importable
    monkeypatch.setattr(system, "is_importable", lambda name: name != "uvicorn" and present(name))
    done = run(classify_bundle)
    assert str(done.exception) == "serving needs uvicorn: pip install 'dlcv[serve]'"
    monkeypatch.setattr(system, "is_importable", lambda name: name != "grpc" and present(name))
    done = run(classify_bundle, "--grpc-port", "1")
    assert "pip install 'dlcv[grpc]'" in str(done.exception)


def test_without_a_key_on_all_addresses_it_is_said(classify_bundle: Path) -> None:
    with serving_process(
        classify_bundle, "--host", EVERY_ADDRESS, "--no-access-log", grpc=False
    ) as open_:
        until(lambda: open_.said("no key is needed; give --api-key-file FILE"))
    with serving_process(classify_bundle, "--no-access-log", grpc=False) as closed:
        assert not closed.said("no key is needed")
        with pytest.raises(requests.ConnectionError):  # nobody else reaches it
            requests.get(f"http://{other_address()}:{closed.http.rpartition(':')[2]}/", timeout=3)


def other_address() -> str:
    """An address of this machine besides 127.0.0.1."""
    return "127.0.0.2"


# Keys and TLS


def test_a_request_needs_a_key_where_there_are_keys(
    classify_bundle: Path, photo: bytes, tmp_path
) -> None:
    import tritonclient.grpc

    file = tmp_path / "keys"
    file.write_text("first\nsecond\n")
    with serving_process(classify_bundle, "--api-key-file", file, "--no-access-log") as server:
        url = f"{server.url}/predict/toy-classify"

        def status(**headers: str) -> int:
            return requests.post(url, data=photo, headers=headers, timeout=SECONDS).status_code

        assert status(Authorization="Bearer second") == 200
        assert status(**{"X-API-Key": "first"}) == 200
        assert (
            status() == status(Authorization="Bearer third") == status(Authorization="first") == 401
        )
        assert requests.get(f"{server.url}/models", timeout=SECONDS).status_code == 401
        assert requests.get(f"{server.url}/metrics", timeout=SECONDS).status_code == 401
        assert requests.get(f"{server.url}/v2/health/ready", timeout=SECONDS).status_code == 200
        assert requests.get(f"{server.url}/", timeout=SECONDS).status_code == 200
        with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
            assert client.is_server_ready()
            told: Any = client.get_server_metadata(headers={"authorization": "Bearer first"})
            assert told.name == "dlcv"
            with pytest.raises(Exception, match="a key is needed"):
                client.get_server_metadata()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signed itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        [*command, *names, "-keyout", key, "-out", cert], check=True, capture_output=True
    )
    return cert, key


def test_http_and_grpc_speak_tls(
    classify_bundle: Path, photo: bytes, certificate: tuple[Path, Path]
) -> None:
    import grpc
    import tritonclient.grpc

    cert, key = certificate
    with serving_process(
        classify_bundle, "--tls-cert", cert, "--tls-key", key, "--no-access-log"
    ) as server:
        url = f"https://{server.http}/predict/toy-classify"
        assert (
            requests.post(url, data=photo, verify=str(cert), timeout=SECONDS).json()["label"]
            == "red"
        )
        credentials = tritonclient.grpc.InferenceServerClient(
            server.grpc, ssl=True, root_certificates=str(cert)
        )
        assert credentials.is_server_live()
        with grpc.insecure_channel(server.grpc) as plain, pytest.raises(grpc.FutureTimeoutError):
            grpc.channel_ready_future(plain).result(timeout=1)


def test_tls_files_that_are_none_are_said(classify_bundle: Path, tmp_path: Path) -> None:
    for name in ("cert", "key"):
        (tmp_path / name).write_text("this is no PEM")
    done = run(classify_bundle, "--port", 0, "--grpc-port", 0, "--tls-cert", tmp_path / "cert", "--tls-key", tmp_path / "key")  # fmt: skip
    assert "the TLS files cannot be used" in str(done.exception)


def test_the_options_default_to_the_limits_of_the_server() -> None:
    """The command's help must not wait for numpy, so it has the numbers a second time."""
    defaults = {name: p.default for name, p in inspect.signature(serve).parameters.items()}
    limits = Limits()
    assert defaults["queue"] == limits.queue
    assert defaults["timeout"] == limits.timeout_s
    assert defaults["client_timeout"] == limits.client_timeout_s
    assert defaults["max_body"] * MIB == limits.body_bytes
    assert defaults["max_pixels"] == limits.pixels
    assert defaults["connections"] == limits.connections
    assert defaults["drain"] == ServeOptions().drain_s
