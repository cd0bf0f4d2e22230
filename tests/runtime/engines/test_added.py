"""Another package adds an engine by an entry point, and a broken one is one sentence that hurts nobody else."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dlcv
from dlcv.runtime.bundle import open_bundle
from dlcv.runtime.engines import (
    ENGINES,
    EngineOptions,
    choice,
    choose,
    engine_entry,
    engine_names,
    engine_versions,
    first_use,
    load_engine,
    why_unavailable,
)
from dlcv.runtime.errors import EngineError, EngineUnavailableError, InputError
from dlcv.runtime.measure import tune
from dlcv.runtime.measure.bench import BenchRequest, bench
from dlcv.runtime.measure.doctor import doctor_lines
from dlcv.runtime.measure.tune import TuneRequest

INFER = "from dlcv.cli.infer.app import main; main()"

# What a third party writes: the module of the entry point, and the engine, which is imported when it runs.
ENTRY = """
from dlcv.runtime.engines import EngineEntry

entry = EngineEntry(
    summary="the reference of ONNX, CPU",
    factory="onnx_reference.engine:ReferenceEngine",
    modules=("onnx",),
    install="pip install onnx",
)
"""
ENGINE = """
import onnx
from onnx.reference import ReferenceEvaluator

from dlcv.runtime.engines.base import EngineBase, EngineInfo, EngineSettings, settings_from_text


class Settings(EngineSettings, frozen=True):
    verbose: int = 0


class ReferenceEngine(EngineBase):
    def __init__(self, model, options):
        own = settings_from_text(Settings, options.settings, engine="reference")
        self._evaluator = ReferenceEvaluator(onnx.load_from_string(model.onnx), verbose=own.verbose)
        wanted = self._evaluator.output_names
        self._inputs = tuple(s for s in model.tensors if s.name in self._evaluator.input_names)
        self._outputs = tuple(s for s in model.tensors if s.name in wanted)
        self._info = EngineInfo(
            name="onnx", version=onnx.__version__, device="cpu", precision=model.precision
        )

    def infer(self, feeds):
        names = [spec.name for spec in self._outputs]
        return dict(zip(names, self._evaluator.run(names, dict(feeds)), strict=True))

    def close(self):
        self._evaluator = None
"""
GOOD = {"__init__": ENTRY, "engine": ENGINE}
Install = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLCV_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution in a folder on sys.path: `install(modules, package=..., points={engine: value})`."""
    packages = []

    def write(
        modules: dict[str, str], *, package: str = "onnx_reference", points: dict[str, str]
    ) -> Path:
        site = tmp_path / "site"
        packages.append(package)
        files = {f"{package}/{name}.py": text for name, text in modules.items()} | {
            f"{package}-1.2.dist-info/METADATA": f"Name: {package}\nVersion: 1.2\n",
            f"{package}-1.2.dist-info/entry_points.txt": "[dlcv.engines]\n"
            + "".join(f"{name} = {value}\n" for name, value in points.items()),
        }
        for name, text in files.items():
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).write_text(text)
        monkeypatch.syspath_prepend(site)
        return site

    yield write
    for name in [n for n in sys.modules if n.partition(".")[0] in packages]:
        del sys.modules[name]


@pytest.fixture
def reference(install: Install) -> Path:
    return install(GOOD, points={"reference": "onnx_reference:entry"})


@pytest.mark.usefixtures("reference")
def test_an_added_engine_runs_a_bundle_as_onnx_runtime_does(classify_bundle: Path) -> None:
    photos = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    answers: dict[str, Any] = {}
    for name in ("ort", "reference"):
        with dlcv.load(classify_bundle, engine=name) as model:
            answers[name] = model(list(photos))
    for ours, theirs in zip(answers["ort"], answers["reference"], strict=True):
        np.testing.assert_allclose(theirs.probabilities, ours.probabilities, rtol=1e-5)
    assert answers["reference"][0].engine.startswith("reference 1.")


def test_the_command_line_takes_its_name_and_lists_it(
    reference: Path, classify_bundle: Path, new_photo: Callable[..., Path]
) -> None:
    def infer(*arguments: Any) -> Any:
        paths = [str(reference), *filter(None, [os.environ.get("PYTHONPATH")])]
        return subprocess.run(
            [sys.executable, "-c", INFER, *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    given = ("classify", new_photo("red.png"), "-m", classify_bundle)
    ran = infer(*given, "--engine", "reference", "-E", "verbose=0")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["label"] == "red"
    checked = infer("check", classify_bundle, "--engine", "reference")
    assert checked.returncode == 0, checked.stderr
    refused = infer(*given, "--engine", "referense")
    assert refused.returncode == 1
    assert refused.stderr.endswith(
        "unknown engine 'referense'; there are auto, ort, cuda, trt, trt-rtx, openvino, reference\n"
    )
    wrong = infer(*given, "--engine", "reference", "-E", "speed=1")
    assert "engine 'reference' has no setting 'speed'; it has verbose" in wrong.stderr


@pytest.mark.usefixtures("reference")
def test_nothing_is_imported_before_the_engine_is_asked_for(classify_bundle: Path) -> None:
    assert engine_names() == (*ENGINES, "reference")
    assert engine_versions()["onnx_reference"] == "1.2"
    load_engine(open_bundle(classify_bundle), "ort").close()
    load_engine(open_bundle(classify_bundle), "auto").close()
    assert "onnx_reference" not in sys.modules
    assert engine_entry("reference").modules == ("onnx",)
    assert "onnx_reference" in sys.modules
    assert "onnx_reference.engine" not in sys.modules


@pytest.mark.usefixtures("reference")
def test_auto_takes_it_only_where_a_tuning_chose_it(
    classify_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(classify_bundle)
    with monkeypatch.context() as alone:
        for module in (choice, first_use):
            alone.setattr(
                module, "why_unavailable", lambda name: None if name == "reference" else "not here"
            )
        assert choose(bundle, "auto", precision=None, options=EngineOptions()).engine == "ort"
    request = TuneRequest(engines=("reference",), threads=(1,), batches=(1,), seconds=0.1)
    assert [row.engine for row in tune.tune(bundle, request).rows] == ["reference"]
    with dlcv.load(classify_bundle) as model:
        assert model.engine.info.name == "reference"


@pytest.mark.usefixtures("reference")
def test_a_benchmark_measures_it_beside_the_others(classify_bundle: Path) -> None:
    report = bench(open_bundle(classify_bundle), BenchRequest(batches=(1,), seconds=0.1, threads=1))
    assert {"ort fp32", "reference fp32"} <= set(report.contestants)
    assert report.versions["onnx_reference"] == "1.2"


CHANGED = {
    "it cannot load": (
        "self._evaluator = Ref",
        "raise OSError('no\\nlibrary')\n        self._evaluator = Ref",
    ),
    "it cannot run": ("names = [", "raise OSError('no\\nlibrary')\n        names = ["),
    "it lacks a part": ("self._info", "self.info_"),
    "its precision is none": ("model.precision", "'fp4'"),
}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            "it cannot load",
            "failed: OSError: no library; tell its authors, or use another --engine",
        ),
        ("it cannot run", "failed: OSError: no library; tell"),
        ("it lacks a part", "failed: AttributeError: .*_info"),
        ("its precision is none", "failed: ValueError: there is no precision 'fp4'"),
    ],
)
def test_an_engine_that_fails_is_one_sentence_and_the_others_go_on(
    install: Install, classify_bundle: Path, changed: str, message: str
) -> None:
    engine = ENGINE.replace(*CHANGED[changed])
    install(GOOD | {"engine": engine}, points={"reference": "onnx_reference:entry"})
    with (
        pytest.raises(EngineError, match=f"engine 'reference', which .* {message}") as raised,
        dlcv.load(classify_bundle, engine="reference") as model,
    ):
        model(np.zeros((8, 8, 3), np.uint8))
    assert "\n" not in str(raised.value)
    request = TuneRequest(engines=("reference", "ort"), threads=(1,), batches=(1,), seconds=0.1)
    tuned = tune.tune(open_bundle(classify_bundle), request)
    assert {row.engine for row in tuned.rows} == {"ort"}
    assert tuned.dropped[0].startswith("reference fp32: engine 'reference', which")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            "import nowhere",
            r"cannot be imported \(ModuleNotFoundError: No module named 'nowhere'\)",
        ),
        ("1 / 0", r"cannot be imported \(ZeroDivisionError: division by zero\)"),
        ("", r"cannot be imported \(AttributeError: module 'bad' has no attribute 'entry'\)"),
        ("entry = 'a:B'", r"must be a dlcv\.runtime\.engines\.EngineEntry, not str"),
    ],
)
def test_a_broken_package_is_one_sentence(
    install: Install, classify_bundle: Path, module: str, message: str
) -> None:
    install({"__init__": module}, package="bad", points={"wrong": "bad:entry"})
    sentence = rf"^engine 'wrong' of package bad {message}; update or uninstall package bad$"
    with pytest.raises(EngineUnavailableError, match=sentence):
        load_engine(open_bundle(classify_bundle), "wrong")


def test_a_broken_package_does_not_hurt_what_uses_all_engines(
    install: Install, classify_bundle: Path
) -> None:
    install({"__init__": "1 / 0"}, package="bad", points={"wrong": "bad:entry"})
    states = {line.split(maxsplit=1)[0]: line for line in doctor_lines() if line}
    assert states["ort"].endswith("ready")
    assert "engine 'wrong' of package bad cannot be imported" in states["wrong"]
    bundle = open_bundle(classify_bundle)
    request = BenchRequest(batches=(1,), seconds=0.1, threads=1)
    assert "ort fp32" in bench(bundle, request).contestants
    tuned = tune.tune(bundle, TuneRequest(threads=(1,), batches=(1,), seconds=0.1))
    assert "ort" in {row.engine for row in tuned.rows}
    assert any("engine 'wrong' of package bad" in reason for reason in tuned.dropped)


def test_an_added_engine_that_lacks_a_module_says_how_to_get_it(install: Install) -> None:
    entry = ENTRY.replace('modules=("onnx",)', 'modules=("no_such_library",)')
    install(GOOD | {"__init__": entry}, points={"reference": "onnx_reference:entry"})
    assert why_unavailable("reference") == (
        "engine 'reference' (the reference of ONNX, CPU) is not installed; get it with pip install onnx"
    )


def test_a_name_of_dlcvs_own_stays_dlcvs(install: Install, classify_bundle: Path) -> None:
    install(GOOD, points={"ort": "onnx_reference:entry", "auto": "onnx_reference:entry"})
    assert engine_names() == tuple(ENGINES)
    for name in ("ort", "auto"):
        with load_engine(open_bundle(classify_bundle), name) as engine:
            assert engine.info.name in ENGINES
    assert "onnx_reference" not in sys.modules


def test_a_name_that_two_packages_add_is_refused(install: Install) -> None:
    for package in ("first", "second"):
        install({"__init__": ENTRY}, package=package, points={"twice": f"{package}:entry"})
    assert engine_names()[-1] == "twice"
    message = "engine 'twice' is added by package .* and by package .*; uninstall all but one"
    with pytest.raises(EngineUnavailableError, match=message):
        engine_entry("twice")


@pytest.mark.usefixtures("reference")
def test_its_inputs_are_checked_before_it(classify_bundle: Path) -> None:
    with load_engine(open_bundle(classify_bundle), "reference") as engine:
        wrong = {"image": np.zeros((1, 8, 8, 3), np.float32)}
        for run in (engine.infer, engine.start):
            with pytest.raises(InputError, match="the graph takes image: uint8"):
                run(wrong)
