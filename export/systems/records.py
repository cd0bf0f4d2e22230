"""The record of a run from its checkpoint to the engines: `docs/runs/RECIPE.json`, checked when it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from dlcv.runtime.errors import InputError
from dlcv.runtime.files import write_atomically
from dlcv.runtime.manifest import Model, OutputParity, ParityReport, Positive, Precision, Task

Share = Annotated[float, Meta(ge=0, le=1)]


class Scores(Model, frozen=True, kw_only=True):
    """What answers scored on `images` images, under the names that training uses; shares in 0..1.

    by_class: IoU of masks, recall of classes; None where a class does not occur.
    """

    images: Positive
    accuracy: Share
    top5: Share | None = None
    mean_iou: Share | None = None
    by_class: dict[str, Share | None]

    @property
    def metric(self) -> str:
        """The name of the figure that stands for all."""
        return "accuracy" if self.mean_iou is None else "mean IoU"

    @property
    def value(self) -> float:
        """Mean IoU of masks, accuracy of classes."""
        return self.accuracy if self.mean_iou is None else self.mean_iou


class Training(Model, frozen=True, kw_only=True):
    """How the checkpoint came about.

    epochs: of the recipe; ran: of them, until it stopped; kept: whose checkpoint it is. minutes: of training.
    train_accuracy: share of right images (pixels) in the kept epoch, as augmented. validation: the score by
    epoch, of those that are known. note: what else a reader should know.
    """

    epochs: Positive
    ran: Positive
    kept: Positive
    minutes: Annotated[float, Meta(ge=0)] | None = None
    train_accuracy: Share | None = None
    validation: dict[Positive, Share] = msgspec.field(default_factory=dict)
    note: str = ""


class Exported(Model, frozen=True, kw_only=True):
    """The bundle. seconds: of export and gate. size_bytes: all its files. peak_bytes: of the process, PyTorch included."""

    size_bytes: Positive
    seconds: float
    peak_bytes: Positive
    parity: ParityReport

    @property
    def decision(self) -> OutputParity:
        """The parity of the output that decides: probabilities or mask."""
        outputs = self.parity.outputs
        return outputs.get("probabilities") or outputs["mask"]


class Ran(Model, frozen=True, kw_only=True):
    """The bundle on an engine, over the whole test set, from files to answers."""

    engine: str
    version: str
    device: str
    precision: Precision
    scores: Scores


class Built(Model, frozen=True, kw_only=True):
    """An engine that was built, not run. profile: the batches and sizes that it takes."""

    engine: str
    version: str
    precision: Precision
    profile: str
    seconds: float
    size_bytes: Positive


class Record(Model, frozen=True, kw_only=True):
    """All of it. start: what the weights were before training. created: ISO 8601, UTC. machine: in words.

    training, checkpoint: None where the network was exported with random weights, to show that it can be.
    """

    recipe: str
    description: str
    task: Task
    network: str
    parameters: Positive
    data: str
    start: str
    created: str
    machine: str
    versions: dict[str, str]
    commands: tuple[str, ...]
    training: Training | None
    checkpoint: Scores | None
    exported: Exported
    ran: tuple[Ran, ...]
    built: tuple[Built, ...]


def scores_from_metrics(metrics: dict[str, Any]) -> Scores:
    """Return the scores in the metrics of a checkpoint or in `Evaluation.record()`."""
    fields = {name: metrics.get(name) for name in ("images", "accuracy", "top5", "mean_iou")}
    by_class = metrics["iou"] if "iou" in metrics else metrics["recall"]
    return msgspec.convert(fields | {"by_class": by_class}, Scores)


def save_record(folder: Path, record: Record) -> Path:
    """Write a record to a folder, in the place of an older one of the recipe, and return its path.

    Raises:
        OutputError: it cannot be written.
    """
    path = folder / f"{record.recipe}.json"
    text = msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
    write_atomically(path, lambda file: file.write(text))
    return path


def load_records(folder: Path) -> dict[str, Record]:
    """Return the records in a folder by recipe.

    Raises:
        InputError: a file is no record, or has another name than its recipe.
    """
    records = {}
    for path in sorted(folder.glob("*.json")):
        try:
            record = msgspec.json.decode(path.read_bytes(), type=Record)
        except msgspec.DecodeError as e:
            raise InputError(
                f"{path} is not a record of a run: {e}; make it again with dlcv-export record"
            ) from e
        if record.recipe != path.stem:
            raise InputError(f"{path} records {record.recipe}; name it {record.recipe}.json")
        records[record.recipe] = record
    return records
