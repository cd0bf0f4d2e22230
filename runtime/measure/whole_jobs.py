"""Whole jobs as something to time: photos to a results folder, as many photos as fill the time, at any speed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from tempfile import mkdtemp
from typing import final

from dlcv.runtime.images.sources import expand_inputs
from dlcv.runtime.measure.timing import WARM_UPS, Subject
from dlcv.runtime.results import WriteOptions
from dlcv.runtime.results.folder import FolderWriter
from dlcv.runtime.running.job import Answering, run_job

MOST_PHOTOS = 100_000
_MOST_BYTES = 2**30  # of one job's results; they are deleted before the next
_MOST_OF_DISK = 0.25  # of what is free


@final
@dataclass(frozen=True, kw_only=True)
class WholeJobs:
    """Jobs of one predictor over the same photos, again and again.

    folder: where each job's results go until it is timed.
    """

    predictor: Answering
    photos: Sequence[str]
    folder: Path
    write: WriteOptions

    def subject(self, *, least: int, seconds: float) -> tuple[Subject, int]:
        """Warm up, and return a job of so many photos as take about `seconds`, and their number: `least` or more.

        The photos are repeated as often as needed, within bounds of disk space.

        Raises:
            OutputError: results cannot be written.
        """
        taken, size = 0.0, 0
        for _ in range(WARM_UPS):
            taken, size = self._run(least)
        room = min(_MOST_BYTES, _MOST_OF_DISK * shutil.disk_usage(self.folder).free)
        fitting = min(MOST_PHOTOS, int(room * least / max(1, size)))
        images = max(least, min(fitting, int(seconds * least / taken)))
        return Subject(
            turn=lambda repeats: [self._run(images)[0] for _ in range(repeats)],
            estimate=taken * images / least,
        ), images

    def _run(self, images: int) -> tuple[float, int]:
        """Run a job; return its seconds and the bytes of its results, which are deleted."""
        files = list(islice(cycle(self.photos), images))
        folder = Path(mkdtemp(dir=self.folder))
        start = time.perf_counter()
        run_job(self.predictor, expand_inputs(files), FolderWriter(folder, self.write, run={}))
        seconds = time.perf_counter() - start
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        shutil.rmtree(folder)
        return seconds, size
