"""Formats tunings and benchmarks as tables, and saves them as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from dlcv.runtime.engines.tuned import Row, Tuning
from dlcv.runtime.machine.atomic_files import write_atomically

if TYPE_CHECKING:
    from dlcv.runtime.measure.bench import Report

_HEAD = (
    "engine",
    "precision",
    "batch",
    "threads",
    "settings",
    "images/s",
    "ms a call",
    "quartiles",
    "x plain",
    "x plain, busy",
    "proof",
)


def tuning_table(tuning: Tuning) -> list[tuple[str, ...]]:
    """Return a tuning as table rows: the header, the candidates from best to worst, then plain ONNX Runtime."""
    return [_HEAD, *map(_cells, tuning.rows), *map(_cells, tuning.plain)]


def tuning_summary(tuning: Tuning) -> str:
    """Return the chosen configuration, in a sentence or two."""
    best = tuning.rows[0]
    words = " ".join([best.engine, best.precision, *_settings(best)])
    takes = "would take" if tuning.unsteady else "now takes"
    text = f"--engine auto {takes} {words}, batch {best.batch}"
    text += f", threads {best.threads}" if best.threads else ""
    reference = max(tuning.plain, key=lambda row: row.images_per_second, default=None)
    if reference is None:
        return text
    share = best.images_per_second / reference.images_per_second
    return f"{text}: {share:.2f} times the images/s of plain ONNX Runtime at its best batch, {reference.batch}"


def table_from_report(report: Report) -> list[tuple[str, ...]]:
    """Return a benchmark as table rows, the header first."""
    head = (
        "figure",
        "engine",
        "batch",
        "images a call",
        "images/s",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "calls",
        "x plain",
    )
    return [
        head,
        *(
            (
                f.figure,
                f.label,
                str(f.batch),
                str(f.images),
                f"{f.images_per_second:.1f}",
                f"{f.p50_ms:.2f}",
                f"{f.p90_ms:.2f}",
                f"{f.p99_ms:.2f}",
                str(f.calls),
                "" if f.ratio is None else f"{f.ratio:.2f}",
            )
            for f in report.figures
        ),
    ]


def save_json(measured: Report | Tuning, path: Path) -> None:
    """Write a benchmark or a tuning as JSON, creating its folder.

    Raises:
        OutputError: it cannot be written.
    """
    text = msgspec.json.format(msgspec.json.encode(measured), indent=2) + b"\n"
    write_atomically(path, lambda file: file.write(text))


def _cells(row: Row) -> tuple[str, ...]:
    low, high = row.quartiles_ms
    return (
        row.engine,
        row.precision,
        str(row.batch),
        str(row.threads or ""),
        " ".join(_settings(row)),
        f"{row.images_per_second:.1f}",
        f"{row.ms_per_call:.2f}",
        f"{low:.2f} to {high:.2f}",
        "" if row.ratio is None else f"{row.ratio:.2f}",
        "" if row.busy_ratio is None else f"{row.busy_ratio:.2f}",
        row.proof,
    )


def _settings(row: Row) -> list[str]:
    return [f"{key}={value}" for key, value in row.settings.items()]
