"""Renders the page of all systems from their rows and the records of runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dlcv.export.systems.records import (
    Exported,
    Ran,
    Record,
    Scores,
    Training,
    load_records,
)
from dlcv.export.systems.rows import Report, Row, load_reports
from dlcv.runtime.errors import InputError

_HEAD = """# Systems

Made by `make systems` from [systems.yaml](systems.yaml) and the records in [runs/](runs/); do not edit.

Four course reports describe the systems below. Each is a recipe (`dlcv-train recipes`) that trains it, a bundle that is
exported from it and passes the parity gate, and engines that run the bundle. **A report's figures were reached on its own
data and hardware; ours on what was at hand, which is often less, and then a reduced run stands beside the full one.** Where
the two differ is said below each table. A record is made by `dlcv-export record RUN`, of a network that was not trained here
by `dlcv-export record RECIPE --untrained`: full size, random weights, the same gate. Times are of a machine that did other
work meanwhile; [benchmarks.md](benchmarks.md) is about speed.

| column | what it says |
|---|---|
| reached | the checkpoint in PyTorch, on images that it was not trained on: accuracy of classifiers, mean IoU of segmenters, accuracy of a linear probe on BYOL's embeddings, mean accuracy over few-shot episodes with its 95 % interval, CIDEr of captions |
| reported | what the report says |
| bundle | its size: graph, golden cases, manifest, model card |
| parity | ONNX Runtime against PyTorch on the sample photos of dlcv, at two batch sizes: the largest difference of a probability, and of the embedding as a share of its largest value; of a mask, the share of pixels that are the same; elsewhere the difference by output |
| `ort`, `openvino` | the bundle over the whole test set: the same figure as "reached" |
| TensorRT-RTX | its engine **was built, not run**: this machine has no GPU. Time to build, size |
"""
_TABLE = (
    "row",
    "system",
    "recipe",
    "reached",
    "reported",
    "bundle",
    "parity",
    "`ort`",
    "`openvino`",
    "TensorRT-RTX",
)


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A line of a table: a recipe of a row, with its record if there is one. first: shows the row's own figure."""

    row: Row
    recipe: str
    record: Record | None
    first: bool


def page(folder: Path) -> str:
    """Return docs/systems.md. folder: contains systems.yaml and runs/.

    Raises:
        InputError: one of them cannot be read, or a run belongs to no row.
    """
    reports, records = load_reports(folder / "systems.yaml"), load_records(folder / "runs")
    rows = [row for report in reports for row in report.rows]
    known = {recipe for row in rows for recipe in (*row.recipes, *row.reduced)}
    if strangers := sorted(records.keys() - known):
        raise InputError(
            f"runs/{strangers[0]}.json is of no row; name its recipe in a row of systems.yaml"
        )
    sections = [_report_section(report, records) for report in reports]
    return "\n".join((_HEAD, _summary(rows, records), *sections, *_runs(rows, records)))


def _summary(rows: Sequence[Row], records: Mapping[str, Record]) -> str:
    systems = [row for row in rows if row.recipes]
    full = [row for row in systems if _trained(row.recipes, records)]
    reduced = [row for row in systems if row not in full and _trained(row.reduced, records)]
    exported = [row for row in systems if all(recipe in records for recipe in row.recipes)]
    return (
        f"Of {len(systems)} systems, {len(full)} were trained here at full size ({_ids(full)}), {len(reduced)} more at a "
        f"reduced one ({_ids(reduced)}); {len(exported)} were exported at full size, trained or not. {len(rows) - len(systems)} "
        "rows are pictures and tables.\n"
    )


def _trained(recipes: Iterable[str], records: Mapping[str, Record]) -> bool:
    return any(recipe in records and records[recipe].training for recipe in recipes)


def _ids(rows: Sequence[Row]) -> str:
    return ", ".join(row.id for row in rows) or "none"


def _report_section(report: Report, records: Mapping[str, Record]) -> str:
    lines = [
        _Line(row=row, recipe=recipe, record=records.get(recipe), first=number == 0)
        for row in report.rows
        for number, recipe in enumerate((*row.recipes, *row.reduced))
    ]
    parts = [
        f"## {report.id}: {report.title}\n",
        *_table([_TABLE, *map(_cells, lines)]),
        *_iou_table(lines),
        *_shots_table(lines),
        *_shown_table(report.rows),
        *_differences(report.rows),
    ]
    return "\n".join([*parts, ""])


def _cells(line: _Line) -> tuple[str, ...]:
    system, reported = (line.row.system, line.row.reported) if line.first else ("", "")
    reduced = " (reduced)" if line.recipe in line.row.reduced else ""
    record = line.record
    if record is None:
        name = f"`{line.recipe}`{reduced}"
        return (line.row.id, system, name, "not recorded yet", reported, *[""] * 5)
    exported, ran = record.exported, {found.engine: found for found in record.ran}
    built = [
        f"{'' if len(record.built) == 1 else f'{b.graph} '}{b.seconds:.1f} s, {_megabytes(b.size_bytes)}"
        for b in record.built
    ]
    reached = f"**{_figure(record.checkpoint)}**" if record.checkpoint else "not trained here"
    return (
        line.row.id,
        system,
        f"[`{line.recipe}`](#{line.recipe}){reduced}",
        reached,
        reported,
        _megabytes(exported.size_bytes),
        _parity(exported),
        _ran(ran.get("ort"), "parity only"),
        _ran(ran.get("openvino"), "not run"),
        "; ".join(built) or "not built",
    )


def _ran(ran: Ran | None, otherwise: str) -> str:
    return otherwise if ran is None else _share(ran.scores.value)


def _parity(exported: Exported) -> str:
    outputs = exported.outputs
    if "mask" in outputs:
        return f"{100 * (outputs['mask'].agreement or 0):.4f} %"
    if "probabilities" in outputs:
        return "; ".join(f"{outputs[n].max_difference:.0e}" for n in ("probabilities", "embedding"))
    return "; ".join(f"{name} {parity.max_difference:.0e}" for name, parity in outputs.items())


def _iou_table(lines: Sequence[_Line]) -> list[str]:
    """Return the IoU of each class: reported, and of every trained segmenter."""
    trained = {
        line.recipe: line.record.checkpoint.by_class
        for line in lines
        if line.record and line.record.checkpoint and line.record.task == "segment"
    }
    reported = {f"{line.row.id}, reported": line.row.iou for line in lines if line.row.iou}
    columns: list[tuple[str, Mapping[str, float | None]]] = [
        *reported.items(),
        *((f"`{recipe}`", values) for recipe, values in trained.items()),
    ]
    if not columns:
        return []
    classes = dict.fromkeys(name for _, values in columns for name in values)
    rows = [(name, *(_optional(values.get(name)) for _, values in columns)) for name in classes]
    means = [[v for v in values.values() if v is not None] for _, values in columns]
    mean = ("**mean**", *(f"**{_share(sum(values) / len(values))}**" for values in means))
    head = ("IoU", *(name for name, _ in columns))
    return ["", *_table([head, *rows, mean])]


def _shots_table(lines: Sequence[_Line]) -> list[str]:
    """Return the accuracy by number of shots of every trained few-shot network."""
    trained = {
        line.recipe: line.record.checkpoint
        for line in lines
        if line.record and line.record.checkpoint and line.record.checkpoint.shots
    }
    if not trained:
        return []
    shots = list(dict.fromkeys(shot for scores in trained.values() for shot in scores.shots))
    rows = [
        (f"`{recipe}`", *(_with_interval(scores, shot) for shot in shots))
        for recipe, scores in trained.items()
    ]
    return ["", *_table([("accuracy, 95 % interval", *shots), *rows])]


def _with_interval(scores: Scores, shot: str) -> str:
    if shot not in scores.shots:
        return ""
    return f"{_share(scores.shots[shot])} ± {_share(scores.intervals[f'{shot} ±'])}"


def _shown_table(rows: Sequence[Row]) -> list[str]:
    shown = [(row.id, row.system, row.reported, row.shown) for row in rows if row.shown]
    if not shown:
        return []
    return ["", *_table([("row", "what", "reported", "how it is made here"), *shown])]


def _differences(rows: Sequence[Row]) -> Iterator[str]:
    """Return the differences from the report, each once for all rows that share it."""
    yield ""
    for here in dict.fromkeys(row.here for row in rows if row.here):
        yield f"- {_ids([row for row in rows if row.here == here])}: {here}"


def _runs(rows: Sequence[Row], records: Mapping[str, Record]) -> Iterator[str]:
    """Return each run once, in the order of the rows."""
    yield "## Runs\n"
    for recipe in dict.fromkeys(name for row in rows for name in (*row.recipes, *row.reduced)):
        if record := records.get(recipe):
            yield f"### {recipe}\n"
            yield from _run_lines(record)


def _run_lines(record: Record) -> Iterator[str]:
    yield f"{record.description}. {record.parameters:,} parameters.\n"
    if record.training is None:
        yield (
            f"**Not trained here**: exported with {record.start}. Export and parity took {record.exported.seconds:.0f} s "
            f"and {record.exported.peak_bytes / 1e9:.1f} GB with PyTorch. To train it:\n"
        )
    else:
        yield f"{_training_words(record, record.training)}\n"
    yield "```sh"
    yield from record.commands
    yield "```\n"
    if record.checkpoint and record.ran:
        yield f"{_deployed_words(record)}\n"
    yield f"Data: {record.data}\n"
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    yield f"Recorded {record.created[:10]} on {record.machine}; {versions}.\n"


def _training_words(record: Record, training: Training) -> str:
    stopped = "" if training.ran == training.epochs else f" of at most {training.epochs}"
    time = f" in {training.minutes:.0f} minutes" if training.minutes is not None else ""
    words = f"Started from {record.start}; {training.ran} epochs{stopped}{time}; epoch {training.kept} was kept. "
    if training.train_accuracy is not None:
        kind = "Pixel accuracy" if record.task == "segment" else "Accuracy"
        words += f"{kind} on the training images, as augmented: {_share(training.train_accuracy)}. "
    scores = [f"{_share(score)} (epoch {epoch})" for epoch, score in training.validation.items()]
    words += f"Validation: {', '.join(scores)}. " if scores else ""
    if record.checkpoint:
        scored = record.checkpoint
        words += f"Final: {scored.metric} **{scored.value:.4f}**{_interval(scored)}{_besides(scored)} on {scored.images:,} images. "
    return (words + training.note).strip()


def _besides(scores: Scores) -> str:
    """Return the figures besides the main one."""
    names = {
        "top5": "top-5",
        "random_accuracy": "at random weights",
        "bleu4": "BLEU-4",
        "remembered": "remembered of its own photos",
    }
    values = {words: getattr(scores, name) for name, words in names.items()}
    return "".join(f", {words} {_share(v)}" for words, v in values.items() if v is not None)


def _figure(scores: Scores) -> str:
    """Return the main figure, with its interval if it has one."""
    return _share(scores.value) + _interval(scores)


def _interval(scores: Scores) -> str:
    return "" if scores.interval is None else f" ± {_share(scores.interval)}"


def _deployed_words(record: Record) -> str:
    ran = [
        f"{r.scores.value:.4f} on {r.engine} {r.version} {r.device} {r.precision}{_agreement(r)}"
        for r in record.ran
    ]
    end = ", files to answers" if record.task in ("classify", "segment", "caption") else ""
    return f"The bundle: {record.ran[0].scores.metric} {', '.join(ran)}{end}."


def _agreement(ran: Ran) -> str:
    if ran.agreement is None:
        return ""
    return f" ({100 * ran.agreement:.4g} % of its answers are the checkpoint's)"


def _optional(value: float | None) -> str:
    return "" if value is None else _share(value)


def _share(value: float) -> str:
    """Format a share as the reports do: .734."""
    return f"{value:.3f}".removeprefix("0")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size < 100e6 else f"{size / 1e6:.0f} MB"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return [head, f"|{'---|' * len(rows[0])}", *body]
