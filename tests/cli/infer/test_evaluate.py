"""`dlcv-infer evaluate` scores, draws and records; what does not fit is one sentence before the work."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dlcv.cli.infer.app import app
from dlcv.export.precision.card import card_with_precisions
from dlcv.runtime import plot
from dlcv.runtime.bundle import open_bundle
from dlcv.runtime.errors import InputError, OutputError

PAIRS = ("--pairs", "{}_sat.jpg", "{}_mask.png")
LEFT, RIGHT = np.s_[:, :16], np.s_[:, 16:]


def infer(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments), "-e", "ort"])


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two photos, red at the left and green at the right, whose masks lack some of it and have what is of no class."""
    folder = tmp_path / "land-cover"
    folder.mkdir()
    for name in ("0001", "0002"):
        photo = np.zeros((32, 32, 3), np.uint8)
        photo[LEFT], photo[RIGHT] = (200, 0, 0), (0, 200, 0)
        mask = np.zeros((32, 32, 3), np.uint8)
        mask[LEFT], mask[RIGHT] = (255, 0, 0), (0, 255, 0)
        mask[:8, :16] = (0, 0, 255)  # labelled blue, answered red
        mask[24:] = 0
        mask[31, 31] = (9, 9, 9)
        Image.fromarray(photo).save(folder / f"{name}_sat.jpg", quality=95)
        Image.fromarray(mask).save(folder / f"{name}_mask.png")
    return folder


def test_masks_coded_by_color_are_scored_and_stray_pixels_told_once(
    segment_bundle: Path, pairs: Path
) -> None:
    ran = infer(segment_bundle, pairs, *PAIRS, "-f", "json")
    assert ran.exit_code == 0, ran.stderr
    record = json.loads(ran.stdout)
    assert record["iou"] == {"red": pytest.approx(16 / 24), "green": 1.0, "blue": 0.0}
    assert record["mean_iou"] == pytest.approx(5 / 9)
    note = "512 mask pixels are of no class and are ignored: 510 of color (0, 0, 0), 2 of color (9"
    assert ran.stderr.count(note) == 1
    assert record["notes"][0].startswith(note)


def test_the_score_is_recorded_and_shown(
    new_bundle: Callable[..., Path], pairs: Path, tmp_path: Path
) -> None:
    bundle = new_bundle("segment")
    for options in ([], ["--data-name", "held-out land cover"]):
        ran = infer(bundle, pairs, *PAIRS, "--record", *options)
        assert ran.exit_code == 0, ran.stderr
    manifest = open_bundle(bundle).manifest
    deployed = manifest.graphs["model"].variants["fp32"].deployed
    assert [d.data for d in deployed] == ["land-cover", "held-out land cover"]
    assert str(tmp_path) not in (bundle / "manifest.json").read_text()
    text = CliRunner().invoke(app, ["info", str(bundle)]).stdout
    assert "mean_iou 0.5556 on 2 images of held-out land cover, on ort " in text
    card = card_with_precisions("# toy\n\n## Metrics\n\nNone.\n\n## Limits\n\nMany.\n", manifest)
    assert "| mean_iou, fp32 graph | 0.5556 | 2 images of land-cover, on ort " in card
    assert "None." not in card


def test_the_confusion_matrix_is_a_table_or_a_picture(
    segment_bundle: Path, pairs: Path, tmp_path: Path
) -> None:
    for name in ("c.csv", "c.png"):
        assert not infer(segment_bundle, pairs, *PAIRS, "--confusion", tmp_path / name).exit_code
    assert (tmp_path / "c.csv").read_text().splitlines()[1] == "red,512,0,0"
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.size > (700, 700)


def test_what_cannot_be_written_is_said_before_the_work(
    segment_bundle: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(pairs)  # so that the work would fail

    def error(*arguments: object) -> str:
        found = infer(*arguments).exception
        assert isinstance(found, (InputError, OutputError))
        return str(found)

    assert "ships with dlcv and stays as it is" in error("camvid-lraspp", pairs, "--record")
    assert "give both or neither" in error(segment_bundle, pairs, "--data-name", "x")
    assert ".csv or .png, not as c.txt" in error(segment_bundle, pairs, "--confusion", "c.txt")
    monkeypatch.setattr(plot, "is_importable", lambda _: False)
    assert "dlcv[plot]" in error(segment_bundle, pairs, "--confusion", tmp_path / "c.png")
