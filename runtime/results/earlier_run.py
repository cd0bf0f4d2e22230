"""What a run may do with the results of an earlier one in the same folder: go on with them, or replace them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dlcv.runtime.errors import InputError, OutputError
from dlcv.runtime.results.base import Record
from dlcv.runtime.results.owned_files import require_free

_SAME_IN_A_RESUMED_RUN = (
    "bundle",
    "bundle_sha256",
    "prototypes",
    "precision",
    "input_size",
    "search",
    "options",
)


def require_one_choice(*, resume: bool, overwrite: bool) -> None:
    """Check that a run does not both keep and replace results.

    Raises:
        InputError: it does.
    """
    if resume and overwrite:
        raise InputError("--resume keeps the results and --overwrite replaces them; give only one")


def require_reusable(
    folder: Path,
    before: Record,
    *,
    run: Record,
    names: Iterable[str],
    owned: set[str],
    resume: bool,
    overwrite: bool,
) -> None:
    """Check that a run may go on with the results of a folder, or replace them.

    before, run: what `run.json` says of the earlier run, and of this one. names: of files and folders that this run
    writes to. owned: paths of dlcv's files there.

    Raises:
        OutputError: something is in the way, the earlier run was another, or neither was asked for.
    """
    require_free(folder, names, owned=owned)
    if resume:
        _require_same_run(before, run, folder=folder)
    elif not overwrite:
        raise OutputError(
            f"{folder} already holds results; --resume goes on with them, --overwrite "
            "replaces them, or choose another --out"
        )


def _require_same_run(before: Record, now: Record, *, folder: Path) -> None:
    if (had_ray := "parts" in before["options"]) != ("parts" in now["options"]):
        how = "with --ray" if had_ray else "without --ray"
        raise OutputError(f"{folder} was made {how}; resume {how}, or choose another --out")
    for key in _SAME_IN_A_RESUMED_RUN:
        if before.get(key) != now.get(key):
            raise OutputError(
                f"{folder} was made with another {key} ({before.get(key)}, now {now.get(key)}); "
                "resume with the same, or choose another --out"
            )
