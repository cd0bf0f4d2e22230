"""Segmenters of segmentation_models_pytorch: `smp:Unet`, or a folder of its `save_pretrained`: `smp:FOLDER`."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from torch import nn

from dlcv.export.sources.base import ExportSource, SourceOptions, settings_from_text
from dlcv.export.sources.module import ModuleFacts, facts_from_options, source_from_module
from dlcv.export.sources.pretrained import origin_of, seeded, take_weights
from dlcv.runtime.errors import InputError

_MEAN, _STD = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # the library's own for most of its encoders
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
    try:
        import segmentation_models_pytorch as smp
    except ModuleNotFoundError as e:
        raise InputError("smp: needs segmentation_models_pytorch: pip install 'dlcv[smp]'") from e
    if options.task not in (None, "segment"):
        raise InputError(f"smp: networks segment; leave out --task {options.task}")
    folder = Path(spec)
    model = _of_folder(smp, folder, options) if folder.is_dir() else _built(smp, spec, options)
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
    """Return ImageNet's mean and std, with which most encoders were trained, unless the user gives others."""
    given = options.images
    if _channels_of(model) == 1:
        return {"channels": "grey"}
    if given.mean is None and given.std is None and given.scale is None:
        options.on_note(f"no --mean, --std given: those of ImageNet, {_MEAN} and {_STD}")
        order = -1 if given.channels == "bgr" else 1
        return {"mean": _MEAN[::order], "std": _STD[::order]}
    return {}


def _channels_of(model: nn.Module) -> int:
    """Return how many channels the first convolution takes."""
    return next((p.shape[1] for p in model.parameters() if p.ndim == 4), 3)


def _built(smp: Any, name: str, options: SourceOptions) -> nn.Module:
    known = {arch.__name__: arch for arch in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    by_lower = {arch.lower(): arch for arch in known}
    if name.lower() not in by_lower:
        near = difflib.get_close_matches(name, known, n=2) or sorted(known)
        raise InputError(
            f"segmentation_models_pytorch {smp.__version__} has no architecture {name!r}; there are {', '.join(near)}"
        )
    if options.weights is None and not options.random:
        raise InputError(
            f"smp:{name} needs --weights FILE with its trained weights, or --random for random ones"
        )
    settings = settings_from_text(options.settings)
    with seeded():
        try:
            model = known[by_lower[name.lower()]](encoder_weights=None, **settings)
        except Exception as e:  # the library raises KeyError, ValueError and TypeError for options
            reason = " ".join(str(e).split())
            raise InputError(f"smp:{name} cannot be built with these --set: {reason}") from e
    return take_weights(model, options)


def _of_folder(smp: Any, folder: Path, options: SourceOptions) -> nn.Module:
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
