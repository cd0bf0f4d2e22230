"""The sample photos that ship with dlcv (public domain; `runtime/samples/README.md` names each)."""

from __future__ import annotations

from pathlib import Path

from dlcv.runtime.errors import InputError

SAMPLES_FOLDER = Path(__file__).parents[1] / "samples"


def sample_paths() -> tuple[Path, ...]:
    """Return the sample photos, in the order of their names.

    Raises:
        InputError: this installation lacks them.
    """
    paths = tuple(sorted(SAMPLES_FOLDER.glob("*.jpg")))
    if not paths:
        raise InputError(
            f"no sample photos in {SAMPLES_FOLDER}; install dlcv again, or give images"
        )
    return paths
