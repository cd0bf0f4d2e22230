"""Segmenters of segmentation_models_pytorch: `smp:Unet`, or a folder of its `save_pretrained`: `smp:FOLDER`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from dlcv.export.sources.base import ExportSource, SourceOptions, settings_from_text
from dlcv.export.sources.module import ModuleFacts, facts_from_options, source_from_module
from dlcv.export.sources.pretrained import origin_of, seeded, take_weights
from dlcv.runtime.errors import InputError
from dlcv.train.folders.images import IMAGENET_MEAN, IMAGENET_STD
from dlcv.train.models.smp import architecture_of, build_segmenter, smp_library

_NO_UPERNET = (
    "smp:UPerNet is not exported: at other image sizes than the one it was exported with its graph fails (GatherND, out "
    "of range); take smp:FPN, smp:Unet or smp:DeepLabV3Plus"
)


def source_from_smp(spec: str, options: SourceOptions) -> ExportSource:
    """Build a segmenter of segmentation_models_pytorch with weights from a file, or random ones.

    spec: an architecture, such as Unet, built with what `--set` gives (encoder_name, classes, ...); or a folder.

    Raises:
        InputError: the library is not installed, has no such architecture, or options do not fit.
        RecipeError: the weights file does not fit.
    """
    if options.task not in (None, "segment"):
        raise InputError(f"smp: networks segment; leave out --task {options.task}")
    folder = Path(spec)
    model = _of_folder(folder, options) if folder.is_dir() else _built(spec, options)
    if "upernet" in type(model).__name__.lower():
        raise InputError(_NO_UPERNET)
    name = folder.name if folder.is_dir() else spec
    facts = {
        "size": (512, 512),
        **_images(model, options),
        "name": f"smp-{name}",
        "description": f"Segmenter {type(model).__name__} of segmentation_models_pytorch.",
        "origin": f"smp:{name}, save_pretrained"
        if folder.is_dir()
        else origin_of(f"smp:{spec}", options),
        "remake": (f"dlcv-export bundle smp:{name}{options.command_line}",),
        **facts_from_options(options),
        "task": "segment",
    }
    return source_from_module(model, ModuleFacts(**facts))


def _images(model: Any, options: SourceOptions) -> dict[str, Any]:
    """Return ImageNet's mean and std, with which most encoders were trained; the user's own go before them."""
    given = options.images
    if _channels_of(model) == 1:
        return {"channels": "grey"}
    if given.scale is not None:  # in other units
        return {}
    if given.mean is None and given.std is None:
        options.on_note(
            f"no --mean, --std given: those of ImageNet, {IMAGENET_MEAN} and {IMAGENET_STD}"
        )
    order = -1 if given.channels == "bgr" else 1
    return {"mean": IMAGENET_MEAN[::order], "std": IMAGENET_STD[::order]}


def _channels_of(model: nn.Module) -> int:
    """Return how many channels the first convolution takes."""
    return next((p.shape[1] for p in model.parameters() if p.ndim == 4), 3)


def _built(name: str, options: SourceOptions) -> nn.Module:
    architecture = architecture_of(name)
    if options.weights is None and not options.random:
        raise InputError(
            f"smp:{name} needs --weights FILE with its trained weights, or --random for random ones"
        )
    with seeded():
        model = build_segmenter(
            architecture,
            settings_from_text(options.settings),
            refusal=f"smp:{name} cannot be built with these --set",
        )
    return take_weights(model, options)


def _of_folder(folder: Path, options: SourceOptions) -> nn.Module:
    smp = smp_library()
    if options.settings or options.weights or options.random:
        raise InputError(
            f"{folder} holds its settings and weights; leave out --set, --weights and --random"
        )
    try:
        model: nn.Module = smp.from_pretrained(str(folder))
    except Exception as e:  # of huggingface_hub, safetensors and json, with no common base
        reason = " ".join(str(e).split()) or type(e).__name__
        raise InputError(
            f"{folder} is not a folder of save_pretrained of segmentation_models_pytorch: {reason}"
        ) from e
    return model
