"""The runtime runs without PyTorch and its relatives, and starts quickly."""

import subprocess
import sys
from pathlib import Path

HEAVY = ("torch", "torchvision", "onnx", "onnxscript", "lightning", "timm", "matplotlib", "pandas")
PROBE = """
import sys
from dlcv.cli.infer.app import app
try:
    app({arguments!r})
except SystemExit as e:
    assert not e.code, e.code
heavy = [name for name in {heavy!r} if name in sys.modules]
assert not heavy, heavy
assert "onnxruntime" in sys.modules
"""


def run_and_look_at_modules(arguments: list[str]) -> None:
    probe = PROBE.format(arguments=arguments, heavy=HEAVY)
    ran = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stderr


def test_running_a_classifier_imports_nothing_of_training_or_export(
    classify_bundle: Path, tmp_path: Path
) -> None:
    samples = str(Path(__file__).parents[2] / "runtime" / "samples")
    out = str(tmp_path / "out")
    run_and_look_at_modules(
        ["attend", samples, "-m", str(classify_bundle), "--out", out, "--npz", "-e", "ort"]
    )


def test_running_a_segmenter_imports_nothing_of_training_or_export(
    segment_bundle: Path, tmp_path: Path
) -> None:
    samples = str(Path(__file__).parents[2] / "runtime" / "samples")
    out = str(tmp_path / "out")
    run_and_look_at_modules(
        ["segment", samples, "-m", str(segment_bundle), "--out", out, "--overlay", "-e", "ort"]
    )


def test_importing_dlcv_imports_not_even_numpy() -> None:
    code = "import dlcv, sys; assert 'numpy' not in sys.modules; assert callable(dlcv.load)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
