"""300 photos of many sizes, through the graph that resizes by itself and over the host."""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from dlcv.export.any_size.compose import RESIZED, resized_spec, resizing_model
from dlcv.export.any_size.gate import Photo, photos_from
from dlcv.runtime.bundle import Bundle, open_bundle
from dlcv.runtime.bundle.any_size import any_size_tensors
from dlcv.runtime.engines import EngineModel, EngineOptions, engine_entry, load_engine
from dlcv.runtime.engines.base import Engine
from dlcv.runtime.images import load_pixels


@pytest.fixture(scope="module")
def photos(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    archive = data_root / "photos" / "imagenet_sample.zip"
    if not archive.is_file():
        pytest.skip(f"no photos at {archive}")
    folder = tmp_path_factory.mktemp("photos")
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))


def telling(bundle: Bundle, engine: str) -> Engine:
    """A bundle's graph with the resize inside, which also gives the pixels that enter the network."""
    graph, own = bundle.graph(), bundle.read(bundle.variant().file)
    described = any_size_tensors(graph)
    model = EngineModel(
        onnx=resizing_model(own, graph, bundle.manifest.preprocessing),
        tensors=(*described.inputs, *described.outputs, resized_spec(graph)),
    )
    settings = {"cache": "false"} if engine == "openvino" else {}
    return engine_entry(engine).engine_class()(model, EngineOptions(settings=settings))


def answers(
    bundle: Bundle, engine: str, found: Iterator[Photo], output: str
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield by photo the differences of its pixels, the host's answer and the graph's."""
    if engine == "openvino":
        pytest.importorskip("openvino")
    with load_engine(bundle, "ort", outputs=[output]) as own, telling(bundle, engine) as graph:
        for photo in found:
            resized = load_pixels(photo.pixels, bundle.manifest.preprocessing).pixels[None]
            received = graph.infer({"image": photo.pixels[None]})
            difference = np.abs(received[RESIZED].astype(int) - resized)
            yield difference, own.infer({"image": resized})[output], received[output]


@pytest.mark.parametrize("engine", ["ort", "openvino"])
def test_300_photos_get_the_same_class(
    photos: list[Path], engine: str, record_property: Callable[[str, object], None]
) -> None:
    bundle = open_bundle("imagenet-lite0")
    found = photos_from(photos, bundle.manifest.preprocessing)
    largest, unequal, same = 0, [], 0
    for difference, expected, received in answers(bundle, engine, found, "probabilities"):
        largest = max(largest, int(difference.max()))
        unequal.append(float((difference > 0).mean()))
        same += int(expected.argmax() == received.argmax())
    words = f"{same} of {len(photos)} classes equal; {np.mean(unequal):.6f} of the values differ, by {largest} at most"
    record_property(f"any size, {engine}", words)
    print(f"{engine}: {words}")
    assert len(photos) == 300
    assert same == 300
    assert largest <= 1
    assert np.mean(unequal) < 1e-4


@pytest.mark.parametrize("engine", ["ort", "openvino"])
def test_20_photos_get_the_same_mask(photos: list[Path], engine: str) -> None:
    bundle = open_bundle("voc-deeplab")
    found = photos_from(photos[::15], bundle.manifest.preprocessing)
    for difference, expected, received in answers(bundle, engine, found, "mask"):
        assert not difference.any()
        assert np.mean(expected == received) > 0.999
