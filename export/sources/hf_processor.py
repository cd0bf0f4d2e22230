"""What `preprocessor_config.json` of Hugging Face transformers says of images, as fields of `ModuleFacts`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from dlcv.export.sources.base import DEFAULT_SCALE, SourceOptions
from dlcv.export.sources.hf_network import quiet
from dlcv.runtime.bundle.schema import Resample, Task
from dlcv.runtime.errors import InputError

FILE, _COMBINED_FILE = "preprocessor_config.json", "processor_config.json"
_PLAIN = (
    "Beit",
    "Bit",
    "CLIP",
    "ConvNext",
    "DPT",
    "DeiT",
    "EfficientNet",
    "Levit",
    "MobileNetV1",
    "MobileNetV2",
    "MobileViT",
    "PoolFormer",
    "Pvt",
    "Segformer",
    "Siglip",
    "ViT",
)
_WITHOUT_CROP = ("DPT", "Segformer")  # these ignore do_center_crop
_ENDINGS = ("ImageProcessor", "FeatureExtractor", "Fast", "Pil")
_FILTERS: dict[int, Resample] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
_PILLOW_NAMES = {0: "nearest", 4: "box", 5: "hamming"}
_CONVNEXT_WARPS_FROM = 384
_CONVNEXT_CROP, _LEVIT_CROP = 224 / 256, 224 / 256


@dataclass(frozen=True, kw_only=True)
class Processor:
    """An image processor: its kind, such as "ViT", and its settings, with the library's defaults where a file has none."""

    kind: str
    settings: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.settings.get(name)


def read_processor(folder: Path) -> Processor | None:
    """Return a folder's image processor, or None if it has none.

    Raises:
        InputError: it is no JSON, or of a kind that prepares images in a way of its own.
    """
    written = _written(folder)
    if written is None:
        return None
    named = written.get("image_processor_type") or written.get("feature_extractor_type")
    kind = _kind(str(named))
    if kind not in _PLAIN:
        raise InputError(
            f"{FILE} is for {named}; dlcv prepares images as those of {', '.join(_PLAIN)} do; export the network as "
            "py:FILE.py:FUNCTION"
        )
    return Processor(kind=kind, settings=_with_defaults(kind, written))


def image_facts(
    processor: Processor, options: SourceOptions, *, task: Task, channels: int
) -> dict[str, Any]:
    """Return how a processor prepares images, as fields of `ModuleFacts`, for what the user does not say otherwise.

    Besides them `crop`, where the network takes only the middle of a stretched image: its (height, width) in pixels.
    channels: of the network.

    Raises:
        InputError: the processor does what a bundle cannot, and the user does not say what to do instead.
    """
    mean, std = _normalisation(processor)
    scale = options.images.scale or DEFAULT_SCALE
    order: dict[str, Any] = {"channels": "bgr"} if processor["do_flip_channel_order"] else {}
    facts = {
        **(order if channels > 1 else {"channels": "grey"}),
        "scale": scale,
        "mean": tuple(255 * scale * x for x in mean),
        "std": tuple(255 * scale * x for x in std),
        **_filter(processor, options),
        **_geometry(processor, options),
    }
    crops = facts.get("resize") == "center_crop" or "crop" in facts
    if task == "segment" and crops and not options.images.resize:
        facts |= {"resize": "stretch", "size": facts.pop("crop", facts["size"])}
        height, width = options.size or facts["size"]
        options.on_note(
            f"a mask covers the whole image: images are stretched to {height}x{width}, where {FILE} cuts out the middle; "
            "--resize has other ways"
        )
    if (options.images.resize or facts.get("resize")) != "center_crop":
        facts.pop("crop_fraction", None)
    return facts


def _written(folder: Path) -> dict[str, Any] | None:
    """Return the settings of the file. A processor of images and text keeps those of images in a part of its own."""
    for name in (_COMBINED_FILE, FILE):
        if (folder / name).is_file():
            read: Any = json_object(folder / name)
            read = read.get("image_processor") if name == _COMBINED_FILE else read
            if isinstance(read, dict):
                return read
    return None


def json_object(path: Path) -> dict[str, Any]:
    """Return what a JSON file holds.

    Raises:
        InputError: it cannot be read, or holds no object.
    """
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise InputError(f"{path} cannot be read: {e}") from e
    if not isinstance(read, dict):
        raise InputError(f"{path} must hold a JSON object, not {type(read).__name__}")
    return read


def _kind(name: str) -> str:
    """Return "ViT" of ViTImageProcessor, ViTImageProcessorFast, ViTFeatureExtractor."""
    for ending in reversed(_ENDINGS):
        name = name.removesuffix(ending)
    return name


def _with_defaults(kind: str, written: dict[str, Any]) -> dict[str, Any]:
    """Let the library read the settings: old files give sizes as numbers, which each kind takes in its own way."""
    import transformers

    named = {k: v for k, v in written.items() if not k.endswith("_type")}
    try:
        with quiet():
            made = getattr(transformers, f"{kind}ImageProcessor")(**named)
            settings: dict[str, Any] = made.to_dict()
    except Exception as e:  # anything can come from settings that do not fit
        raise InputError(f"{FILE} does not fit {kind}ImageProcessor: {e}") from e
    return settings


def _normalisation(processor: Processor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std by channel, or one for all, in units of 0..1, with everything that the processor does folded in."""
    own_mean, own_std = _numbers(processor["image_mean"]), _numbers(processor["image_std"])
    mean, std = own_mean, own_std
    if not processor["do_normalize"] or processor.kind == "MobileViT":  # which never does
        mean, std = (0.0,), (1.0,)
    factor = processor["rescale_factor"] if processor["do_rescale"] else 1.0
    if processor.kind == "EfficientNet":
        offset = 1.0 if processor["rescale_offset"] and processor["do_rescale"] else 0.0
        mean = tuple(x + offset for x in mean)
        if processor["include_top"]:  # divides by std once more
            repeated = std * len(own_std) if len(std) == 1 else std
            std = tuple(a * b for a, b in zip(repeated, own_std, strict=True))
    unit = 255 * factor
    return tuple(x / unit for x in mean), tuple(x / unit for x in std)


def _numbers(value: Any) -> tuple[float, ...]:
    values = value if isinstance(value, (list, tuple)) else (value,)
    return tuple(float(x) for x in values if x is not None)


def _filter(processor: Processor, options: SourceOptions) -> dict[str, Any]:
    if options.images.resample:
        return {}
    number = int(processor["resample"])
    if number not in _FILTERS:
        raise InputError(
            f"{FILE} resizes by {_PILLOW_NAMES.get(number, number)}; dlcv resizes by {', '.join(_FILTERS.values())}; give "
            "--resample"
        )
    return {"resample": _FILTERS[number]}


def _geometry(processor: Processor, options: SourceOptions) -> dict[str, Any]:
    """Return resize, size and crop fraction."""
    if options.images.resize and options.size:
        return {}
    if not processor["do_resize"]:
        if options.size:
            return {"resize": "stretch"}
        _refuse("leaves images as large as they are")
    if processor["keep_aspect_ratio"] or processor["do_pad"]:
        _refuse("keeps the aspect ratio, and pads or not")
    shorter, exact = _sides(processor)
    if exact is not None:
        return _stretched(exact, _crop(processor), options)
    crop = _crop(processor) or (
        (processor["size"]["shortest_edge"],) * 2 if processor.kind == "ConvNext" else None
    )
    if crop is None:
        _refuse("keeps the aspect ratio and does not crop")
    if crop[0] != crop[1] or crop[0] > shorter:
        _refuse(f"cuts {crop[0]}x{crop[1]} out of images whose shorter side is {shorter}")
    return {"resize": "center_crop", "size": crop, "crop_fraction": crop[0] / shorter}


def _stretched(
    exact: tuple[int, int], crop: tuple[int, int] | None, options: SourceOptions
) -> dict[str, Any]:
    """Return resize and size of an image that is stretched, and what is cut out of its middle, as of DeiT."""
    if crop is None or crop == exact:
        return {"resize": "stretch", "size": exact}
    if options.images.resize:
        return {"size": crop}
    if options.size or crop[0] > exact[0] or crop[1] > exact[1]:
        _refuse(
            f"stretches images to {exact[0]}x{exact[1]} and cuts {crop[0]}x{crop[1]} out of them"
        )
    return {"resize": "stretch", "size": exact, "crop": crop}


def _refuse(what: str) -> NoReturn:
    raise InputError(
        f"{FILE} {what}, which a bundle cannot; give --resize and --size, such as --resize center_crop --size 224x224 "
        "--crop-fraction 0.875"
    )


def _sides(processor: Processor) -> tuple[int, tuple[int, int] | None]:
    """Return the side that an image's shorter one becomes, or else its whole (height, width)."""
    size = processor["size"]
    shorter, height, width = (size.get(side) for side in ("shortest_edge", "height", "width"))
    if size.get("longest_edge") or (not shorter and not (height and width)):
        _refuse(f"resizes to {size}")
    if processor.kind == "ConvNext":
        if shorter >= _CONVNEXT_WARPS_FROM:
            return 0, (shorter, shorter)
        return int(shorter / (processor["crop_pct"] or _CONVNEXT_CROP)), None
    if processor.kind == "PoolFormer" and processor["crop_pct"]:
        if not shorter and height != width:
            _refuse(f"resizes to {size}")
        return int((shorter or height) / processor["crop_pct"]), None
    if processor.kind == "Levit" and shorter:
        return int(shorter / _LEVIT_CROP), None
    return (shorter, None) if shorter else (0, (height, width))


def _crop(processor: Processor) -> tuple[int, int] | None:
    size = processor["crop_size"]
    if not processor["do_center_crop"] or not size or processor.kind in _WITHOUT_CROP:
        return None
    return size["height"], size["width"]
