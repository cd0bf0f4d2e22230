"""A results folder of Parquet files, for runs whose results come from many machines; resumable.

It holds

    parts/part-00000.parquet ...    a row an image (`parquet_rows.py`), in the order in which they were answered
    run.json                        what ran, as in the folder of a plain run
    .dlcv/                          the list of these files, and the lock of the run that writes them

A part gets its name once it is whole, and is never written again. What its rows name is done; what was answered and is
in no part yet is answered again by a resumed run.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any, final

from dlcv.runtime.errors import OutputError
from dlcv.runtime.machine.closing import Closing
from dlcv.runtime.results.base import Record
from dlcv.runtime.results.earlier_run import require_one_choice, require_reusable
from dlcv.runtime.results.lines import json_text, text_from_cell
from dlcv.runtime.results.owned_files import OwnedFiles, require_free
from dlcv.runtime.results.parquet_rows import import_pyarrow
from dlcv.runtime.results.recognition import RUN, run_record

PARTS = "parts"
BYTES_A_PART = 2**26
SECONDS_A_PART = 30.0  # at most this much work is lost by a kill
_NAMES = (RUN, PARTS)


@final
class ParquetParts(Closing):
    """Writes tables to a results folder, several to a file. Not for several threads.

    done: images that an earlier run answered or refused, as often as counted. refused_before: how many of these were
    refused.
    """

    def __init__(
        self, folder: Path, *, run: Record, resume: bool = False, overwrite: bool = False
    ) -> None:
        """Create or reopen the folder, and lock it until `close`. run: what `run.json` says.

        Raises:
            InputError: both `resume` and `overwrite`.
            OutputError: it holds results already, belongs to another run, another run writes to it, something that
                dlcv did not write is in the way, pyarrow is missing, or it cannot be written.
        """
        require_one_choice(resume=resume, overwrite=overwrite)
        self._pa, self._parquet = import_pyarrow()
        self.folder = folder
        self.done: Counter[str] = Counter()
        self.refused_before = 0
        self._run = run
        self._engines: Counter[str] = Counter()
        self._waiting: list[Any] = []  # tables that are in no part yet
        self._since = time.monotonic()
        if run_record(folder) is None:
            require_free(folder, _NAMES, owned=set())
        self._files = OwnedFiles(folder)
        try:
            self._open(resume=resume, overwrite=overwrite)
        except BaseException:
            self._files.close()
            raise

    def add(self, table: Any) -> None:
        """Take a `pyarrow.Table` of rows; it is written with those before it, after some time or size.

        Raises:
            OutputError: the part cannot be written.
        """
        self._waiting.append(table)
        self._engines.update(filter(None, table["engine"].to_pylist()))
        waited = time.monotonic() - self._since
        if waited >= SECONDS_A_PART or sum(t.nbytes for t in self._waiting) >= BYTES_A_PART:
            self._write_part()

    def finish(self) -> None:
        """Write what waits, and note in `run.json` which engines answered how many images.

        Raises:
            OutputError: it cannot be written.
        """
        self._write_part()
        self._write_run(self._run | {"engines": dict(self._engines)})

    def close(self) -> None:
        """Write what waits, and unlock the folder.

        Raises:
            OutputError: the last part cannot be written.
        """
        try:
            self._write_part()
        finally:
            self._files.close()

    def _open(self, *, resume: bool, overwrite: bool) -> None:
        owned = self._owned(resume=resume, overwrite=overwrite)
        parts = sorted(path for path in owned if path.startswith(f"{PARTS}/") and path[-1] != "/")
        if overwrite:
            self._files.require_unchanged(owned)
            self._files.remove(owned - {RUN})
            parts = []
        for path in parts:
            self._note_done(self.folder / path)
        self._number = len(parts)
        self._files.start(owned)
        self._write_run(self._run)

    def _owned(self, *, resume: bool, overwrite: bool) -> set[str]:
        before = run_record(self.folder)
        owned = self._files.listed() or set()
        if before is None:  # without it the list does not count
            require_free(self.folder, _NAMES, owned=set())
            return set()
        require_reusable(
            self.folder,
            before,
            run=self._run,
            names=_NAMES,
            owned=owned,
            resume=resume,
            overwrite=overwrite,
        )
        return owned

    def _note_done(self, path: Path) -> None:
        if not path.exists():  # it was listed, but the run was killed before it had its name
            return
        try:
            rows = self._parquet.read_table(path, columns=["image", "engine", "error"])
            self.done.update(text_from_cell(cell) for cell in rows["image"].to_pylist())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            raise OutputError(
                f"{path} is damaged and cannot be resumed ({e}); choose another --out, or --overwrite"
            ) from e
        self.refused_before += len(rows) - rows["error"].null_count
        self._engines.update(filter(None, rows["engine"].to_pylist()))

    def _write_part(self) -> None:
        if self._waiting:
            table = self._pa.concat_tables(self._waiting)
            self._files.add(
                PARTS,
                f"part-{self._number:05d}",
                suffix=".parquet",
                write=lambda file: self._parquet.write_table(table, file, compression="zstd"),
            )
            self._number += 1
        self._waiting = []
        self._since = time.monotonic()

    def _write_run(self, run: Record) -> None:
        text = json_text(run, indent=2) + "\n"
        self._files.write(RUN, lambda file: file.write(text.encode()))
