"""The proof on a GPU goes on past steps that fail, hang or print rubbish, keeps to its budget, and writes its page."""

import importlib
import sys
import time
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "bench" / "gpu_proof"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, Any]:
    monkeypatch.syspath_prepend(str(FOLDER))
    return tuple(map(importlib.import_module, ("proof_steps", "proof_page", "prove")))  # type: ignore[return-value]


def _run(steps: Any, program: str, *, seconds: float = 30, left: float = 60, **more: Any) -> Any:
    step = steps.Step(name="one", command=(sys.executable, "-c", program), seconds=seconds, **more)
    return steps.run(step, left=left, has_gpu=False)


def test_a_step_that_passes_fails_or_prints_rubbish_is_recorded(modules: Any) -> None:
    steps, _, _ = modules
    passed = _run(steps, "print('done')", needs_gpu=False)
    assert (passed.state, passed.tail) == ("passed", ("done",))
    failed = _run(steps, "raise SystemExit('no kernel')", needs_gpu=False)
    assert (failed.state, failed.reason) == ("failed", "exit code 1: no kernel")
    rubbish = _run(steps, "import os; os.write(1, bytes(range(256))); os._exit(3)", needs_gpu=False)
    assert rubbish.state == "failed"
    assert rubbish.reason.startswith("exit code 3")


def test_a_step_that_hangs_ends_at_its_limit_with_its_children(
    modules: Any, tmp_path: Path
) -> None:
    steps, _, _ = modules
    mark = tmp_path / "mark"
    child = f"import time, pathlib; time.sleep(3); pathlib.Path({str(mark)!r}).touch()"
    program = (
        "import subprocess, sys, time; print('begun', flush=True); "
        f"subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(600)"
    )
    hung = _run(steps, program, seconds=1, needs_gpu=False)
    assert (hung.state, hung.reason) == ("failed", "it ran past 1 s: begun")
    time.sleep(3.5)
    assert not mark.exists()


def test_a_step_is_passed_over_without_time_or_gpu(modules: Any) -> None:
    steps, _, _ = modules
    assert _run(steps, "", left=1, needs_gpu=False).reason == "no time was left"
    assert _run(steps, "").reason == "no GPU can be used"


def test_junit_xml_is_parsed_to_counts_and_failures(modules: Any, tmp_path: Path) -> None:
    steps, _, _ = modules
    file = tmp_path / "tests.xml"
    file.write_text(
        "<testsuites><testsuite><testcase classname='a' name='ok'/>"
        "<testcase classname='a' name='bad'><failure message='left != right&#10;more'/></testcase>"
        "<testcase classname='a' name='off'><skipped/></testcase></testsuite></testsuites>"
    )
    counts, failed = steps.tests_of(file)
    assert counts == {"passed": 1, "failed": 1, "skipped": 1}
    assert failed == ["a.bad: left != right"]
    file.write_text("<testsuites><tests")
    assert steps.tests_of(file)[1] == []


def test_the_page_says_what_failed_and_names_its_references(modules: Any, tmp_path: Path) -> None:
    _, page, prove = modules
    step = {"name": "doctor", "state": "failed", "seconds": 2.0, "reason": "exit code 1: a | b"}
    report = {"name": "x", "created": "2026-01-02T", "gpus": [], "fault": "no driver", "lines": []}
    (tmp_path / "doctor.json").write_text("{rubbish")
    prove.gathered(tmp_path, report)
    prove.write({**report, "steps": [step]}, tmp_path, "x")
    text = (tmp_path / "gpu-x.md").read_text()
    assert "No GPU could be used: no driver" in text
    assert "| doctor | **failed** | 2 | exit code 1: a \\| b |" in text
    assert "one H100 | 88,714 images/s" in text
    assert text == page.text({**report, "steps": [step]})


def test_wheels_that_are_missing_are_said(modules: Any, tmp_path: Path) -> None:
    _, _, prove = modules
    (tmp_path / "tensorrt_rtx-1-py3-none-any.whl").touch()
    assert "install tensorrt-rtx" not in [x.name for x in prove.missing_from(tmp_path)]
    assert "install onnxruntime-gpu" in [x.name for x in prove.missing_from(tmp_path)]


def test_steps_name_only_engines_that_are_here_and_the_copied_bundle_exists(
    modules: Any, tmp_path: Path
) -> None:
    steps, _, _ = modules
    found = {s.name: s for s in steps.steps(tmp_path, tmp_path, engines=["trt-rtx"])}
    assert "classify trt-rtx" in found
    assert "classify trt" not in found
    copied = steps.run(found["copy bundle for rtx"], left=60, has_gpu=True)
    assert copied.state == "passed", copied.tail
    assert found["export engine rtx"].needs.joinpath("manifest.json").is_file()
