"""Classifiers of timm, by name: `timm:vit_tiny_patch16_224`."""

from __future__ import annotations

import difflib
from typing import Any

import timm
from timm.data.config import resolve_model_data_config
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import nn

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
from dlcv.runtime.bundle.schema import ClassInfo, Preprocessing, Resize, Task
from dlcv.runtime.errors import InputError

_RESAMPLE = ("bilinear", "bicubic", "lanczos")
_RESIZE: dict[str, Resize] = {"center": "center_crop", "squash": "stretch"}


def source_from_timm(name: str, options: SourceOptions) -> ExportSource:
    """Build a timm classifier with its published weights, weights from a file, or random ones.

    Raises:
        InputError: no such model; the weights cannot be downloaded; options that do not fit.
        RecipeError: the weights file does not fit.
    """
    _require_known(name)
    given = read_classes(options.classes) if options.classes else None
    settings = settings_from_text(options.settings)
    channels = settings.get("in_chans", 3)
    if channels not in (1, 3):
        raise InputError(f"a bundle takes images of 1 or 3 channels, not in_chans={channels}")
    model: Any = _model(name, options, settings=settings, num_classes=len(given) if given else None)
    task: Task = "classify" if model.num_classes else "embed"
    config: dict[str, Any] = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    return ExportSource(
        model=model,
        name=name.replace(".", "-"),
        task=task,
        classes=_classes(name, model, given=given) if task == "classify" else (),
        **prepared_images(
            _preprocessing(name, config, channels=channels),
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            options=options,
        ),
        **activation_of_classifier(options, task=task),
        description=f"Image {'classifier' if task == 'classify' else 'embedder'} {name} of timm.",
        licence=_licence(model, options),
        origin=origin_of(f"timm:{name}", options),
        data=data_of_weights(options, published="See timm's description of these weights."),
        remake=(f"dlcv-export bundle timm:{name}{options.command_line}",),
        limits=LIMITS_OF_RANDOM if options.random else (),
    )


def _require_known(name: str) -> None:
    architecture = name.partition(".")[0]
    if timm.is_model(architecture):
        return
    near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
    hint = f"; near it are {', '.join(near)}" if near else ""
    raise InputError(f"timm {timm.__version__} has no model {name!r}{hint}")


def _model(
    name: str, options: SourceOptions, *, settings: dict[str, Any], num_classes: int | None
) -> nn.Module:
    settings = dict(settings)
    with seeded():
        if options.size is not None and _has_fixed_size(name):
            settings["img_size"] = options.size
        if options.weights is not None or options.random:
            settings |= {} if num_classes is None else {"num_classes": num_classes}
            try:
                model: nn.Module = timm.create_model(name, pretrained=False, **settings)
            except (TypeError, ValueError, AssertionError, RuntimeError) as e:
                reason = " ".join(str(e).split())
                raise InputError(f"timm:{name} cannot be built with these --set: {reason}") from e
            return take_weights(model, options)
        try:
            return timm.create_model(name, pretrained=True, **settings).eval()
        except Exception as e:  # of huggingface_hub, urllib, httpx and timm, with no common base
            raise download_failed(f"timm:{name}", e) from e


def _has_fixed_size(name: str) -> bool:
    config = timm.get_pretrained_cfg(name)
    return bool(config and config.fixed_input_size)


def _classes(
    name: str, model: Any, *, given: tuple[ClassInfo, ...] | None
) -> tuple[ClassInfo, ...]:
    if given is not None:
        return given
    subset = infer_imagenet_subset(model)
    if not model.num_classes or subset is None:
        raise InputError(
            f"timm:{name} has {model.num_classes} outputs and does not say what they mean; "
            "give --classes FILE with one name a line"
        )
    info = ImageNetInfo(subset)
    names = [info.index_to_description(i).partition(",")[0] for i in range(model.num_classes)]
    return tuple(ClassInfo(name=name) for name in readable_names(names))


def _preprocessing(name: str, config: dict[str, Any], *, channels: Any) -> Preprocessing:
    """Return what timm's `create_transform` does. It rounds the side before the crop down."""
    _, height, width = config["input_size"]
    how = _RESIZE.get(config["crop_mode"])
    if how is None:
        raise InputError(
            f"timm:{name} wants crop mode {config['crop_mode']!r}; dlcv prepares {', '.join(_RESIZE)}; give --resize"
        )
    resample = config["interpolation"]
    if resample not in _RESAMPLE:
        raise InputError(
            f"timm:{name} was trained on images resized by {resample!r}; dlcv resizes by {', '.join(_RESAMPLE)}"
        )
    return Preprocessing(
        resize=how,
        size=(height, width),
        resample=resample,
        crop_fraction=height / int(height / config["crop_pct"]) if how == "center_crop" else 1.0,
        channels=channels,
    )


def _licence(model: Any, options: SourceOptions) -> str:
    if options.random:
        return "random weights: none needed"
    if options.weights is not None:
        return "not stated; the terms of the weights file apply"
    return str(model.pretrained_cfg.get("license") or "not stated; see timm's description")
