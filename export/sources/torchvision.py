"""Classifiers and segmenters of torchvision: `torchvision:resnet50`, `torchvision:NAME@WEIGHTS`."""

from __future__ import annotations

import difflib
from typing import Any

import torchvision
from torch import nn
from torchvision import models
from torchvision.transforms import _presets as presets

from dlcv.export.sources.base import (
    ExportSource,
    SourceOptions,
    activation_of_classifier,
    prepared_images,
    read_classes,
    settings_from_text,
)
from dlcv.export.sources.imagenet import readable_names
from dlcv.export.sources.pretrained import (
    LIMITS_OF_RANDOM,
    data_of_weights,
    download_failed,
    origin_of,
    seeded,
    take_weights,
)
from dlcv.runtime.bundle.schema import ClassInfo, Metric, Preprocessing, Task
from dlcv.runtime.errors import InputError

_MULTIPLE = 8
_LONGER_SIDE = 4 / 3  # torchvision fixes the shorter side; photos are mostly 4:3
# torchvision's builders set this only for published weights.
_TRANSFORMS_INPUT = ("googlenet", "inception_v3")
_AUXILIARY = ("aux_classifier.",)  # segmenters: a second head that only training uses
_KINDS = {"classify": "classifier", "segment": "segmenter"}
_TASKS: dict[type, Task] = {
    presets.ImageClassification: "classify",
    presets.SemanticSegmentation: "segment",
}


def source_from_torchvision(spec: str, options: SourceOptions) -> ExportSource:
    """Build a torchvision model with its published weights, weights from a file, or random ones.

    Classes and preprocessing are those of the weights entry: the default one, or the one named after "@".

    Raises:
        InputError: no such model or entry; no download; options that do not fit.
        RecipeError: the weights file does not fit.
    """
    name, _, entry_name = spec.partition("@")
    entry = _entry(name, entry_name)
    preset = entry.transforms()
    task = _TASKS.get(type(preset))
    if task is None:
        raise InputError(f"torchvision:{name} neither classifies nor segments images")
    own = tuple(ClassInfo(name=name) for name in readable_names(entry.meta["categories"]))
    classes = read_classes(options.classes) if options.classes else own
    published = options.weights is None and not options.random
    return ExportSource(
        model=_model(name, entry, options, task=task, num_classes=len(classes)),
        name=name.replace("_", "-"),
        task=task,
        classes=classes,
        **prepared_images(
            _preprocessing(preset, task),
            mean=tuple(preset.mean),
            std=tuple(preset.std),
            options=options,
        ),
        **activation_of_classifier(options, task=task),
        description=f"Image {_KINDS[task]} {name} of torchvision.",
        licence=_licence(options),
        origin=origin_of(f"torchvision:{spec}", options),
        data=data_of_weights(
            options, published=f"torchvision's weights {entry.name}: {entry.meta['recipe']}"
        ),
        remake=(f"dlcv-export bundle torchvision:{spec}{options.command_line}",),
        limits=LIMITS_OF_RANDOM if options.random else (),
        metrics=_metrics(entry) if published else (),
    )


def _entry(name: str, entry_name: str) -> Any:
    try:
        entries: Any = models.get_model_weights(name)
    except ValueError as e:
        near = difflib.get_close_matches(name, models.list_models(), n=3)
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise InputError(
            f"torchvision {torchvision.__version__} has no model {name!r}{hint}"
        ) from e
    if entry_name and entry_name not in entries.__members__:
        known = ", ".join(entries.__members__)
        raise InputError(f"torchvision:{name} has no weights {entry_name!r}, only {known}")
    return entries[entry_name] if entry_name else entries.DEFAULT


def _model(
    name: str, entry: Any, options: SourceOptions, *, task: Task, num_classes: int
) -> nn.Module:
    settings: dict[str, Any] = {"num_classes": num_classes, **settings_from_text(options.settings)}
    if task == "segment":
        settings["weights_backbone"] = None
    elif name in _TRANSFORMS_INPUT:
        settings |= {"transform_input": True, "init_weights": False}
    elif options.size is not None and name.startswith("vit_"):
        settings["image_size"] = options.size[0]
    with seeded():
        if options.weights is not None or options.random:
            try:
                model = models.get_model(name, weights=None, **settings)
            except (TypeError, ValueError) as e:
                reason = " ".join(str(e).split())
                raise InputError(
                    f"torchvision:{name} cannot be built with these --set: {reason}"
                ) from e
            return take_weights(model, options, unused=_AUXILIARY)
        try:
            model = models.get_model(name, weights=entry, **settings_from_text(options.settings))
        except Exception as e:  # the download raises errors of urllib, of hash checks and of files
            raise download_failed(f"torchvision:{name}", e) from e
        published: nn.Module = model.eval()
        return published


def _preprocessing(preset: Any, task: Task) -> Preprocessing:
    shorter = preset.resize_size[0]
    resample = preset.interpolation.value
    if task == "classify":
        crop = preset.crop_size[0]
        return Preprocessing(
            resize="center_crop",
            size=(crop, crop),
            resample=resample,
            crop_fraction=crop / shorter,
        )
    longer = round(shorter * _LONGER_SIDE / _MULTIPLE) * _MULTIPLE
    return Preprocessing(
        resize="longest_side", size=(shorter, longer), multiple=_MULTIPLE, resample=resample
    )


def _licence(options: SourceOptions) -> str:
    if options.random:
        return "random weights: none needed"
    if options.weights is not None:
        return "not stated; the terms of the weights file apply"
    return "torchvision is BSD-3-Clause; the terms of the weights' training data apply"


def _metrics(entry: Any) -> tuple[Metric, ...]:
    return tuple(
        Metric(name=name, value=float(value), data=f"{data}, as published by torchvision")
        for data, values in entry.meta.get("_metrics", {}).items()
        for name, value in values.items()
    )
