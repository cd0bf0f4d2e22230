"""A predictor gives the right answer for every image, in order, whatever the batches."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dlcv
from dlcv.runtime import Classification, Embedding, Predictor, Refused, Segmentation, open_bundle
from dlcv.runtime.engines import EngineOptions, load_engine
from dlcv.runtime.engines.fake import FakeEngine
from dlcv.runtime.errors import (
    AnswerError,
    BundleError,
    EngineError,
    EngineUnavailableError,
    ImageError,
    InputError,
)

NewPhoto = Callable[..., Path]
COLORS = ("red", "lime", "blue")
NAMES = ("red", "green", "blue")


def test_any_kind_of_source_gives_the_same_answer(
    classify_bundle: Path, new_photo: NewPhoto
) -> None:
    path = new_photo("a.png", color="blue")
    sources: list[Any] = [
        path,
        str(path),
        path.read_bytes(),
        Image.open(path),
        np.asarray(Image.open(path)),
    ]
    with dlcv.load(classify_bundle, engine="ort") as model:
        results = model(sources)
        assert [model(source)[0].frame.size for source in sources] == [(30, 40)] * 5
    assert all(isinstance(r, Classification) and r.label.name == "blue" for r in results)
    assert all(r.engine.startswith("ort ") and r.engine.endswith(" cpu fp32") for r in results)


def test_a_classification_holds_every_output(classify_bundle: Path) -> None:
    with dlcv.load(classify_bundle) as model:
        (result,) = model(np.full((8, 8, 3), (255, 0, 51), np.uint8))
    assert isinstance(result, Classification)
    scores = np.exp([10, 0, 2])
    np.testing.assert_allclose(result.probabilities, scores / scores.sum(), rtol=1e-5)
    assert result.embedding is not None
    assert result.explanation is not None
    assert result.attention is not None
    np.testing.assert_allclose(result.embedding, np.array([1, 0, 0.2]), rtol=1e-6)
    np.testing.assert_allclose(result.explanation, np.full((8, 8), 0.4), rtol=1e-6)
    assert result.attention.shape == (3, 8, 8)
    assert [label.name for label in result.top(2)] == ["red", "blue"]


def test_a_mask_has_the_size_of_the_original_image(segment_bundle: Path) -> None:
    image = np.zeros((50, 100, 3), np.uint8)
    image[:, :50, 1] = 200
    image[:, 50:, 2] = 100
    with dlcv.load(segment_bundle) as model:
        (result,) = model(image)
    assert isinstance(result, Segmentation)
    assert result.graph_mask.shape == (16, 32)
    assert result.mask.shape == (50, 100)
    assert result.confidence is not None
    assert (result.mask[:, :40] == 1).all()
    assert (result.mask[:, 60:] == 2).all()
    np.testing.assert_allclose(result.confidence[:, 80], 100 / 255, rtol=1e-3)
    assert result.shares == {"green": 0.5, "blue": 0.5}


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_order_is_kept_over_mixed_shapes_and_bad_files(
    segment_bundle: Path, new_photo: NewPhoto, tmp_path: Path, batch_size: int
) -> None:
    sizes = [(32, 32), (64, 32), (32, 64)]
    sources: list[Any] = []
    for number in range(50):
        if number % 7 == 3:
            sources.append(tmp_path / f"missing-{number}.png")
        else:
            sources.append(
                new_photo(f"{number}.png", color=COLORS[number % 3], size=sizes[number % 5 % 3])
            )
    with dlcv.load(segment_bundle, options=EngineOptions(batch_size=batch_size)) as model:
        results = list(model.stream(iter(sources)))
    assert [result.source for result in results] == sources
    for number, result in enumerate(results):
        if number % 7 == 3:
            assert isinstance(result, Refused)
            assert result.reason == "no such file"
        else:
            assert isinstance(result, Segmentation)
            assert result.shares == {NAMES[number % 3]: 1.0}


def test_only_the_wanted_outputs_come(classify_bundle: Path) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    with dlcv.load(classify_bundle, outputs=["probabilities"]) as model:
        (result,) = model(image)
    assert isinstance(result, Classification)
    assert result.embedding is None
    with dlcv.load(classify_bundle, outputs=["embedding"]) as model:
        (vector,) = model(image)
    assert isinstance(vector, Embedding)
    with pytest.raises(BundleError, match=r"'toy-classify' \(classify\) has no output 'mask'"):
        dlcv.load(classify_bundle, outputs=["mask"])


def test_the_first_unreadable_image_raises_when_called_but_not_when_streamed(
    classify_bundle: Path, tmp_path: Path
) -> None:
    with dlcv.load(classify_bundle) as model:
        with pytest.raises(ImageError, match=r"gone\.png: no such file"):
            model([tmp_path / "gone.png"])
        assert isinstance(next(model.stream([tmp_path / "gone.png"])), Refused)
        assert model([]) == []


def test_a_stream_reads_only_a_bounded_number_of_images_ahead(classify_bundle: Path) -> None:
    taken = 0

    def endless() -> Iterator[Any]:
        nonlocal taken
        while True:
            taken += 1
            yield np.zeros((8, 8, 3), np.uint8)

    with dlcv.load(classify_bundle, options=EngineOptions(batch_size=2)) as model:
        stream = model.stream(endless())
        for _ in range(10):
            next(stream)
        time.sleep(0.2)
        assert taken < 40
        stream.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("dlcv")]


def test_an_error_of_the_engine_reaches_the_caller(classify_bundle: Path) -> None:
    def fail(feeds: Any) -> Any:
        raise EngineError("out of memory")

    bundle = open_bundle(classify_bundle)
    model = Predictor(bundle, FakeEngine(bundle.graph(), fail))
    with pytest.raises(EngineError, match="out of memory"):
        list(model.stream([np.zeros((8, 8, 3), np.uint8)] * 20))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_an_image_whose_answer_is_no_number_is_refused_alone(
    classify_bundle: Path, wrong: float
) -> None:
    bundle = open_bundle(classify_bundle)

    def compute(feeds: Any) -> Any:
        rows = np.full((len(feeds["image"]), 3), 1 / 3, np.float32)
        rows[feeds["image"][:, 0, 0, 0] == 200, 1] = wrong
        return {"probabilities": rows}

    dark, light = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 200, np.uint8)
    with Predictor(bundle, FakeEngine(bundle.graph(), compute)) as model:
        answers = list(model.stream([dark, light, dark]))
        assert [isinstance(answer, Refused) for answer in answers] == [False, True, False]
        (refused,) = [answer for answer in answers if isinstance(answer, Refused)]
        assert "values that are not numbers (probabilities)" in refused.reason
        with pytest.raises(AnswerError, match="not numbers"):
            model.submit(light).result()


def test_a_mask_of_a_class_that_there_is_not_is_refused(segment_bundle: Path) -> None:
    bundle = open_bundle(segment_bundle)

    def compute(feeds: Any) -> Any:
        shape = feeds["image"].shape[:3]
        return {"mask": np.full(shape, 200, np.uint8), "confidence": np.ones(shape, np.float32)}

    with Predictor(bundle, FakeEngine(bundle.graph(), compute)) as model:
        (answer,) = model.stream([np.zeros((64, 64, 3), np.uint8)])
    assert isinstance(answer, Refused)
    assert "a mask with class 200" in answer.reason


def test_the_size_of_a_dynamic_graph_can_be_chosen(
    segment_bundle: Path, classify_bundle: Path
) -> None:
    with dlcv.load(segment_bundle, longest_side=63) as model:
        (result,) = model(np.zeros((100, 200, 3), np.uint8))
    assert isinstance(result, Segmentation)
    assert result.graph_mask.shape == (32, 64)
    with pytest.raises(InputError, match="runs at 8x8 only"):
        dlcv.load(classify_bundle, longest_side=64)


def test_an_engine_that_is_not_here_says_how_to_get_it(
    classify_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        EngineUnavailableError, match=r"engine 'trt' .* not installed; get it with pip install"
    ):
        dlcv.load(classify_bundle, engine="trt")


def test_an_unknown_engine_lists_those_there_are(classify_bundle: Path) -> None:
    with pytest.raises(EngineUnavailableError, match="unknown engine 'gpu'; there are auto, ort"):
        dlcv.load(classify_bundle, engine="gpu")


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "takes image; received none"),
        ({"pixels": np.zeros((1, 8, 8, 3), np.uint8)}, "takes image; received pixels"),
        ({"image": np.zeros((1, 8, 8, 3), np.float32)}, r"received float32 \(1, 8, 8, 3\)"),
        ({"image": np.zeros((1, 9, 8, 3), np.uint8)}, r"received uint8 \(1, 9, 8, 3\)"),
        ({"image": np.zeros((0, 8, 8, 3), np.uint8)}, r"received uint8 \(0, 8, 8, 3\)"),
        ({"image": np.zeros((8, 8, 3), np.uint8)}, r"received uint8 \(8, 8, 3\)"),
    ],
)
def test_arrays_are_checked_before_the_engine_sees_them(
    classify_bundle: Path, feeds: dict[str, Any], message: str
) -> None:
    with (
        load_engine(open_bundle(classify_bundle), "ort") as engine,
        pytest.raises(InputError, match=message),
    ):
        engine.infer(feeds)
