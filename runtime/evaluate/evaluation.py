"""Evaluates a bundle on labelled images: accuracy, IoU and related metrics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import msgspec
import numpy as np

from dlcv.runtime.bundle import MANIFEST, Bundle, open_bundle, save_bundle
from dlcv.runtime.bundle.contract import TASKS
from dlcv.runtime.bundle.manifest import CARD_FILE, json_from_manifest
from dlcv.runtime.bundle.report import card_with_metrics
from dlcv.runtime.bundle.schema import Deployed, ScoreName
from dlcv.runtime.errors import BundleError, InputError, OutputError
from dlcv.runtime.evaluate.labelled import LabelledImage
from dlcv.runtime.evaluate.metrics import METRICS, Counts, confusion, mean_iou, top1
from dlcv.runtime.images import source_of
from dlcv.runtime.images.label_masks import (
    Strays,
    decoded_mask,
    mask_coding_from_classes,
    stray_note,
)
from dlcv.runtime.machine.atomic_files import write_atomically
from dlcv.runtime.results import Classification, Refused, Result, Segmentation

if TYPE_CHECKING:
    from dlcv.runtime.bundle.manifest import Manifest
    from dlcv.runtime.bundle.schema import VariantName
    from dlcv.runtime.running.predictor import Predictor

_TOP = 5


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric in 0..1, and the number of images it was measured on."""

    metric: ScoreName
    value: float
    images: int

    def __str__(self) -> str:
        """Return the score as text, such as "mean IoU 0.671 on 101 images"."""
        name = {"top1": "accuracy", "mean_iou": "mean IoU"}[self.metric]
        return f"{name} {self.value:.3f} on {self.images:,} images"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The predictions on a whole data set, counted.

    matrix: int64 (classes, classes), rows = labels, of images (classify) or of pixels that are not ignored
    (segment). top5: share of images with the right class among the five likeliest; None for masks or up to five
    classes. images: how many were scored. refused: images that could not be scored, each with the reason.
    notes: remarks for readers of the figures, such as mask pixels that have no class. seconds: from reading the
    first image to counting the last prediction, without loading the engine. ran: what ran, as
    `Predictor.description`.
    """

    class_names: tuple[str, ...]
    matrix: Counts
    top5: float | None
    images: int
    refused: tuple[str, ...]
    notes: tuple[str, ...] = ()
    seconds: float
    ran: dict[str, Any]

    @property
    def score(self) -> Score:
        """The main metric, as the contract of the task names it."""
        metric = self._metric
        return Score(metric=metric, value=METRICS[metric](self.matrix), images=self.images)

    @property
    def _metric(self) -> ScoreName:
        metric = TASKS[self.ran["task"]].score
        assert metric is not None, "only what has a score is evaluated on labels"
        return metric

    def record(self) -> dict[str, Any]:
        """Return the metrics for JSON, under the names that training uses. None: the class does not occur."""
        return {
            **self._metrics(),
            "images": self.images,
            "refused": list(self.refused),
            "notes": list(self.notes),
            "images_per_second": round(self.images / self.seconds, 2),
            "confusion": self.matrix.tolist(),
            "ran": self.ran,
        }

    def _metrics(self) -> dict[str, Any]:
        hits = self.matrix.diagonal()
        labelled, predicted = self.matrix.sum(axis=1), self.matrix.sum(axis=0)
        if self._metric == "mean_iou":
            iou = self._by_class(hits, labelled + predicted - hits)
            return {"mean_iou": mean_iou(self.matrix), "accuracy": top1(self.matrix), "iou": iou}
        top5 = {} if self.top5 is None else {"top5": self.top5}
        recall = self._by_class(hits, labelled)
        return {"accuracy": top1(self.matrix), **top5, "recall": recall}

    def _by_class(self, part: Counts, whole: Counts) -> dict[str, float | None]:
        rows = zip(self.class_names, part.tolist(), whole.tolist(), strict=True)
        return {name: hits / total if total else None for name, hits, total in rows}


def evaluate(
    predictor: Predictor,
    items: Sequence[LabelledImage],
    *,
    on_progress: Callable[[], object] | None = None,
) -> Evaluation:
    """Run a bundle on labelled images and count its predictions. Unreadable images are skipped and reported.

    Masks are compared at the original image's size.

    Raises:
        InputError: no image could be scored, or a mask or label does not fit.
    """
    tally = _Tally(predictor.bundle.manifest)
    start = time.perf_counter()
    results = predictor.stream(source_of(item.name, item.read) for item in items)
    for item, result in zip(items, results, strict=True):
        tally.add(item, result)
        if on_progress:
            on_progress()
    tally.require_some()
    return Evaluation(
        class_names=tally.class_names,
        matrix=tally.matrix,
        top5=tally.in_top / tally.images if tally.has_top else None,
        images=tally.images,
        refused=tuple(tally.refused),
        notes=(stray_note(tally.strays),) if tally.strays else (),
        seconds=time.perf_counter() - start,
        ran=predictor.description(),
    )


def score(predictor: Predictor, items: Sequence[LabelledImage]) -> Score:
    """Run a classifier or segmenter on labelled images and return its main metric.

    Masks are compared at the original image's size.

    Raises:
        InputError: there are no images, one cannot be read, or a mask has another size than its image.
    """
    if not items:
        raise InputError("there are no labelled images to score on")
    found = evaluate(predictor, items)
    if found.refused:
        raise InputError(found.refused[0])
    return found.score


def recorded(bundle: Bundle, evaluation: Evaluation, *, data: str) -> Bundle:
    """Write a score to the bundle's manifest and model card, in one step, and return the updated bundle.

    An earlier score of the same variant, engine, arithmetic and data is replaced. data: what was scored on, in words.

    Raises:
        OutputError: the bundle ships with dlcv, or cannot be written.
        BundleError: the bundle is not what was evaluated, or not any more.
    """
    require_recordable(bundle)
    current, ran = open_bundle(bundle.path), evaluation.ran
    if current.sha256 != ran["bundle_sha256"]:
        raise BundleError(f"{bundle.path} is not the bundle that was evaluated; evaluate it again")
    deployed = Deployed(
        **vars(evaluation.score),
        data=data,
        engine=ran["engine"],
        engine_version=ran["engine_version"],
        device=ran["device"],
        precision=ran["precision"],
    )
    manifest = _with_record(current, deployed, name=ran["variant"])
    if CARD_FILE not in manifest.files:
        write_atomically(bundle.path / MANIFEST, lambda f: f.write(json_from_manifest(manifest)))
        return Bundle(path=bundle.path, manifest=manifest)
    files = {name: current.read(name) for name in manifest.files}
    files[CARD_FILE] = card_with_metrics(files[CARD_FILE].decode(), manifest).encode()
    return save_bundle(bundle.path, manifest, files=files, overwrite=True)


def require_recordable(bundle: Bundle) -> None:
    """Check in advance what `recorded` requires.

    Raises:
        OutputError: the bundle ships with dlcv.
    """
    if bundle.ships_with_dlcv:
        raise OutputError(
            f"{bundle.manifest.name} ships with dlcv and stays as it is; copy {bundle.path} and name the copy"
        )


def _with_record(bundle: Bundle, deployed: Deployed, *, name: VariantName) -> Manifest:
    replace = msgspec.structs.replace
    graph = bundle.graph()
    variant = graph.variants[name]
    kept = [
        old
        for old in variant.deployed
        if (old.engine, old.data, old.precision)
        != (deployed.engine, deployed.data, deployed.precision)
    ]
    changed = replace(variant, deployed=(*kept, deployed))
    graph = replace(graph, variants={**graph.variants, name: changed})
    return replace(bundle.manifest, graphs={**bundle.manifest.graphs, "model": graph})


@final
class _Tally:
    """Counts predictions one by one."""

    def __init__(self, manifest: Manifest) -> None:
        self.class_names = tuple(info.name for info in manifest.classes)
        self.has_top = manifest.task == "classify" and len(self.class_names) > _TOP
        count = len(self.class_names)
        self.matrix: Counts = np.zeros((count, count), np.int64)
        self.images = self.in_top = 0
        self.refused: list[str] = []
        self.strays: Strays = Counter()
        self._coding = mask_coding_from_classes(manifest.classes)

    def add(self, item: LabelledImage, result: Result | Refused) -> None:
        """Count one prediction. Raises as `evaluate`."""
        if isinstance(result, Refused):
            self.refused.append(f"{item.name}: {result.reason}")
            return
        if isinstance(result, Classification) and item.label is not None:
            self._add_class(item.label, result, name=item.name)
        elif isinstance(result, Segmentation) and item.read_mask is not None:
            self._add_mask(item.read_mask(), result, item=item)
        else:
            raise InputError(f"the label of {item.name} does not fit what the bundle answers")
        self.images += 1

    def require_some(self) -> None:
        """Check that at least one image was counted. Raises as `evaluate`."""
        if not self.images:
            reason = self.refused[0] if self.refused else "there are none"
            raise InputError(f"no image could be scored; {reason}")
        if not self.matrix.any():
            reason = f"; {stray_note(self.strays)}" if self.strays else ""
            raise InputError(
                f"no mask has a pixel of one of the {len(self.class_names)} classes{reason}"
            )

    def _add_class(self, label: int, result: Classification, *, name: str) -> None:
        count = len(self.class_names)
        if not 0 <= label < count:
            raise InputError(
                f"{name} has label {label}; the bundle has {count} classes, 0..{count - 1}"
            )
        self.matrix[label, result.label.index] += 1
        self.in_top += label in {likely.index for likely in result.top(_TOP)}

    def _add_mask(self, data: bytes, result: Segmentation, *, item: LabelledImage) -> None:
        found = decoded_mask(data, self._coding, name=item.mask or item.name)
        if found.labels.shape != result.mask.shape:
            raise InputError(
                f"the mask of {item.name} is {found.labels.shape}, its image {result.mask.shape}; "
                "they must have the same size"
            )
        self.matrix += confusion(found.labels, result.mask, classes=len(self.class_names))
        self.strays.update(found.strays)
