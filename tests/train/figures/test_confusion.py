import csv

import pytest

from dlcv.runtime.errors import OutputError
from dlcv.train.figures.confusion import iou_figure, write_iou

SCORES = {"road": 0.5, "sky": None}


def test_a_class_that_does_not_occur_says_so():
    axes = iou_figure(SCORES, mean=0.5, title="toy").axes[0]
    assert [bar.get_bbox().width for bar in axes.patches] == [0.5, 0]  # type: ignore[attr-defined]
    assert [t.get_text() for t in axes.child_axes[0].get_yticklabels()] == [
        "0.500",
        "does not occur",
    ]


def test_iou_as_csv_leaves_absent_classes_empty(tmp_path):
    write_iou(tmp_path / "new/iou.csv", SCORES, mean=0.5)
    rows = list(csv.reader((tmp_path / "new/iou.csv").read_text().splitlines()))
    assert rows == [["class", "iou"], ["road", "0.5000"], ["sky", ""], ["mean", "0.5000"]]


def test_a_csv_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        write_iou(tmp_path / "file/iou.csv", SCORES, mean=0.5)
