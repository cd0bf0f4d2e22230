"""The Open Inference Protocol, asked by NVIDIA's own clients, over REST and gRPC; the answers are those of the predictor."""

import importlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import tritonclient.grpc
import tritonclient.http
from PIL import Image
from tests.runtime.serving.conftest import SECONDS, ServerProcess
from tritonclient.utils import InferenceServerException

import dlcv

PROTOCOLS = ("rest", "grpc")
TASKS = ("classify", "segment", "embed")


class Client:
    """One protocol's client and one model, with what dlcv itself answers."""

    def __init__(self, protocol: str, server: ServerProcess, bundle: Path) -> None:
        self.is_rest = protocol == "rest"
        self.module: Any = tritonclient.http if self.is_rest else tritonclient.grpc
        self.url = server.http if self.is_rest else server.grpc
        self.client = self.module.InferenceServerClient(self.url)
        self.model = bundle.name
        size = (8, 8) if bundle.name != "toy-segment" else (16, 32)
        self.pixels = np.random.default_rng(7).integers(0, 256, (2, *size, 3), np.uint8)
        with dlcv.load(bundle, engine="ort") as predictor:
            self.expected = predictor.run(self.pixels)
        self.first = next(iter(self.expected))

    def infer(
        self,
        array: np.ndarray,
        datatype: str = "UINT8",
        outputs: Any = None,
        *,
        name: str = "image",
        model: str | None = None,
        binary: tuple[bool, bool] = (True, True),
        classes: int = 0,
        **more: Any,
    ) -> Any:
        tensor = self.module.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array, **({"binary_data": binary[0]} if self.is_rest else {}))
        extra = {"binary_data": binary[1]} if self.is_rest else {}
        wanted = [
            self.module.InferRequestedOutput(n, class_count=classes, **extra) for n in outputs or ()
        ]
        return self.client.infer(
            model or self.model, [tensor], outputs=wanted or None, request_id="r7", **more
        )


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=TASKS)
def client(request, protocol: str, server: ServerProcess, classify_bundle, segment_bundle, embed_bundle) -> Client:  # fmt: skip
    bundle = {"classify": classify_bundle, "segment": segment_bundle, "embed": embed_bundle}
    return Client(protocol, server, bundle[request.param])


@pytest.fixture
def classifier(protocol: str, server: ServerProcess, classify_bundle: Path) -> Client:
    return Client(protocol, server, classify_bundle)


def test_pixels_give_all_outputs_as_the_predictor_does(client: Client) -> None:
    answer = client.infer(client.pixels)
    for name, expected in client.expected.items():
        np.testing.assert_allclose(answer.as_numpy(name), expected, atol=1e-6, err_msg=name)


def test_a_named_output_comes_alone(client: Client) -> None:
    for name, expected in client.expected.items():
        answer = client.infer(client.pixels, outputs=[name])
        np.testing.assert_allclose(answer.as_numpy(name), expected, atol=1e-6)
        others = [other for other in client.expected if other != name]
        assert all(answer.as_numpy(other) is None for other in others)


def test_files_of_any_size_give_what_the_predictor_gives_for_them(
    client: Client, tmp_path: Path
) -> None:
    paths = []
    for number, color in enumerate(["red", "blue"]):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", (64, 32), color).save(paths[-1])
    files = np.array([path.read_bytes() for path in paths], object)
    answer = client.infer(files, "BYTES", [client.first]).as_numpy(client.first)
    column = client.infer(files[:, None], "BYTES", [client.first]).as_numpy(client.first)
    assert len(answer) == 2
    np.testing.assert_array_equal(answer, column)
    if client.first == "probabilities":
        assert answer.argmax(1).tolist() == [0, 2]
    if client.first == "mask":
        assert (answer[0] == 0).all()
        assert (answer[1] == 2).all()


def test_the_metadata_names_the_graph_s_tensors(client: Client) -> None:
    if client.is_rest:
        found = client.client.get_model_metadata(client.model)
        config = client.client.get_model_config(client.model)
    else:
        found = client.client.get_model_metadata(client.model, as_json=True)
        config = client.client.get_model_config(client.model, as_json=True)["config"]
    assert [tensor["name"] for tensor in found["inputs"]] == ["image"]
    assert [tensor["name"] for tensor in found["outputs"]] == list(client.expected)
    assert [tensor["name"] for tensor in config["output"]] == list(client.expected)


def test_the_server_and_its_models_are_ready(classifier: Client) -> None:
    asked = classifier.client
    assert asked.is_server_live()
    assert asked.is_server_ready()
    assert asked.is_model_ready(classifier.model)
    assert asked.is_model_ready(classifier.model, "1")
    assert not asked.is_model_ready(classifier.model, "2")
    assert not asked.is_model_ready("nope")
    index = asked.get_model_repository_index()
    names = [m["name"] for m in index] if classifier.is_rest else [m.name for m in index.models]
    assert sorted(names) == ["toy-caption", "toy-classify", "toy-embed", "toy-segment"]


def test_the_request_s_id_comes_back(classifier: Client) -> None:
    response = classifier.infer(classifier.pixels).get_response()
    assert (response["id"] if classifier.is_rest else response.id) == "r7"


def test_the_classification_extension_gives_value_index_and_label(classifier: Client) -> None:
    rows = classifier.infer(classifier.pixels, outputs=["probabilities"], classes=2)
    texts = rows.as_numpy("probabilities")
    assert texts.shape == (2, 2)
    probabilities = classifier.expected["probabilities"]
    for row, values in zip(texts, probabilities, strict=True):
        value, index, label = row[0].decode().split(":")
        assert int(index) == values.argmax()
        assert float(value) == pytest.approx(values.max(), abs=1e-6)
        assert label == ["red", "green", "blue"][int(index)]


def test_a_captioner_answers_in_words(protocol: str, server: ServerProcess, caption_bundle: Path, tmp_path: Path) -> None:  # fmt: skip
    module: Any = tritonclient.http if protocol == "rest" else tritonclient.grpc
    client = module.InferenceServerClient(server.http if protocol == "rest" else server.grpc)
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    pixels[0, ..., 0], pixels[1, ..., 2] = 255, 255
    tensor = module.InferInput("image", [2, 8, 8, 3], "UINT8")
    tensor.set_data_from_numpy(pixels)
    answer = client.infer("toy-caption", [tensor])
    assert [text.decode() for text in answer.as_numpy("caption")] == ["a red wall", "a blue wall"]
    assert answer.as_numpy("tokens").shape[0] == 2
    assert (answer.as_numpy("log_probability") < 0).all()


REFUSED: dict[str, tuple[str, dict[str, Any], tuple[str, str], str]] = {
    "unknown model": ("pixels", {"model": "nope"}, ("404", "NOT_FOUND"), "there is no model 'nope'"),
    "unknown output": ("pixels", {"outputs": ["nope"]}, ("400", "INVALID"), "has no output 'nope'"),
    "unknown input": ("pixels", {"name": "nope"}, ("400", "INVALID"), "received 'nope'"),
    "wrong dtype": ("floats", {"datatype": "FP32"}, ("400", "INVALID"), "not 'FP32'"),
    "wrong rank": ("one", {}, ("400", "INVALID"), "has shape"),
    "wrong size": ("small", {}, ("400", "INVALID"), "the graph takes image"),
    "no rows": ("none", {}, ("400", "INVALID"), "holds no image"),
    "no image": ("text", {"datatype": "BYTES"}, ("400", "INVALID"), "not an image"),
    "classes of an embedding": ("pixels", {"outputs": ["embedding"], "classes": 2}, ("400", "INVALID"), "'classification'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_one_sentence_and_the_next_request_is_answered(
    classifier: Client, case: str
) -> None:
    which, options, statuses, words = REFUSED[case]
    pixels = classifier.pixels
    array = {
        "pixels": pixels,
        "floats": pixels.astype(np.float32),
        "one": pixels[0],
        "small": pixels[:, :4],
        "none": pixels[:0],
        "text": np.array([b"xx"], object),
    }[which]
    with pytest.raises(InferenceServerException) as caught:
        classifier.infer(array, **options)
    assert any(status in str(caught.value.status()) for status in statuses), caught.value
    assert words in caught.value.message()
    assert "Traceback" not in caught.value.message()
    assert classifier.infer(pixels).as_numpy("probabilities").shape == (2, 3)


def test_many_clients_at_once_get_their_own_answers(classifier: Client) -> None:
    def ask(number: int) -> bool:
        own = classifier.module.InferenceServerClient(classifier.url)
        tensor = classifier.module.InferInput("image", [1, 8, 8, 3], "UINT8")
        tensor.set_data_from_numpy(classifier.pixels[number % 2][None])
        answer = own.infer("toy-classify", [tensor]).as_numpy("probabilities")
        return np.allclose(answer[0], classifier.expected["probabilities"][number % 2], atol=1e-6)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(40)))


# REST alone


@pytest.fixture
def rest(server: ServerProcess, classify_bundle: Path) -> Client:
    return Client("rest", server, classify_bundle)


@pytest.mark.parametrize("binary", [(False, False), (False, True), (True, False)])
def test_tensors_may_be_json_either_way(rest: Client, binary: tuple[bool, bool]) -> None:
    answer = rest.infer(rest.pixels, outputs=["probabilities"], binary=binary)
    expected = rest.expected["probabilities"]
    np.testing.assert_allclose(answer.as_numpy("probabilities"), expected, atol=1e-6)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_bodies_may_be_compressed_either_way(rest: Client, encoding: str) -> None:
    pixels = np.repeat(rest.pixels, 8, axis=0)  # an answer that is worth it
    answer = rest.infer(
        pixels,
        request_compression_algorithm=encoding,
        response_compression_algorithm=encoding,
    )
    expected = np.repeat(rest.expected["attention"], 8, axis=0)
    np.testing.assert_allclose(answer.as_numpy("attention"), expected, atol=1e-6)
    small = requests.post(
        f"http://{rest.url}/v2/models/{rest.model}/infer",
        json=_json_request(rest.pixels),
        headers={"accept-encoding": encoding},
        timeout=SECONDS,
    )
    assert small.headers["content-encoding"] == encoding
    assert small.json()["outputs"][0]["name"] == "probabilities"


def _json_request(pixels: np.ndarray, **changes: Any) -> dict[str, Any]:
    tensor = {
        "name": "image",
        "datatype": "UINT8",
        "shape": list(pixels.shape),
        "data": pixels.tolist(),
    }
    return {"inputs": [tensor | changes]}


def test_files_in_json_are_base64(rest: Client, new_photo) -> None:
    import base64

    text = base64.b64encode(new_photo("a.png", color="blue").read_bytes()).decode()
    body = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}]}
    url = f"http://{rest.url}/v2/models/toy-classify/infer"
    answer = requests.post(url, json=body, timeout=SECONDS).json()
    assert np.argmax(answer["outputs"][0]["data"]) == 2


MALFORMED: dict[str, tuple[bytes, dict[str, str], str]] = {
    "garbage": (b"{nope", {}, "not JSON of the protocol"),
    "not UTF-8": (b'{"inputs": [], "id": "\xff"}', {}, "not JSON of the protocol"),
    "nothing": (b"", {}, "not JSON of the protocol"),
    "deep nesting": (b"[" * 100_000, {}, "not JSON of the protocol"),
    "a list": (b"[]", {}, "not JSON of the protocol"),
    "no inputs": (b'{"inputs": []}', {}, "received none"),
    "a header length beyond the body": (b"{}", {"Inference-Header-Content-Length": "999"}, "not a number of up to 2"),
    "a header length that is no number": (b"{}", {"Inference-Header-Content-Length": "-1"}, "not a number of up to 2"),
    "a lying shape": (b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [9, 9, 9, 3], "data": [1, 2]}]}', {}, "needs 2,187 values, received 2"),
    "a negative shape": (b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 3], "data": [1, 2]}]}', {}, "must have 1 to 8 sizes"),
    "a huge shape": (b'{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [0, 99999999999], "data": []}]}', {}, "must have 1 to 8 sizes"),
    "too many axes": (b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1,1,1,1,1,1,1,1,1], "data": [1]}]}', {}, "must have 1 to 8 sizes"),
    "values beyond a byte": (b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [2], "data": [1, 256]}]}', {}, "whole numbers from 0 to 255"),
    "values that are text": (b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [2], "data": ["a", "b"]}]}', {}, "whole numbers from 0 to 255"),
    "ragged values": (b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [3], "data": [[1], [1, 2]]}]}', {}, "not numbers in equal rows"),
    "no data": (b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [3]}]}', {}, "neither 'data' nor"),
    "lying binary size": (b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [3], "parameters": {"binary_data_size": 99}}]}', {}, "announces 99 binary bytes"),
    "an image twice": (b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1], "data": [1]}, {"name": "image", "datatype": "UINT8", "shape": [1], "data": [1]}]}', {}, "twice"),
    "base64 that is none": (b'{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["***"]}]}', {}, "must be base64"),
    "an unknown encoding": (b"{}", {"Content-Encoding": "br"}, "'br' is not known"),
    "no gzip": (b"{}", {"Content-Encoding": "gzip"}, "the body is not gzip"),
    "negative classes": (b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1], "data": [1]}], "outputs": [{"name": "probabilities", "parameters": {"classification": -1}}]}', {}, "a number of classes"),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_request_is_refused_in_one_sentence(server: ServerProcess, case: str) -> None:
    body, headers, words = MALFORMED[case]
    url = f"{server.url}/v2/models/toy-classify/infer"
    answer = requests.post(url, data=body, headers=headers, timeout=SECONDS)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert words in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert requests.get(f"{server.url}/v2/health/ready", timeout=SECONDS).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("DELETE", "/v2/models/toy-classify/infer", 405, "takes POST, not DELETE"),
        ("GET", "/nothing", 404, "there is nothing at /nothing"),
        ("GET", "/v2/models/nope", 404, "there is no model 'nope'"),
        ("GET", "/v2/models/..%2f..%2fetc%2fpasswd", 404, "nothing at"),
        ("GET", "/page/..%2fapp.py", 404, "nothing at"),
        ("GET", "/page/__init__.py", 404, "nothing at"),
        ("GET", "/v2/models/toy-classify/versions/2/ready", 404, "version 1 only"),
    ],
)
def test_an_unknown_path_or_method_is_said(
    server: ServerProcess, method: str, path: str, status: int, words: str
) -> None:
    answer = requests.request(method, f"{server.url}{path}", timeout=SECONDS)
    assert answer.status_code == status
    assert words in answer.json()["error"]


# gRPC alone


def test_a_stream_of_requests_is_answered_one_by_one(
    server: ServerProcess, classify_bundle: Path
) -> None:
    import queue

    client = Client("grpc", server, classify_bundle)
    answers: queue.Queue[Any] = queue.Queue()
    client.client.start_stream(callback=lambda result, error: answers.put((result, error)))
    try:
        for name in ("toy-classify", "nope", "toy-classify"):
            tensor = client.module.InferInput("image", [2, 8, 8, 3], "UINT8")
            tensor.set_data_from_numpy(client.pixels)
            client.client.async_stream_infer(name, [tensor])
        found = [answers.get(timeout=SECONDS) for _ in range(3)]
    finally:
        client.client.stop_stream()
    assert found[0][0].as_numpy("probabilities").shape == (2, 3)
    assert "there is no model 'nope'" in str(found[1][1])
    assert found[2][0].as_numpy("probabilities").shape == (2, 3)


def test_typed_contents_are_read_as_raw_ones(server: ServerProcess, classify_bundle: Path) -> None:
    import grpc
    from tritonclient.grpc import service_pb2_grpc

    messages: Any = importlib.import_module("tritonclient.grpc.service_pb2")
    client = Client("grpc", server, classify_bundle)
    with grpc.insecure_channel(server.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = messages.ModelInferRequest(model_name="toy-classify")
        tensor = request.inputs.add(name="image", datatype="UINT8", shape=client.pixels.shape)
        tensor.contents.uint_contents.extend(client.pixels.ravel().tolist())
        answer = stub.ModelInfer(request)
        values = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(2, 3)
        np.testing.assert_allclose(values, client.expected["probabilities"], atol=1e-6)
        request.raw_input_contents.extend([b"1", b"2"])
        with pytest.raises(grpc.RpcError, match="1 inputs, but 2 raw contents"):
            stub.ModelInfer(request)
