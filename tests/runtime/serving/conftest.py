"""Servers to ask: one of toy bundles in a process of its own, and any application in a thread of this one."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import requests

from dlcv.runtime import Predictor, open_bundle
from dlcv.runtime.bundle import save_bundle
from dlcv.runtime.engines.fake import FakeEngine
from dlcv.runtime.serving.options import Limits, ServeOptions
from dlcv.runtime.serving.served import ServedModel
from dlcv.runtime.serving.server import http_server
from dlcv.runtime.serving.state import Serving

REPOSITORY = Path(__file__).resolve().parents[3]
SAMPLES = REPOSITORY / "runtime" / "samples"
SECONDS = 20.0  # to wait for what should come at once


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def until(condition: Callable[[], object]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.01)


@dataclass
class ServerProcess:
    """`dlcv-infer serve` that listens. lines: what it said on stderr. http, grpc: host:port."""

    process: "subprocess.Popen[str]"
    lines: list[str]
    http: str
    grpc: str

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://{self.http}"

    def said(self, words: str) -> bool:
        """Whether a line on stderr holds these words."""
        return any(words in line for line in self.lines)

    def stop(self) -> tuple[int, str]:
        """End it; return its exit code and what it wrote on stdout."""
        self.process.terminate()
        out, _ = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, out


@contextmanager
def serving_process(
    *arguments: Any, grpc: bool = True, timeout: float = 60
) -> Iterator[ServerProcess]:
    """Start `dlcv-infer serve` on free ports and wait until it listens."""
    grpc_port = free_port() if grpc else 0
    command = [sys.executable, "-c", "from dlcv.cli.infer.app import main; main()", "serve"]
    options = ["--port", "0", "--grpc-port", str(grpc_port), *map(str, arguments)]
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    server = ServerProcess(process, [], "", f"127.0.0.1:{grpc_port}")
    assert process.stderr is not None
    stderr = process.stderr

    def read() -> None:
        for line in stderr:
            server.lines.append(line.rstrip("\n"))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        end = time.monotonic() + timeout
        while not server.said("listening on http"):
            assert process.poll() is None, "\n".join(server.lines)
            assert time.monotonic() < end, "\n".join(server.lines)
            time.sleep(0.02)
        line = next(line for line in server.lines if "listening on http" in line)
        server.http = line.split("://")[1].split()[0]
        yield server
    finally:
        process.kill()
        process.wait()
        reader.join()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture(scope="session")
def embed_bundle(tmp_path_factory: pytest.TempPathFactory, classify_bundle: Path) -> Path:
    """An embedder by mean colour: the toy classifier's embedding alone. Read only."""
    opened = open_bundle(classify_bundle)
    graph = opened.graph()
    model = onnx.load_from_string((classify_bundle / "model.onnx").read_bytes())
    for output in [o for o in model.graph.output if o.name != "embedding"]:
        model.graph.output.remove(output)
    outputs = tuple(spec for spec in graph.outputs if spec.name == "embedding")
    manifest = msgspec.structs.replace(
        opened.manifest,
        name="toy-embed",
        task="embed",
        classes=(),
        golden=(),
        files={"model.onnx": opened.manifest.files["model.onnx"]},
        graphs={"model": msgspec.structs.replace(graph, outputs=outputs)},
    )
    folder = tmp_path_factory.mktemp("bundles") / "toy-embed"
    return save_bundle(folder, manifest, files={"model.onnx": model.SerializeToString()}).path


@pytest.fixture(scope="session")
def server(
    classify_bundle: Path, segment_bundle: Path, embed_bundle: Path, caption_bundle: Path
) -> Iterator[ServerProcess]:
    """A server of toy bundles, on ONNX Runtime. For questions; what changes it is done to another."""
    bundles = (classify_bundle, segment_bundle, embed_bundle, caption_bundle)
    with serving_process(*bundles, "--engine", "ort", "--no-access-log") as running:
        yield running


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The base URL of a server of real bundles, for the page."""
    bundles = ("imagenet-lite0", "cifar10-vit", "camvid-lraspp")
    with serving_process(*bundles, "--engine", "ort", "--no-access-log", grpc=False) as running:
        yield running.url


# In this process: with engines that wait, and limits that are soon reached.


@dataclass
class App:
    """An application that listens in a thread."""

    serving: Serving
    url: str
    connections: Callable[[], int]

    @property
    def port(self) -> int:
        """Its port."""
        return int(self.url.rpartition(":")[2])

    def metric(self, name: str) -> float:
        """The value of a metric, its labels as they are written; 0 where there is none."""
        text = requests.get(f"{self.url}/metrics", timeout=SECONDS).text
        lines = [line for line in text.splitlines() if line.startswith(f"{name} ")]
        return float(lines[0].rpartition(" ")[2]) if lines else 0.0


@contextmanager
def listening(serving: Serving) -> Iterator[App]:
    """Run an application in a thread of its own until the end of the block."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        http = http_server(serving)
        loop = asyncio.new_event_loop()

        async def run() -> None:
            await http.serve(sockets=[listener])
            await serving.models.close(seconds=SECONDS)

        thread = threading.Thread(target=lambda: loop.run_until_complete(run()), daemon=True)
        thread.start()
        try:
            until(lambda: http.started)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            yield App(serving, url, lambda: len(http.server_state.connections))
        finally:
            http.should_exit = True
            thread.join(SECONDS)
            loop.close()
        assert not thread.is_alive()


class Gate:
    """Answers "red" when it is let. entered: calls that came to it."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self, feeds: Any) -> dict[str, Any]:
        self.entered.release()
        assert self.open.wait(SECONDS), "nobody opened the gate"
        count = len(feeds["image"])
        return {
            "probabilities": np.tile(np.array([0.8, 0.1, 0.1], np.float32), (count, 1)),
            "embedding": np.zeros((count, 3), np.float32),
            "explanation": np.zeros((count, 8, 8), np.float32),
            "attention": np.zeros((count, 3, 8, 8), np.float32),
        }


@dataclass
class Gated:
    """An application whose one model, `toy`, waits at a gate."""

    app: App
    gate: Gate
    model: ServedModel


@pytest.fixture
def gated(classify_bundle: Path) -> Callable[..., Any]:
    """`with gated(queue=2, ...) as it`: limits, batch_size and workers as given."""

    @contextmanager
    def start(
        *, batch_size: int = 1, options: ServeOptions | None = None, **limits: Any
    ) -> Iterator[Gated]:
        given = Limits(**limits)
        opened, gate = open_bundle(classify_bundle), Gate()
        predictor = Predictor(
            opened,
            FakeEngine(opened.graph(), gate),
            batch_size=batch_size,
            workers=2,
            queue_size=given.queue,
        )
        serving = Serving(options=options or ServeOptions(limits=given))
        model = ServedModel("toy", predictor)
        serving.serve(model)
        with listening(serving) as app:
            try:
                yield Gated(app, gate, model)
            finally:
                gate.open.set()

    return start
