"""`dlcv-infer caption`, and the other commands on a captioner: the toy says what colour an image has."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dlcv.cli.infer.app import app
from dlcv.runtime.errors import BundleError, InputError, OutputError

COLORS = {"red": "red", "green": "lime", "blue": "blue"}


def infer(*arguments: Any) -> Any:
    ran = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    return ran


@pytest.fixture
def photos(new_photo: Callable[..., Path], tmp_path: Path) -> Path:
    for name, color in COLORS.items():
        new_photo(f"photos/{name}.png", color=color)
    return tmp_path / "photos"


@pytest.mark.parametrize("beams", [1, 2])
def test_a_line_an_image_has_its_caption_and_how_likely_it_is(caption_bundle, photos, beams):
    ran = infer("caption", photos, "-m", caption_bundle, "--beams", beams, "--engine", "ort")
    records = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [r["caption"] for r in records] == ["a blue wall", "a green wall", "a red wall"]
    assert all(r["words"] == 3 and -0.1 < r["log_probability"] <= 0 for r in records)
    assert "3 answered" in ran.stderr


def test_a_caption_may_be_shorter(caption_bundle, photos):
    ran = infer("caption", photos / "red.png", "-m", caption_bundle, "--max-length", 2)
    assert json.loads(ran.stdout)["caption"] == "a red"
    with pytest.raises(InputError, match="max length 6 is more than the 5 words"):
        infer("caption", photos, "-m", caption_bundle, "--max-length", 6)


def test_attention_gives_a_strip_with_a_picture_for_each_word(caption_bundle, photos, tmp_path):
    out = tmp_path / "out"
    infer("caption", photos, "-m", caption_bundle, "--attention", "--out", out, "--batch", 2)
    first = json.loads((out / "results.jsonl").read_text().splitlines()[0])
    strip = np.asarray(Image.open(out / first["overlay"]))
    photo_width = 224 * 40 // 30  # the photos are 40 by 30
    assert strip.shape[1] == 4 * (photo_width + 8 + 1) - 8  # the photo and three words
    panels = [strip[60:-10, i * (photo_width + 9) :][:, :photo_width] for i in range(4)]
    assert len({panel.tobytes() for panel in panels}) == 4
    run = json.loads((out / "run.json").read_text())
    assert run["search"] == {"beams": 1, "length_penalty": 0.6, "max_length": None}
    again = ("caption", photos, "-m", caption_bundle, "--attention", "--out", out, "--resume")
    assert "3 done before" in infer(*again).stderr
    with pytest.raises(OutputError, match="was made with another search"):
        infer(*again, "--beams", 2)


def test_captions_go_to_csv(caption_bundle, photos, tmp_path):
    infer("caption", photos, "-m", caption_bundle, "--out", tmp_path / "out", "--format", "csv")
    header, first, *_ = (tmp_path / "out" / "results.csv").read_text().splitlines()
    assert header == "image,height,width,caption,words,log_probability,engine"
    assert "a blue wall" in first


def test_evaluate_scores_captions(caption_bundle, photos):
    captions = {f"{name}.png": [f"A {name} wall.", "Something else here"] for name in COLORS}
    (photos / "captions.json").write_text(json.dumps(captions))
    ran = infer("evaluate", caption_bundle, photos, "--format", "json", "--engine", "ort")
    scored = json.loads(ran.stdout)
    assert (scored["images"], scored["refused"]) == (3, [])
    assert scored["cider"] > 3
    assert scored["bleu4"] == 0  # three words have no four-grams
    assert scored["ran"]["engine"] == "ort"
    assert "bleu4" in infer("evaluate", caption_bundle, photos).stdout
    with pytest.raises(InputError, match="are for classes and masks, not for captions"):
        infer("evaluate", caption_bundle, photos, "--record")
    captions["none.png"] = ["nothing"]
    (photos / "captions.json").write_text(json.dumps(captions))
    with pytest.raises(InputError, match=r"1 of 4 images have no file beside it, such as 'none"):
        infer("evaluate", caption_bundle, photos)


def test_an_unreadable_image_is_left_out_of_the_scores_and_named(caption_bundle, photos):
    (photos / "bad.png").write_bytes(b"no image")
    captions = {"red.png": ["a red wall"], "bad.png": ["a red wall"]}
    (photos / "captions.json").write_text(json.dumps(captions))
    ran = infer("evaluate", caption_bundle, photos / "captions.json")
    assert ran.exit_code == 3
    assert "bad.png: " in ran.stderr


def test_a_bundle_must_be_named_and_be_a_captioner(photos):
    with pytest.raises(InputError, match="no bundle for caption ships with dlcv; name one with -m"):
        infer("caption", photos)
    with pytest.raises(InputError, match=r"'cifar10-vit' \(classify\) writes no captions"):
        infer("caption", photos, "-m", "cifar10-vit")


@pytest.mark.parametrize("command", ["tune", "bench"])
def test_what_measures_one_graph_refuses_a_captioner(caption_bundle, command):
    with pytest.raises(BundleError, match=r"'toy-caption' \(caption\) needs several"):
        infer(command, caption_bundle)


def test_info_and_check_know_both_graphs(caption_bundle):
    text = infer("info", caption_bundle).stdout
    assert "graph encoder" in text
    assert "graph decoder" in text
    assert "next_cache: float32" in text
    assert infer("check", caption_bundle).exit_code == 0


def test_a_bundle_without_its_tokenizer_is_refused(caption_bundle, photos, tmp_path):
    copy = shutil.copytree(caption_bundle, tmp_path / "copy")
    (copy / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"tokenizer.json is missing; copy the whole bundle"):
        infer("caption", photos, "-m", copy)
