"""Bundles as plain text: columns fit what stands in them."""

from dataclasses import replace

import msgspec
import pytest

from dlcv.runtime.bundle import open_bundle
from dlcv.runtime.bundle.report import table, text_from_bundle
from dlcv.runtime.bundle.schema import Metric

ROWS = [("a", "one two three four five six"), ("a longer name", "seven")]


def test_the_columns_of_a_table_fit_their_longest_cells() -> None:
    assert table(ROWS) == ["a              one two three four five six", "a longer name  seven"]


def test_a_table_with_a_width_wraps_its_last_column_under_itself() -> None:
    assert table(ROWS, width=35) == [
        "a              one two three four",
        "               five six",
        "a longer name  seven",
    ]


def test_a_table_keeps_a_readable_last_column_on_a_narrow_terminal() -> None:
    assert table(ROWS, width=1) == table(ROWS, width=35)


def test_an_empty_last_cell_is_still_a_line() -> None:
    assert table([("a", ""), ("b", "text")], width=80) == ["a", "b  text"]


@pytest.mark.parametrize("metric", ["top1", "iou.a_class_with_a_long_name"])
def test_the_facts_of_a_bundle_start_in_one_column_however_long_a_metric_is(metric: str) -> None:
    bundle = open_bundle("cifar10-vit")
    metrics = (Metric(name=metric, value=0.5, data="some images"),)
    changed = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, metrics=metrics))
    lines = text_from_bundle(changed).splitlines()
    (line,) = (line for line in lines if line.startswith(metric))
    assert line.index("0.5000") == lines[0].index("cifar10-vit")
