"""A results folder: lines, masks, overlays, maps, embeddings; resumable.

It holds

    results.jsonl   (or results.csv) a line an image, in order; written after the image's other files
    errors.jsonl    a line a refused image, with the reason
    run.json        what ran: bundle, engine, device, precision, settings
    masks/ overlays/ maps/ confidence/      a file an image, as asked for
    embeddings.npz  (or embeddings.parquet)
    .dlcv/          the list of all these files, and the lock of the run that writes them

The folder may hold other things, which are left alone: what stands where a run would write is an error before the
first image, and `overwrite` deletes what is listed and nothing else. The list counts only beside a `run.json` of
dlcv's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import final

from dlcv.runtime.errors import OutputError
from dlcv.runtime.images.source import Refused
from dlcv.runtime.machine.atomic_files import AppendFile, drop_partial_line
from dlcv.runtime.results.base import Record, Result, WriteOptions
from dlcv.runtime.results.earlier_run import require_one_choice, require_reusable
from dlcv.runtime.results.embedding import Embedding
from dlcv.runtime.results.embedding_store import EmbeddingStore
from dlcv.runtime.results.lines import (
    csv_header,
    csv_line,
    json_text,
    line_from_record,
    record_from_result,
    records_in,
)
from dlcv.runtime.results.owned_files import OwnedFiles, require_free
from dlcv.runtime.results.recognition import (
    ERRORS,
    FILE_FOLDERS,
    OLD_PARTIAL_MATRIX,
    RUN,
    files_named,
    files_without_list,
    run_record,
)


@final
class FolderWriter:
    """Writes a results folder; with `resume`, goes on where a run that was stopped left it."""

    def __init__(
        self,
        folder: Path,
        options: WriteOptions,
        *,
        run: Record,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Create or reopen the folder, and lock it until `close`. run: what `run.json` says of bundle and engine.

        Raises:
            InputError: both `resume` and `overwrite`.
            OutputError: it holds results already, belongs to another run, another run writes to it, something that
                dlcv did not write is in the way, or it cannot be written.
        """
        require_one_choice(resume=resume, overwrite=overwrite)
        self.folder = folder
        self.done: Counter[str] = Counter()
        self.refused_before = 0
        self._options = options
        self._errors: AppendFile | None = None
        self._header: list[str] | None = None  # of CSV
        self._store: EmbeddingStore | None = None
        self._lines_path = folder / f"results.{options.lines}"
        if run_record(folder) is None:
            self._require_new(resume=resume)
        self._files = OwnedFiles(folder)
        try:
            self._open(run | {"options": asdict(options)}, resume=resume, overwrite=overwrite)
        except BaseException:
            self._files.close()
            raise

    @property
    def makes_files(self) -> bool:
        """Whether images have files of their own."""
        return replace(self._options, embeddings=None).needs_folder

    def prepare(self, result: Result | Refused, name: str) -> Record:
        """Write the image's own files, each under a temporary name first, and return its line."""
        record = record_from_result(result, self._options)
        if isinstance(result, Refused):
            return record
        files = {}
        for item in result.files(self._options):
            files[item.key] = self._files.add(
                item.folder, name, suffix=item.suffix, write=item.write
            )
        engine = record.pop("engine")
        return record | files | {"engine": engine}

    def commit(self, result: Result | Refused, record: Record) -> None:
        """Append the image's line; from then on a resumed run passes it over."""
        if isinstance(result, Refused):
            if self._errors is None:
                self._errors = self._files.append_to(ERRORS)
            self._errors.append(line_from_record(record).encode())
            return
        if self._store is not None and isinstance(result, Embedding):
            self._store.append(result.vector)
        if self._options.lines == "jsonl":
            self._lines.append(line_from_record(record).encode())
            return
        row = result.csv_row(record)
        if self._header is None:
            self._header = list(row)
            self._lines.append(csv_line(self._header).encode())
        self._lines.append(csv_line([row.get(column, "") for column in self._header]).encode())

    def finish(self) -> None:
        """Write the matrix of embeddings."""
        if self._store is not None:
            images = [record["image"] for record in records_in(self._lines_path)]
            self._store.finish(images=images)

    def close(self) -> None:
        """Close the files, and unlock the folder."""
        self._lines.close()
        if self._errors is not None:
            self._errors.close()
        if self._store is not None:
            self._store.close()
        self._files.close()

    def _open(self, run: Record, *, resume: bool, overwrite: bool) -> None:
        owned = self._owned(run, resume=resume, overwrite=overwrite)
        rows = 0
        if resume and owned:
            rows = self._go_on(owned)
        elif overwrite and owned:
            self._files.require_unchanged(owned)
            self._files.remove(
                owned - {RUN}
            )  # RUN is replaced below: the list counts only beside it
            self._files.matrix.unlink(missing_ok=True)
        self._files.start(owned)
        if self._options.embeddings:
            width = int(run["embedding_width"])
            self._store = EmbeddingStore(
                self._files, self._options.embeddings, width=width, rows=rows, run=run
            )
        self._files.write(RUN, lambda file: file.write(json_text(run, indent=2).encode() + b"\n"))
        if self._options.lines == "csv":
            self._header = csv_header(self._lines_path)
        self._lines: AppendFile = self._files.append_to(self._lines_path.name)

    def _owned(self, run: Record, *, resume: bool, overwrite: bool) -> set[str]:
        """Return the files of dlcv's in the folder, if this run may go on with them or replace them."""
        before = run_record(self.folder)
        owned = self._files.listed()
        if before is None:  # without it the list does not count
            self._require_new(resume=resume)
            return set()
        if owned is None:
            owned = files_without_list(self.folder, before)
        require_reusable(
            self.folder,
            before,
            run=run,
            names=_names(self._options),
            owned=owned,
            resume=resume,
            overwrite=overwrite,
        )
        return owned

    def _require_new(self, *, resume: bool) -> None:
        if resume and self._lines_path.exists() and not (self.folder / RUN).exists():
            raise OutputError(
                f"{self.folder} has no run.json, so what made its {self._lines_path.name} is not known; "
                "choose another --out"
            )
        require_free(self.folder, _names(self._options), owned=set())

    def _go_on(self, owned: set[str]) -> int:
        """Note what an earlier run did, delete what it had no lines for yet, and return how many lines it wrote."""
        rows = 0
        named: set[str] = set()
        for path in (self._lines_path, self.folder / ERRORS):
            drop_partial_line(path)
        for record in records_in(self._lines_path):
            rows += 1
            self.done[record["image"]] += 1
            named.update(files_named(record))
        for record in records_in(self.folder / ERRORS):
            self.done[record["image"]] += 1
            self.refused_before += 1
        self._files.remove({path for path in owned if "/" in path and path[-1] != "/"} - named)
        if OLD_PARTIAL_MATRIX in owned:
            (self.folder / OLD_PARTIAL_MATRIX).replace(self._files.matrix)
        return rows


def _names(options: WriteOptions) -> list[str]:
    """Return the names in the results folder that a run will write to."""
    names = [RUN, f"results.{options.lines}", ERRORS]
    if options.embeddings:
        names.append(f"embeddings.{options.embeddings}")
    return names + [folder for folder in FILE_FOLDERS.values() if getattr(options, folder)]
