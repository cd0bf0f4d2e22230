from pathlib import Path

import pytest

from dlcv.runtime.machine import system


@pytest.mark.parametrize(
    ("flags", "lacks"),
    [
        ("fpu sse2 avx2 fma", True),
        ("fpu avx2 avx512f avx512_vnni", False),
        ("avx2 avx_vnni", False),
        ("", False),  # not Linux, or not x86: it is not said
    ],
)
def test_an_x86_processor_lacks_vnni_if_no_flag_names_it(
    monkeypatch: pytest.MonkeyPatch, flags: str, lacks: bool
) -> None:
    monkeypatch.setattr(system, "_cpu_fact", {"flags": flags}.__getitem__)
    assert system.lacks_vnni() is lacks


def test_the_machine_has_a_name_and_cores() -> None:
    assert f"{system.cpu_count()} cores" in system.machine_name()


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("50000 100000", 1), ("250000 100000", 3), ("max 100000", None), ("", None), ("1 0", None)],
)
def test_the_quota_of_a_container_is_rounded_up(
    tmp_path: Path, text: str, cpus: int | None
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(text)
    assert system._quota(file) == cpus
    assert system._quota(tmp_path / "nothing") is None


def test_a_container_with_half_a_core_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "_quota", lambda: 1)
    assert system.cpu_count() == 1
    monkeypatch.setattr(system, "_quota", lambda: None)
    assert system.cpu_count() >= 1
