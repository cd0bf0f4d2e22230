"""The record of a run, from checkpoint to engines: `docs/runs/RECIPE.json`, validated when read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from dlcv.runtime.bundle.schema import Model, OutputParity, ParityReport, Positive, Precision, Task
from dlcv.runtime.errors import InputError
from dlcv.runtime.machine.atomic_files import write_atomically

Share = Annotated[float, Meta(ge=0, le=1)]
_METRICS = {  # candidates for the main metric; the first available is used
    "mean_iou": "mean IoU",
    "probe_accuracy": "accuracy of a linear probe",
    "cider": "CIDEr",
    "accuracy": "accuracy",
}


class Scores(Model, frozen=True, kw_only=True, omit_defaults=True):
    """Scores on `images` images, under the names that training uses; shares in 0..1.

    accuracy: of classes, of pixels, or the mean over few-shot episodes with a 95 % interval of ± `interval`.
    by_class: IoU for masks, recall for classes; None where a class does not occur. shots, intervals: accuracy
    over episodes and its interval by number of shots. probe_accuracy: of a linear probe on embeddings;
    random_accuracy: the same with random weights. remembered: share of training photos that were given one of
    their own captions.
    """

    images: Positive
    accuracy: Share | None = None
    top5: Share | None = None
    mean_iou: Share | None = None
    by_class: dict[str, Share | None] = msgspec.field(default_factory=dict)
    interval: float | None = None
    shots: dict[str, Share] = msgspec.field(default_factory=dict)
    intervals: dict[str, float] = msgspec.field(default_factory=dict)
    probe_accuracy: Share | None = None
    random_accuracy: Share | None = None
    bleu4: Share | None = None
    cider: float | None = None
    remembered: Share | None = None

    @property
    def metric(self) -> str:
        """The name of the main metric."""
        return _METRICS[self._standing]

    @property
    def value(self) -> float:
        """The value of the main metric."""
        value: float = getattr(self, self._standing)
        return value

    @property
    def _standing(self) -> str:
        return next(name for name in _METRICS if getattr(self, name) is not None)

    def __post_init__(self) -> None:
        if all(getattr(self, name) is None for name in _METRICS):
            raise ValueError(f"scores need one of {', '.join(_METRICS)}")


class Training(Model, frozen=True, kw_only=True):
    """How the checkpoint was trained.

    epochs: of the recipe; ran: epochs until training stopped; kept: the epoch of the checkpoint. minutes: of
    training. train_accuracy: share of correct images (pixels) in the kept epoch, with augmentation. validation:
    the score by epoch, where known. note: further remarks.
    """

    epochs: Positive
    ran: Positive
    kept: Positive
    minutes: Annotated[float, Meta(ge=0)] | None = None
    train_accuracy: Share | None = None
    validation: dict[Positive, Share] = msgspec.field(default_factory=dict)
    note: str = ""


class Exported(Model, frozen=True, kw_only=True):
    """The exported bundle.

    seconds: of export and gate. size_bytes: of all files. peak_bytes: of the process, PyTorch included. parity:
    of the graph that takes images. further: of the other graphs, by name.
    """

    size_bytes: Positive
    seconds: float
    peak_bytes: Positive
    parity: ParityReport
    further: dict[str, ParityReport] = msgspec.field(default_factory=dict)

    @property
    def outputs(self) -> dict[str, OutputParity]:
        """The parity of every output of every graph."""
        reports = (self.parity, *self.further.values())
        return {name: parity for report in reports for name, parity in report.outputs.items()}


class Ran(Model, frozen=True, kw_only=True):
    """The bundle's scores on an engine, over the whole test set.

    agreement: share of its answers that equal the checkpoint's: queries of episodes, captions word by word.
    """

    engine: str
    version: str
    device: str
    precision: Precision
    scores: Scores
    agreement: Share | None = None


class Built(Model, frozen=True, kw_only=True):
    """An engine that was built from a graph but not run. profile: the batches and sizes that it takes."""

    engine: str
    version: str
    graph: str = "model"
    precision: Precision
    profile: str
    seconds: float
    size_bytes: Positive


class Record(Model, frozen=True, kw_only=True):
    """The whole record.

    start: the weights before training. created: ISO 8601, UTC. machine: a description. training, checkpoint:
    None if the network was exported with random weights, only to test the export.
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
    """Return the scores from a checkpoint's metrics, or from the `record()` of a bundle's evaluation."""
    fields = {name: metrics[name] for name in Scores.__struct_fields__ if name in metrics}
    by_class = metrics.get("iou", metrics.get("recall", {}))
    return msgspec.convert(fields | {"by_class": by_class}, Scores)


def save_record(folder: Path, record: Record) -> Path:
    """Write a record to a folder, replacing an older one of the recipe. Return its path.

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
