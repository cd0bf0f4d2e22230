"""The page is current, stands on valid records, and says what was trained and what was not."""

from pathlib import Path

import msgspec
import pytest

from dlcv.export.systems.page import page
from dlcv.export.systems.records import (
    Exported,
    Ran,
    Record,
    Scores,
    Training,
    load_records,
    save_record,
)
from dlcv.export.systems.rows import load_reports
from dlcv.runtime.bundle.schema import OutputParity, ParityReport
from dlcv.runtime.errors import InputError
from dlcv.train.recipe import builtin_recipes

DOCS = Path(__file__).resolve().parents[3] / "docs"
ROWS = """
- id: Z
  title: Toys
  rows:
    - {id: Z1, system: A segmenter, reported: mIoU .5, iou: {sky: .6, road: .4}, recipes: [big], reduced: [small], here: Less data.}
    - {id: Z2, system: A picture, reported: picture, shown: by hand}
"""


def new_record(recipe: str, *, trained: bool = True) -> Record:
    difference = OutputParity(max_difference=1.0, mean_difference=1e-6, agreement=0.99999)
    parity = ParityReport(
        reference="PyTorch",
        engine="ort",
        images="samples",
        input_shapes=(),
        outputs={"mask": difference, "confidence": difference},
    )
    scores = Scores(images=10, accuracy=0.7, mean_iou=0.55, by_class={"sky": 0.65, "road": 0.45})
    ran = Ran(engine="ort", version="1", device="cpu", precision="fp32", scores=scores)  # fmt: skip
    return Record(
        recipe=recipe,
        description="A toy",
        task="segment",
        network="toy",
        parameters=1234,
        data="Ten photos.",
        start="random numbers",
        created="2026-11-23T00:00:00+00:00",
        machine="A machine",
        versions={"torch": "2"},
        commands=("dlcv-train fit toy",),
        training=Training(epochs=9, ran=4, kept=3, minutes=12.4, validation={3: 0.5}) if trained else None,
        checkpoint=scores if trained else None,
        exported=Exported(size_bytes=12_345_678, seconds=8, peak_bytes=2 * 10**9, parity=parity),
        ran=(ran,) if trained else (),
        built=(),
    )  # fmt: skip


@pytest.fixture
def docs(tmp_path):
    (tmp_path / "systems.yaml").write_text(ROWS)
    save_record(tmp_path / "runs", new_record("big", trained=False))
    save_record(tmp_path / "runs", new_record("small"))
    return tmp_path


def test_the_page_of_systems_is_current():
    assert (DOCS / "systems.md").read_text() == page(DOCS), (
        "docs/systems.md is stale: run make systems"
    )


def test_every_row_names_recipes_that_exist():
    rows = [row for report in load_reports(DOCS / "systems.yaml") for row in report.rows]
    assert len({row.id for row in rows}) == len(rows)
    for row in rows:
        assert {*row.recipes, *row.reduced} <= set(builtin_recipes()), row.id


def test_reported_means_are_those_of_their_classes():
    rows = {row.id: row for report in load_reports(DOCS / "systems.yaml") for row in report.rows}
    for name, mean in (("C5", 0.676), ("C6", 0.714)):
        values = rows[name].iou.values()
        assert sum(values) / len(values) == pytest.approx(mean, abs=6e-4)


def test_the_figure_reached_stands_beside_the_one_reported(docs):
    lines = page(docs).splitlines()
    (big,) = [line for line in lines if line.startswith("| Z1 | A segmenter")]
    assert big.startswith(
        "| Z1 | A segmenter | [`big`](#big) | not trained here | mIoU .5 | 12.3 MB | 99.9990 % | parity only | not run |"
    )
    (small,) = [line for line in lines if "[`small`](#small) (reduced)" in line]
    assert "| **.550** |" in small
    assert "| Z2 | A picture | picture | by hand |" in lines


def test_a_few_shot_run_has_its_interval_and_a_row_by_shots(docs):
    shots = {"1-shot": 0.361, "5-shot": 0.49}
    intervals = {f"{name} ±": 0.007 for name in shots}
    scores = Scores(images=1200, accuracy=0.361, interval=0.007, shots=shots, intervals=intervals)
    record = msgspec.structs.replace(
        new_record("small"),
        task="embed",
        checkpoint=scores,
        ran=(Ran(engine="ort", version="1", device="cpu", precision="fp32", scores=scores, agreement=1.0),),
    )  # fmt: skip
    save_record(docs / "runs", record)
    text = page(docs)
    assert "| **.361 ± .007** |" in text
    assert "| accuracy, 95 % interval | 1-shot | 5-shot |" in text
    assert "| `small` | .361 ± .007 | .490 ± .007 |" in text
    assert "accuracy **0.3610** ± .007 on 1,200 images" in text
    assert "fp32 (100 % of its answers are the checkpoint's)." in text


def test_scores_need_a_figure_that_stands_for_all():
    with pytest.raises(msgspec.ValidationError, match="scores need one of mean_iou, probe_acc"):
        msgspec.convert({"images": 3}, Scores)


def test_iou_by_class_has_the_reported_columns(docs):
    text = page(docs)
    assert "| IoU | Z1, reported | `small` |" in text
    assert "| sky | .600 | .650 |" in text
    assert "| **mean** | **.500** | **.550** |" in text


def test_a_run_says_how_it_went_and_an_untrained_one_that_it_did_not(docs):
    text = page(docs)
    assert "4 epochs of at most 9 in 12 minutes; epoch 3 was kept" in text
    assert "**Not trained here**: exported with random numbers" in text
    assert (
        "Of 1 systems, 0 were trained here at full size (none), 1 more at a reduced one (Z1)"
        in text
    )


def test_a_run_of_no_row_is_refused(docs):
    save_record(docs / "runs", new_record("stray"))
    with pytest.raises(InputError, match=r"runs/stray.json is of no row; name its recipe"):
        page(docs)


def test_a_damaged_record_is_named(docs):
    (docs / "runs" / "small.json").write_text('{"recipe": "small"}')
    with pytest.raises(InputError, match=r"small.json is not a record of a run: .* `description`"):
        load_records(docs / "runs")


def test_a_renamed_record_is_refused(docs):
    (docs / "runs" / "small.json").rename(docs / "runs" / "other.json")
    with pytest.raises(InputError, match=r"other.json records small; name it small.json"):
        load_records(docs / "runs")


def test_an_unknown_key_in_the_rows_is_refused(docs):
    (docs / "systems.yaml").write_text(ROWS.replace("here:", "hear:"))
    with pytest.raises(InputError, match=r"has no rows of systems: .* unknown field `hear`"):
        load_reports(docs / "systems.yaml")


def test_a_row_without_recipes_says_how_it_is_shown(docs):
    (docs / "systems.yaml").write_text(ROWS.replace(", shown: by hand", ""))
    with pytest.raises(InputError, match="row Z2 needs either recipes or shown"):
        load_reports(docs / "systems.yaml")


def test_shares_outside_0_to_1_are_refused():
    with pytest.raises(msgspec.ValidationError, match="<= 1"):
        msgspec.convert({"images": 1, "accuracy": 73.4, "by_class": {}}, Scores)
