"""Prototypes: means of embeddings by class, saved, extended, and refused where they do not fit.

The embedding of the toy bundle is the mean colour in 0..1, so that answers are known by heart.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from dlcv.runtime import Predictor, Prototypes, load
from dlcv.runtime.bundle.schema import Preprocessing
from dlcv.runtime.errors import BundleError, ImageError, InputError
from dlcv.runtime.fewshot.distance import COSINE_SCALE
from dlcv.runtime.fewshot.prototypes import PrototypeClassifier
from dlcv.runtime.fewshot.support import support_images
from dlcv.runtime.images import Source
from dlcv.runtime.results import Refused

NewPhoto = Callable[..., Path]
RED, LIME = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)


@pytest.fixture(scope="module")
def predictor(classify_bundle: Path) -> Iterator[Predictor]:
    with load(classify_bundle, engine="ort", outputs=("embedding",)) as loaded:
        yield loaded


@pytest.fixture
def support(new_photo: NewPhoto, tmp_path: Path) -> Path:
    for name, colors in {"warm": ("red", "yellow"), "cold": ("blue",)}.items():
        for number, color in enumerate(colors):
            new_photo(f"support/{name}/{number}.png", color=color)
    return tmp_path / "support"


def image(*color: float) -> np.ndarray:
    return np.full((8, 8, 3), np.array(color) * 255, np.uint8)


def test_a_prototype_is_the_mean_of_embeddings_of_length_one(
    predictor: Predictor, support: Path
) -> None:
    made = Prototypes.fit(predictor, support)
    assert (made.names, made.counts) == (("cold", "warm"), (1, 2))
    half = 0.5 * np.sqrt(0.5)  # yellow is red and green
    np.testing.assert_allclose(made.vectors, [[0, 0, 1], [0.5 + half, half, 0]], atol=1e-6)


def test_probabilities_are_a_softmax_over_cosines(predictor: Predictor) -> None:
    made = Prototypes.fit(predictor, {"red": [image(*RED)], "lime": [image(*LIME)]})
    (answer,) = made.predict(predictor, image(1.0, 0.4, 0.0))
    length = np.hypot(1.0, 0.4)
    scores = COSINE_SCALE * np.array([1.0, 0.4]) / length
    expected = np.exp(scores) / np.exp(scores).sum()
    assert answer.label.name == "red"
    np.testing.assert_allclose(answer.probabilities, expected, atol=1e-3)
    assert answer.embedding is not None


def test_many_threads_share_a_classifier(predictor: Predictor) -> None:
    made = Prototypes.fit(predictor, {"red": [image(*RED)], "lime": [image(*LIME)]})
    colors = [RED, LIME] * 20
    with PrototypeClassifier(predictor, made) as classifier, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda color: classifier(image(*color))[0].label.name, colors))
    assert answers == ["red", "lime"] * 20


def test_a_zip_is_the_same_support_as_its_folder(
    predictor: Predictor, support: Path, tmp_path: Path
) -> None:
    with ZipFile(tmp_path / "support.zip", "w") as archive:
        for file in sorted(support.rglob("*.png")):
            archive.write(file, file.relative_to(tmp_path))
    folder, packed = (
        Prototypes.fit(predictor, path) for path in (support, tmp_path / "support.zip")
    )
    assert folder.names == packed.names
    np.testing.assert_array_equal(folder.vectors, packed.vectors)


def test_what_is_saved_is_what_is_loaded(
    predictor: Predictor, support: Path, tmp_path: Path
) -> None:
    made = Prototypes.fit(predictor, support)
    made.save(tmp_path / "made.npz")
    again = Prototypes.load(tmp_path / "made.npz")
    assert (again.names, again.counts, again.made_with) == (
        made.names,
        made.counts,
        made.made_with,
    )
    np.testing.assert_array_equal(again.vectors, made.vectors)


def test_further_classes_come_besides(predictor: Predictor, support: Path) -> None:
    made = Prototypes.fit(predictor, support)
    more = made.extended(predictor, {"green": [image(*LIME)]})
    assert more.names == ("cold", "warm", "green")
    assert more.predict(predictor, [image(*LIME)])[0].label.name == "green"
    with pytest.raises(InputError, match="class 'cold' has a prototype already; take it out"):
        more.extended(predictor, support)


def test_prototypes_of_another_bundle_are_refused(
    predictor: Predictor, support: Path, new_bundle: Callable[..., Path]
) -> None:
    made = Prototypes.fit(predictor, support)
    same = new_bundle("classify", name="renamed")
    with load(same, engine="ort") as renamed:
        assert made.predict(renamed, image(*RED))[0].label.name == "warm"
    shutil.rmtree(same)
    resized = new_bundle("classify", preprocessing=Preprocessing(resize="center_crop", size=(8, 8)))
    with (
        load(resized, engine="ort") as other,
        pytest.raises(
            InputError, match=r"made with bundle 'toy-classify' .* give that bundle with"
        ),
    ):
        made.predict(other, image(*RED))


def test_unreadable_examples_are_said_and_left_out(predictor: Predictor, support: Path) -> None:
    (support / "warm" / "bad.png").write_bytes(b"no image")
    told: list[str] = []
    made = Prototypes.fit(predictor, support, on_refused=told.append)
    assert made.counts == (1, 2)
    assert len(told) == 1
    assert told[0].startswith("left out of class 'warm': warm/bad.png: ")
    with pytest.warns(UserWarning, match=r"left out of class 'warm': warm/bad\.png"):
        Prototypes.fit(predictor, support)


def test_a_class_of_one_corrupt_image_is_an_error(predictor: Predictor, support: Path) -> None:
    (support / "cold" / "0.png").write_bytes(b"no image")
    message = r"class 'cold': none of its 1 images can be read \(cold/0\.png: "
    with pytest.raises(InputError, match=message):
        Prototypes.fit(predictor, support)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: s / "cold" / "0.png", "is one image; support is a folder or ZIP with a folder"),
        (lambda s: s / "cold", r"0\.png in .* lies in no class folder; give one folder a class"),
        (lambda s: s / "none", "no data at"),
        (lambda s: (s / "empty").mkdir() or s, "class 'empty' has no images; add one, or take"),
        (
            lambda s: (s / "empty").mkdir() or s / "empty",
            "holds no images; give one folder a class",
        ),
        (lambda s: {"a": [], "b": [image(*RED)]}, "class 'a' has no images"),
        (lambda s: {"a": image(*RED)}, "class 'a' must be a list of images, not one image"),
        (lambda s: {"a": [image(*RED)]}, r"needs two or more different classes, not \['a'\]"),
        (lambda s: {}, "needs two or more different classes"),
    ],
)
def test_support_that_does_not_fit_is_refused(
    make: Callable[[Path], object], message: str, predictor: Predictor, support: Path
) -> None:
    with pytest.raises(InputError, match=message):
        Prototypes.fit(predictor, make(support))  # type: ignore[arg-type]


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no prototypes at"):
        Prototypes.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(InputError, match="is not a file of prototypes, which is an NPZ file"):
        Prototypes.load(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", vectors=np.zeros(3))
    with pytest.raises(InputError, match=r"is not a file of prototypes: .*about"):
        Prototypes.load(tmp_path / "other.npz")
    np.savez(tmp_path / "pickle.npz", about=np.array([{}], object), prototypes=np.zeros((2, 3)))
    with pytest.raises(InputError, match="is not a file of prototypes: "):
        Prototypes.load(tmp_path / "pickle.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a | {"prototypes": np.zeros((3, 3), np.float32)}, "3 prototypes for 2 classes"),
        (lambda a: a | {"prototypes": np.zeros((2, 3))}, "float32"),
        (
            lambda a: a | {"prototypes": np.full((2, 3), np.nan, np.float32)},
            "values that are not finite",
        ),
        (lambda a: a | {"about": np.array("{}")}, "missing required field"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    change: Callable[[dict[str, object]], dict[str, object]],
    message: str,
    predictor: Predictor,
    support: Path,
    tmp_path: Path,
) -> None:
    path = tmp_path / "made.npz"
    Prototypes.fit(predictor, support).save(path)
    with np.load(path) as arrays:
        changed = change(dict(arrays))
    np.savez(path, **changed)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"is not a file of prototypes: .*{message}"):
        Prototypes.load(path)


def test_streams_keep_order_and_pass_refusals_on(predictor: Predictor, support: Path) -> None:
    made = Prototypes.fit(predictor, support)
    sources: list[Source] = [image(*RED), b"no image", image(0, 0, 1)] * 5
    with PrototypeClassifier(predictor, made) as classifier:
        answers = list(classifier.stream(sources))
        with pytest.raises(ImageError, match="<8 bytes>: "):
            classifier(sources)
        assert classifier.description()["prototypes"] == classifier.description()["prototypes"]
    kinds = [a.label.name if not isinstance(a, Refused) else "refused" for a in answers]
    assert kinds == ["warm", "refused", "cold"] * 5


def test_a_bundle_without_embeddings_is_refused(segment_bundle: Path) -> None:
    with pytest.raises(BundleError, match="has no output 'embedding', only mask, confidence"):
        load(segment_bundle, engine="ort", outputs=("embedding",))
    with (
        load(segment_bundle, engine="ort") as predictor,
        pytest.raises(BundleError, match="has no embedding; load it with"),
    ):
        Prototypes.fit(predictor, {"a": [image(*RED)], "b": [image(*LIME)]})


def test_prototypes_are_refused_by_a_captioner(
    predictor: Predictor, support: Path, caption_bundle: Path
) -> None:
    made = Prototypes.fit(predictor, support)
    with (
        load(caption_bundle, engine="ort") as captioner,
        pytest.raises(InputError, match="made with bundle 'toy-classify'"),
    ):
        made.predict(captioner, image(*RED))


def test_names_of_a_folder_come_sorted_and_deeper_folders_count(support: Path) -> None:
    (support / "cold").rename(support / "inner")
    (support / "cold").mkdir()
    (support / "inner").rename(support / "cold" / "blue")
    assert list(support_images(support)) == ["blue", "warm"]
    assert json.dumps([i.name for i in support_images(support)["blue"]]) == ('["cold/blue/0.png"]')


def test_folders_that_are_called_alike_are_classes_of_their_own(new_photo: NewPhoto) -> None:
    for folder in ("greek/one", "latin/one", "latin/two"):
        new_photo(f"letters/{folder}/a.png")
    letters = new_photo("letters/latin/two/b.png").parents[2]
    assert list(support_images(letters)) == ["greek/one", "latin/one", "two"]
    assert list(support_images(letters, within=["latin"])) == ["one", "two"]
    with pytest.raises(InputError, match="letters has no class folders in 'lat'"):
        support_images(letters, within=["lat"])
