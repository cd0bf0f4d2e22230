"""`doctor --prove` loads, checks and times every engine; one that gives other answers is found out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from dlcv.cli.edge import EXIT_FAILED
from dlcv.cli.infer.app import app
from dlcv.runtime import open_bundle
from dlcv.runtime.engines import load_engine as load_on_engine
from dlcv.runtime.engines.fake import FakeEngine
from dlcv.runtime.errors import EngineError, InputError
from dlcv.runtime.measure import prove as module
from dlcv.runtime.measure.prove import Proof, proof_lines, prove


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.05)


def test_the_engines_that_are_here_give_the_golden_answers_and_a_speed(
    classify_bundle: Path,
) -> None:
    told: list[str] = []
    proofs = prove(open_bundle(classify_bundle), engines=["ort", "openvino"], tell=told.append)
    assert [(proof.engine, proof.precision, proof.works) for proof in proofs] == [
        ("ort", "fp32", True),
        ("openvino", "fp32", True),
    ]
    assert all(proof.images_per_second > 0 for proof in proofs)
    assert "cpu fp32" in proofs[0].ran
    assert told[0] == "proving ort in fp32"


@pytest.mark.parametrize("how", ["wrong", "raises", "library"])
def test_an_engine_that_fails_is_said_and_does_not_end_the_others(
    classify_bundle: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    bundle, load = open_bundle(classify_bundle), load_on_engine

    def compute(feeds: Any) -> Any:
        if how != "wrong":
            kind = EngineError if how == "raises" else TypeError
            raise kind("no kernel image is available")
        zero = np.zeros((len(feeds["image"]), 3), np.float32)
        return {spec.name: zero for spec in bundle.graph().outputs}

    def load_engine(opened: Any, name: str, **more: Any) -> Any:
        if name == "openvino":
            return FakeEngine(bundle.graph(), compute)
        return load(opened, name, **more)

    monkeypatch.setattr(module, "load_engine", load_engine)
    broken, works = prove(bundle, engines=["openvino", "ort"])
    assert not broken.works
    assert broken.is_available
    assert ("golden case" if how == "wrong" else "no kernel image") in broken.failure
    assert works.works
    assert works.images_per_second > 0


def test_a_failure_while_timing_loses_nothing_that_was_proved(
    classify_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the driver was reset")

    monkeypatch.setattr(module, "interleaved", fail)
    (proof,) = prove(open_bundle(classify_bundle), engines=["ort"])
    assert proof.works
    assert proof.images_per_second == 0


def test_what_is_not_available_is_listed_with_the_reason() -> None:
    proofs = [
        Proof(engine="trt", precision="", is_available=False, failure="engine 'trt' is missing"),
        Proof(engine="ort", precision="fp32", is_available=True, ran="ort 1 cpu fp32", batch=8, images_per_second=9.6),
        Proof(engine="cuda", precision="fp16", is_available=True, failure="it failed"),
    ]  # fmt: skip
    assert proof_lines(proofs)[1:] == [
        ("trt", "", "-", "", "engine 'trt' is missing"),
        ("ort", "fp32", "yes", "10", "ort 1 cpu fp32"),
        ("cuda", "fp16", "no", "", "it failed"),
    ]


def test_the_command_proves_a_built_in_bundle_and_writes_json(tmp_path: Path) -> None:
    file = tmp_path / "proof.json"
    ran = CliRunner().invoke(app, ["doctor", "--prove", "--engine", "ort", "--json", str(file)])
    assert ran.exit_code == 0, ran.stderr
    assert "ran, or why not" in ran.stdout
    written = json.loads(file.read_bytes())
    assert {(row["engine"], row["failure"]) for row in written} == {("ort", "")}
    assert {row["precision"] for row in written} == {"fp32", "int8"}


def test_the_command_fails_where_an_engine_that_is_available_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise EngineError("it does not start")

    monkeypatch.setattr(module, "load_engine", fail)
    ran = CliRunner().invoke(app, ["doctor", "--prove", "--engine", "ort"])
    assert ran.exit_code == EXIT_FAILED
    assert "it does not start" in ran.stdout
    ran = CliRunner().invoke(app, ["doctor", "--engine", "ort"])
    assert isinstance(ran.exception, InputError)
