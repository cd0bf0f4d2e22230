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
