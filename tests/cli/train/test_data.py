"""`dlcv-train data`: what it says of images, and what decoders do not say."""

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

TRAIN = "import sys; from dlcv.cli.train.app import main; main()"
RECIPE = """
name: tiff
task: classify
description: tiny
model: {name: small_cnn}
classes: [{name: a}, {name: b}]
preprocessing: {resize: stretch, size: [32, 32]}
normalization: {mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}
data: {name: folders, root: ., train: train, test: train}
optimizer: {lr: 0.001}
epochs: 1
batch: 2
augment: {crop: 32}
"""


def test_decoders_print_nothing_of_their_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "train" / name / "0.png")
    cut = BytesIO()
    Image.new("RGB", (64, 64), "red").save(cut, "TIFF", compression="tiff_deflate")
    data = bytearray(cut.getvalue())
    data[12:20] = bytes(8)
    (tmp_path / "train/a/cut.tif").write_bytes(data)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    ran = subprocess.run(
        [sys.executable, "-c", TRAIN, "data", "recipe.yaml", "--data", "."],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert "cut.tif" in ran.stdout + ran.stderr
    assert "Decode" not in ran.stderr
