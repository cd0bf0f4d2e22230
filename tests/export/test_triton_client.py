"""The client of docs/triton.md, against a server that serves a repository as Triton does."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import msgspec
import numpy as np
import pytest
from PIL import Image
from tests.export.conftest import triton_config, triton_session
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor

from dlcv.runtime import load
from dlcv.runtime.bundle import open_bundle
from dlcv.runtime.images import load_pixels
from dlcv.runtime.images.samples import sample_paths

SERVICE: Any = service_pb2
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "triton.md"


class ToyTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # untyped
    """Answers as Triton does: batches, shapes and labels by the configuration alone, on ONNX Runtime."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository

    def ModelConfig(self, request, context):  # noqa: N802  # gRPC's name
        return SERVICE.ModelConfigResponse(config=triton_config(self.repository / request.name))

    def ModelInfer(self, request, context):  # noqa: N802  # gRPC's name
        folder = self.repository / request.model_name
        config = triton_config(folder)
        (tensor,), (given,), (wanted,) = config.input, request.inputs, request.outputs
        assert (tensor.name, given.datatype) == (given.name, "UINT8")
        assert 1 <= given.shape[0] <= config.max_batch_size
        assert all(a in (-1, b) for a, b in zip(tensor.dims, given.shape[1:], strict=True))
        image = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(given.shape)
        (rows,) = triton_session(folder).run([wanted.name], {"image": image})
        (output,) = (o for o in config.output if o.name == wanted.name)
        labels = (folder / output.label_filename).read_text(encoding="utf-8").splitlines()
        count = wanted.parameters["classification"].int64_param
        answers = [
            [f"{row[n]:f}:{n}:{labels[n]}" for n in row.argsort()[::-1][:count]] for row in rows
        ]
        response = SERVICE.ModelInferResponse(model_name=request.model_name)
        response.outputs.add(name=wanted.name, datatype="BYTES", shape=[len(rows), count])
        texts = np.array(answers, dtype=object)
        response.raw_output_contents.append(serialize_byte_tensor(texts).item())
        return response


@pytest.fixture
def toy_triton(shipped):
    server = grpc.server(ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
        ToyTriton(shipped["imagenet-lite0"].parent), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def client_of_the_document() -> str:
    (block,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return str(block)


def test_the_client_of_the_document_names_what_the_bundle_names(
    toy_triton, tmp_path, monkeypatch, capsys
):
    photo = sample_paths()[0]
    (tmp_path / "photo.jpg").write_bytes(photo.read_bytes())
    monkeypatch.chdir(tmp_path)
    program = client_of_the_document().replace("localhost:8001", toy_triton)
    names: dict[str, object] = {}
    exec(compile(program, "triton.md", "exec"), names)  # noqa: S102  # our own document
    names["client"].close()  # type: ignore[attr-defined]
    printed = [line.rsplit(" ", 1) for line in capsys.readouterr().out.splitlines()]
    with load("imagenet-lite0", engine="ort") as model:
        result: Any = model(photo)[0]
    expected = result.top(3)
    assert [name for name, _ in printed] == [label.name for label in expected]
    np.testing.assert_allclose(
        [float(probability) for _, probability in printed],
        [label.probability for label in expected],
        atol=0.02,  # dlcv lets the JPEG decoder scale, the document's client does not
    )


@pytest.mark.parametrize("name", ["imagenet-lite0", "voc-deeplab", "camvid-lraspp"])
@pytest.mark.parametrize("size", [(640, 427), (427, 640), (700, 701)])
def test_the_pixels_of_the_document_are_those_of_dlcv(tmp_path, name, size):
    functions = client_of_the_document().partition("\nclient = ")[0]
    names: dict[str, object] = {}
    exec(compile(functions, "triton.md", "exec"), names)  # noqa: S102  # our own document
    noise = np.random.default_rng(0).integers(
        0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), np.uint8
    )
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(tmp_path / "a.png")
    preprocessing = open_bundle(name).manifest.preprocessing
    made = names["pixels_from_file"](tmp_path / "a.png", msgspec.to_builtins(preprocessing))  # type: ignore[operator]
    expected = load_pixels(tmp_path / "a.png", preprocessing).pixels
    np.testing.assert_allclose(made[0], expected, rtol=0, atol=1)  # Pillow's order of the axes
