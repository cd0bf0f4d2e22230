"""`--devices`: one results folder, in order, whichever GPU answered; and where it does not do."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from dlcv.cli.infer.app import app
from dlcv.runtime.bundle import Bundle
from dlcv.runtime.engines import EngineOptions
from dlcv.runtime.engines.base import Arrays, EngineBase, EngineInfo
from dlcv.runtime.engines.fake import FakeEngine
from dlcv.runtime.errors import InputError
from dlcv.runtime.running import tasks

COLORS = ("red", "lime", "blue")
NAMES = ("red", "green", "blue")


class Gpu(EngineBase):
    """A GPU of a number; those of higher numbers are slower."""

    def __init__(self, bundle: Bundle, number: str) -> None:
        fake = FakeEngine(bundle.graph())
        self._inputs = fake.inputs
        self._outputs = tuple(s for s in fake.outputs if s.name == "probabilities")
        self._info = EngineInfo(name="cuda", version="1", device=f"gpu {number}", precision="fp32")
        self._seconds = 0.002 * (1 + int(number))

    def infer(self, feeds: Any) -> Arrays:
        time.sleep(self._seconds)
        colors = feeds["image"][:, 0, 0].astype(np.float32)
        return {"probabilities": colors / colors.sum(1, keepdims=True)}

    def close(self) -> None:
        self._seconds = 0.0


@pytest.fixture
def _gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_engine(bundle: Bundle, *_: object, options: EngineOptions, **__: object) -> Gpu:
        return Gpu(bundle, options.settings["device"])

    monkeypatch.setattr(tasks, "load_engine", load_engine)


@pytest.fixture
def photos(new_photo: Callable[..., Path], tmp_path: Path) -> Path:
    for number in range(30):
        new_photo(f"photos/{number:02}.png", color=COLORS[number % 3])
    return tmp_path / "photos"


def infer(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.mark.usefixtures("_gpus")
@pytest.mark.parametrize("given", [("--devices", "0,1"), ("-E", "device=0,1")])
def test_two_gpus_fill_one_folder_in_order(
    classify_bundle: Path, photos: Path, tmp_path: Path, given: tuple[str, str]
) -> None:
    out = tmp_path / "out"
    ran = infer(
        "classify", photos, "-m", classify_bundle, "-e", "cuda", "-b", 1, *given, "--out", out
    )
    assert ran.exit_code == 0, ran.stderr
    records = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [Path(r["image"]).stem for r in records] == [f"{number:02}" for number in range(30)]
    assert [r["label"] for r in records] == [NAMES[number % 3] for number in range(30)]
    assert {r["engine"] for r in records} == {"cuda 1 gpu 0 fp32", "cuda 1 gpu 1 fp32"}
    assert json.loads((out / "run.json").read_text())["device"] == "gpu 0; gpu 1"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["-e", "ort", "--devices", "0,1"], "engine 'ort' runs on the CPU"),
        (["-e", "cuda", "--devices", "0,one"], "devices are numbers of GPUs"),
        (["-e", "cuda", "--devices", "0", "-E", "device=0"], "give one of them"),
        (["--ray", "local", "--devices", "0,1"], "--devices is for the GPUs of this machine"),
    ],
)
def test_devices_that_do_not_do_are_refused_in_a_sentence(
    classify_bundle: Path, photos: Path, given: list[str], sentence: str
) -> None:
    ran = infer("classify", photos, "-m", classify_bundle, *given)
    assert isinstance(ran.exception, InputError)
    assert sentence in str(ran.exception)
