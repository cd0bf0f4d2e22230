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
from dlcv.export.precision.model_card import card_with_precisions
from dlcv.runtime.bundle import open_bundle
from dlcv.runtime.errors import InputError, OutputError
from dlcv.runtime.machine import system

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
    monkeypatch.setattr(system, "is_importable", lambda _: False)
    assert "dlcv[plot]" in error(segment_bundle, pairs, "--confusion", tmp_path / "c.png")


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """known/CLASS/NUMBER.png, of four classes with three images of nearly one colour; and one image in other/grey."""
    random = np.random.default_rng(0)
    colors = {"red": (200, 0, 0), "lime": (0, 200, 0), "blue": (0, 0, 200), "sand": (200, 200, 0)}
    for name, color in colors.items():
        (tmp_path / "set" / "known" / name).mkdir(parents=True)
        for number in range(3):
            pixels = (np.array(color) + random.integers(0, 20, (8, 8, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / "known" / name / f"{number}.png")
    (tmp_path / "set" / "other" / "grey").mkdir(parents=True)
    Image.new("RGB", (8, 8), "grey").save(tmp_path / "set" / "other" / "grey" / "0.png")
    return tmp_path / "set"


FEW_SHOT = ("--within", "known", "--ways", 3, "--queries", 1, "--episodes", 7)


def test_a_bundle_is_scored_on_episodes_of_classes_that_it_does_not_know(
    classify_bundle: Path, colours: Path
) -> None:
    ran = infer(classify_bundle, colours, *FEW_SHOT, "--shots", 1, "--shots", 2, "-f", "json")
    assert ran.exit_code == 0, ran.stderr
    record = json.loads(ran.stdout)
    assert record["shots"] == {"1-shot": 1.0, "2-shot": 1.0}
    assert (record["episodes"], record["ways"], record["classes"], record["images"]) == (
        7,
        3,
        4,
        12,
    )
    text = infer(classify_bundle, colours, *FEW_SHOT, "--shots", 2).stdout
    assert "2-shot             1.0 ± 0.0000" in text


def test_fixed_episodes_come_from_a_file_and_a_bad_image_is_named(
    classify_bundle: Path, colours: Path, tmp_path: Path
) -> None:
    (colours / "known" / "red" / "bad.png").write_bytes(b"no image")
    lines = ["episode,role,class,file"]
    for name in ("red", "blue"):
        lines += [f"1,support,{name},known/{name}/0.png", f"1,query,{name},known/{name}/1.png"]
    lines += ["1,query,red,known/blue/2.png"]  # a wrong label: one of three answers is wrong
    (tmp_path / "episodes.csv").write_text("\n".join(lines))
    ran = infer(classify_bundle, colours, "--episode-file", tmp_path / "episodes.csv", "-f", "json")
    assert ran.exit_code == 3
    assert ran.stderr.startswith("known/red/bad.png: ")
    assert json.loads(ran.stdout)["shots"] == {"fixed": pytest.approx(2 / 3)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ways", 9), "an episode asks for 9 classes, there are 5; lower ways"),
        (("--ways", 3, "--within", "known"), "takes 1 support images and 15 queries of a class"),
        (("--within", "unknown"), "has no class folders in 'unknown'"),
        (("--shots", 1, "--confusion", "c.csv"), "not for captions and episodes"),
        (("--episode-file", "none.csv"), "cannot read episodes from none.csv"),
        (("--episode-file", "none.csv", "--seed", 0), "fixes the episodes; leave out --seed"),
    ],
)
def test_episodes_that_do_not_fit_are_refused(
    arguments: tuple[object, ...], message: str, classify_bundle: Path, colours: Path
) -> None:
    found = infer(classify_bundle, colours, *arguments).exception
    assert isinstance(found, InputError)
    assert message in str(found)


def test_masks_are_not_scored_on_episodes(segment_bundle: Path, pairs: Path) -> None:
    for options in (("--ways", 3), ("--episodes", 9)):
        found = infer(segment_bundle, pairs, *options).exception
        assert "are for bundles that embed or classify, not segment" in str(found)
