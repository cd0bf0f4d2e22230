"""Confusion matrices are drawn as shares of each true class."""

import csv

import numpy as np
import pytest
from PIL import Image

from dlcv.runtime.errors import InputError, OutputError
from dlcv.runtime.evaluate.confusion_matrix import (
    confusion_figure,
    require_confusion_file,
    save_confusion,
)
from dlcv.runtime.machine import system

MATRIX = np.array([[3, 1], [0, 0]])
NAMES = ("cat", "dog")


def test_a_confusion_matrix_shows_shares_of_each_true_class():
    axes = confusion_figure(MATRIX, NAMES, title="toy").axes[0]
    shown = axes.images[0].get_array()
    assert shown is not None
    np.testing.assert_equal(np.ma.filled(shown, np.nan), [[0.75, 0.25], [np.nan, np.nan]])
    assert [text.get_text() for text in axes.texts] == ["75%", "25%"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["cat", "dog"]


def test_fifty_classes_get_colours_without_numbers():
    names = [f"class {i}" for i in range(50)]
    axes = confusion_figure(np.eye(50, dtype=np.int64), names, title="toy").axes[0]
    assert len(axes.get_xticklabels()) == 50
    assert not axes.texts


def test_the_file_s_name_says_what_is_written(tmp_path):
    for name in ("new/c.csv", "new/c.PNG"):
        save_confusion(tmp_path / name, MATRIX, names=NAMES, title="toy")
    rows = list(csv.reader((tmp_path / "new/c.csv").read_text().splitlines()))
    assert rows == [["label", "cat", "dog"], ["cat", "3", "1"], ["dog", "0", "0"]]
    with Image.open(tmp_path / "new/c.PNG") as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture.convert("L")).std() > 10


def test_another_file_or_a_missing_matplotlib_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"as .csv or .png, not as c.txt"):
        require_confusion_file(tmp_path / "c.txt")
    monkeypatch.setattr(system, "is_importable", lambda _: False)
    with pytest.raises(InputError, match=r"pip install 'dlcv\[plot\]'"):
        require_confusion_file(tmp_path / "c.png")
    require_confusion_file(tmp_path / "c.csv")


def test_a_picture_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        save_confusion(tmp_path / "file/c.png", MATRIX, names=NAMES, title="toy")
