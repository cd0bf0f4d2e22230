"""What all tests share: marks by folder and where the datasets are."""

import ctypes
import io
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from PIL import Image

from dlcv.runtime.bundle import save_bundle
from dlcv.runtime.bundle.manifest import Manifest
from dlcv.runtime.bundle.schema import (
    ClassInfo,
    FileEntry,
    Graph,
    ParityReport,
    Preprocessing,
    Provenance,
    TensorSpec,
    Variant,
)
from dlcv.runtime.caption.vocabulary import vocabulary_from_captions

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent
FOLDERS_WITH_MARK = {"runtime", "train", "export", "cli", "gpu"}


def pytest_configure() -> None:
    """Let Ctrl-C be heard by the processes that tests start, also where a shell started pytest in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the folders that it lies in; skip those for a GPU where there is none."""
    no_gpu = pytest.mark.skip(reason="needs a GPU: the NVIDIA driver (libcuda.so.1) is not here")
    for item in items:
        if not item.path.is_relative_to(TESTS):
            continue
        for name in FOLDERS_WITH_MARK.intersection(item.path.relative_to(TESTS).parts):
            item.add_marker(name)
        if item.get_closest_marker("gpu") and not _has_nvidia_driver():
            item.add_marker(no_gpu)


def _has_nvidia_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.fixture(scope="session", autouse=True)
def cache_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give all tests one cache folder of their own; that of the user is neither read nor written."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("DLCV_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def bundles_of_tests() -> Iterator[None]:
    """Let `cifar10-vit`, a small bundle of tests, be opened by its name, as if a package had brought it."""
    folder = str(TESTS / "bundles")
    paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))  # for processes that tests start
        yield


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder with the datasets: DLCV_DATA, or shared/data beside the repository."""
    root = Path(os.environ.get("DLCV_DATA") or REPOSITORY.parent / "shared" / "data")
    if not root.is_dir():
        pytest.skip(f"no datasets at {root}; set DLCV_DATA to the folder that holds them")
    return root


# Toy bundles: graphs small enough to know the answers by heart. Classes are red, green and blue.


def _classify_graph() -> onnx.GraphProto:
    """Embedding: mean colour in 0..1. Probabilities: softmax of ten times that. Maps: brightness."""
    make = onnx.helper.make_node
    return onnx.helper.make_graph(
        [
            make("Cast", ["image"], ["pixels"], to=onnx.TensorProto.FLOAT),
            make("Div", ["pixels", "full"], ["unit"]),
            make("ReduceMean", ["unit", "hw"], ["embedding"], keepdims=0),
            make("Mul", ["embedding", "ten"], ["logits"]),
            make("Softmax", ["logits"], ["probabilities"], axis=1),
            make("ReduceMean", ["unit", "c"], ["explanation"], keepdims=0),
            make("Transpose", ["unit"], ["attention"], perm=[0, 3, 1, 2]),
        ],
        "toy-classify",
        [_value("image", onnx.TensorProto.UINT8, ["batch", 8, 8, 3])],
        [
            _value("probabilities", onnx.TensorProto.FLOAT, ["batch", 3]),
            _value("embedding", onnx.TensorProto.FLOAT, ["batch", 3]),
            _value("explanation", onnx.TensorProto.FLOAT, ["batch", 8, 8]),
            _value("attention", onnx.TensorProto.FLOAT, ["batch", 3, 8, 8]),
        ],
        _constants(full=np.float32(255), ten=np.float32(10), hw=np.array([1, 2]), c=np.array([3])),
    )


def _segment_graph() -> onnx.GraphProto:
    """Mask: the strongest channel. Confidence: its value in 0..1."""
    make = onnx.helper.make_node
    return onnx.helper.make_graph(
        [
            make("Cast", ["image"], ["pixels"], to=onnx.TensorProto.FLOAT),
            make("ArgMax", ["pixels"], ["strongest"], axis=3, keepdims=0),
            make("Cast", ["strongest"], ["mask"], to=onnx.TensorProto.UINT8),
            make("ReduceMax", ["pixels", "c"], ["highest"], keepdims=0),
            make("Div", ["highest", "full"], ["confidence"]),
        ],
        "toy-segment",
        [_value("image", onnx.TensorProto.UINT8, ["batch", "height", "width", 3])],
        [
            _value("mask", onnx.TensorProto.UINT8, ["batch", "height", "width"]),
            _value("confidence", onnx.TensorProto.FLOAT, ["batch", "height", "width"]),
        ],
        _constants(full=np.float32(255), c=np.array([3])),
    )


def _value(name: str, dtype: int, shape: list[Any]) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, dtype, shape)


def _constants(**arrays: Any) -> list[onnx.TensorProto]:
    return [onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()]


def toy_model(task: str) -> bytes:
    """Return the serialised graph of a toy bundle."""
    graph = {"classify": _classify_graph, "segment": _segment_graph}[task]()
    opset = [onnx.helper.make_opsetid("", 18)]
    model: bytes = onnx.helper.make_model(
        graph, opset_imports=opset, ir_version=10
    ).SerializeToString()
    return model


def toy_manifest(task: str) -> Manifest:
    """Return the manifest of a toy bundle, without its files' hashes."""
    shapes: dict[str, dict[str, tuple[int | str, ...]]] = {
        "classify": {
            "image": ("batch", 8, 8, 3),
            "probabilities": ("batch", 3),
            "embedding": ("batch", 3),
            "explanation": ("batch", 8, 8),
            "attention": ("batch", 3, 8, 8),
        },
        "segment": {
            "image": ("batch", "height", "width", 3),
            "mask": ("batch", "height", "width"),
            "confidence": ("batch", "height", "width"),
        },
    }
    specs = tuple(
        TensorSpec(name=n, dtype="uint8" if n in ("image", "mask") else "float32", shape=shape)
        for n, shape in shapes[task].items()
    )
    colors = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
    parity = ParityReport(
        reference="arithmetic", engine="ort", images="none", input_shapes=(), outputs={}
    )
    no_file = FileEntry(sha256="0" * 64, size_bytes=0)
    return Manifest(
        schema_version=2,
        name=f"toy-{task}",
        task=task,  # type: ignore[arg-type]
        description="A toy for tests.",
        licence="CC0-1.0",
        classes=tuple(ClassInfo(name=name, color=color) for name, color in colors.items()),
        preprocessing=(
            Preprocessing(resize="stretch", size=(8, 8))
            if task == "classify"
            else Preprocessing(resize="longest_side", size=(32, 32), multiple=8)
        ),
        graphs={
            "model": Graph(
                inputs=specs[:1],
                outputs=specs[1:],
                variants={"fp32": Variant(file="model.onnx", opset=18, parity=parity)},
            )
        },
        golden=("golden/0.npz",),
        metrics=(),
        provenance=Provenance(source="tests", created="2026-11-21T00:00:00Z", libraries={}),
        files={"model.onnx": no_file, "golden/0.npz": no_file},
    )


def toy_golden(task: str) -> bytes:
    """Return a golden case of a toy bundle, its outputs computed with numpy."""
    image = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    unit = image.astype(np.float32) / 255
    embedding = unit.mean((1, 2))
    scores = np.exp(10 * embedding)
    outputs = {
        "classify": {
            "probabilities": scores / scores.sum(1, keepdims=True),
            "embedding": embedding,
            "explanation": unit.mean(3),
            "attention": unit.transpose(0, 3, 1, 2),
        },
        "segment": {"mask": image.argmax(3).astype(np.uint8), "confidence": unit.max(3)},
    }[task]
    buffer = io.BytesIO()
    arrays = {"input.image": image} | {f"output.{k}": v for k, v in outputs.items()}
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def save_toy_bundle(folder: Path, task: str, **changes: Any) -> Path:
    """Write a toy bundle; `changes` replace fields of its manifest."""
    manifest = msgspec.structs.replace(toy_manifest(task), **changes)
    files = {"model.onnx": toy_model(task), "golden/0.npz": toy_golden(task)}
    return save_bundle(folder, manifest, files=files).path


@pytest.fixture(scope="session")
def classify_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of red, green and blue images with an explanation and attention. Read only."""
    return save_toy_bundle(tmp_path_factory.mktemp("bundles") / "toy-classify", "classify")


@pytest.fixture(scope="session")
def segment_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmenter of red, green and blue pixels, of dynamic size. Read only."""
    return save_toy_bundle(tmp_path_factory.mktemp("bundles") / "toy-segment", "segment")


# A toy captioner: "a red wall", whatever the colour of the image; words are Gathered by their position.

TOY_VOCABULARY = vocabulary_from_captions(["a red wall", "a green wall", "a blue wall"], size=9)
_CAPTION_SHAPES: dict[str, tuple[int | str, ...]] = {
    "image": ("batch", 8, 8, 3),
    "token": ("batch",),
    "position": ("batch",),
    "cache": ("batch", 1, 2, 1, 6, 1),
    "memory": ("batch", 1, 2, 1, 1, 3),
    "logits": ("batch", 9),
    "next_cache": ("batch", 1, 2, 1, 6, 1),
    "attention": ("batch", 2, 2),
}
_CAPTION_GRAPHS = {
    "encoder": (("image",), ("memory",)),
    "decoder": (
        ("token", "position", "cache", "memory"),
        ("logits", "next_cache", "attention"),
    ),
}


def _caption_nodes(graph: str) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    make = onnx.helper.make_node
    if graph == "encoder":
        return [
            make("Cast", ["image"], ["pixels"], to=onnx.TensorProto.FLOAT),
            make("ReduceMean", ["pixels", "hw"], ["color"], keepdims=0),
            make("Unsqueeze", ["color", "axes"], ["keys"]),
            make("Concat", ["keys", "keys"], ["memory"], axis=2),
        ], {"hw": np.array([1, 2]), "axes": np.array([1, 2, 3, 4])}
    said = [TOY_VOCABULARY.tokens(text)[0] for text in ("a", "wall")]
    table = np.full((6, 9), -1000, np.float32)
    for position, token in enumerate((said[0], None, said[1], *[TOY_VOCABULARY.end] * 3)):
        table[position, TOY_VOCABULARY.tokens("red green blue") if token is None else token] = 0
    colors = np.zeros((3, 9), np.float32)
    colors[range(3), TOY_VOCABULARY.tokens("red green blue")] = 0.1
    looks = np.eye(6, 4, dtype=np.float32).reshape(6, 2, 2)
    return [
        make("Gather", ["table", "position"], ["likely"], axis=0),
        make("ReduceMean", ["memory", "inner"], ["color"], keepdims=0),
        make("MatMul", ["color", "colors"], ["seen"]),
        make("Add", ["likely", "seen"], ["logits"]),
        make("Cast", ["token"], ["number"], to=onnx.TensorProto.FLOAT),
        make("Reshape", ["number", "six"], ["entry"]),
        make("Add", ["cache", "entry"], ["next_cache"]),
        make("Gather", ["looks", "position"], ["attention"], axis=0),
    ], {
        "table": table,
        "colors": colors,
        "inner": np.array([1, 2, 3, 4]),
        "six": np.array([-1, 1, 1, 1, 1, 1]),
        "looks": looks,
    }


def _caption_spec(name: str) -> TensorSpec:
    dtype = {"image": "uint8", "token": "int32", "position": "int32"}.get(name, "float32")
    return TensorSpec(name=name, dtype=dtype, shape=_CAPTION_SHAPES[name])  # type: ignore[arg-type]


def _caption_model(graph: str) -> bytes:
    types = {
        "uint8": onnx.TensorProto.UINT8,
        "int32": onnx.TensorProto.INT32,
        "float32": onnx.TensorProto.FLOAT,
    }
    ends = [
        [_value(s.name, types[s.dtype], list(s.shape)) for s in map(_caption_spec, names)]
        for names in _CAPTION_GRAPHS[graph]
    ]
    nodes, constants = _caption_nodes(graph)
    inputs, outputs = ends
    made = onnx.helper.make_graph(nodes, f"toy-{graph}", inputs, outputs, _constants(**constants))
    opset = [onnx.helper.make_opsetid("", 18)]
    model: bytes = onnx.helper.make_model(
        made, opset_imports=opset, ir_version=10
    ).SerializeToString()
    return model


@pytest.fixture(scope="session")
def caption_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A captioner that says "a red wall", "a green wall" or "a blue wall". Read only."""
    files = {f"{name}.onnx": _caption_model(name) for name in _CAPTION_GRAPHS}
    files["tokenizer.json"] = TOY_VOCABULARY.to_json()
    toy = toy_manifest("classify")
    parity = toy.graphs["model"].variants["fp32"].parity
    manifest = msgspec.structs.replace(
        toy,
        name="toy-caption",
        task="caption",
        classes=(),
        golden=(),
        files={name: FileEntry(sha256="0" * 64, size_bytes=0) for name in files},
        tokenizer="tokenizer.json",
        graphs={
            name: Graph(
                inputs=tuple(map(_caption_spec, inputs)),
                outputs=tuple(map(_caption_spec, outputs)),
                variants={"fp32": Variant(file=f"{name}.onnx", opset=18, parity=parity)},
            )
            for name, (inputs, outputs) in _CAPTION_GRAPHS.items()
        },
    )
    return save_bundle(
        tmp_path_factory.mktemp("bundles") / "toy-caption", manifest, files=files
    ).path


@pytest.fixture
def new_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Write a toy bundle that a test may damage: `new_bundle(task, **manifest fields)`."""
    return lambda task="classify", **changes: save_toy_bundle(tmp_path / "bundle", task, **changes)


@pytest.fixture
def new_photo(tmp_path: Path) -> Callable[..., Path]:
    """Write an image of one colour: `new_photo("a.png", color="red", size=(40, 30))`, size (W, H)."""

    def write(
        name: str, *, color: Any = "red", size: tuple[int, int] = (40, 30), **save: Any
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, color).save(path, **save)
        return path

    return write
