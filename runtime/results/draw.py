"""Results as pictures: palette masks, overlays with a legend, heat maps over photos."""

from __future__ import annotations

import colorsys
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dlcv.runtime.results.base import ResultFile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from PIL.PngImagePlugin import PngInfo

    from dlcv.runtime.bundle.schema import ClassInfo
    from dlcv.runtime.images import Box, Frame, UInt8
    from dlcv.runtime.results.base import ClassIndices, Float32

_MASK_OPACITY = 0.5
_PNG_LEVEL = 1  # of an overlay, level 6 saves little and takes three times as long
_MIN_SHARE = 0.001  # a class on less of the image than this is not in the legend
PAPER, INK, FAINT = (255, 255, 255), (25, 25, 25), (120, 120, 120)
# Anchors of matplotlib's "inferno" (CC0, van der Walt & Smith 2015), evenly spaced in 0..1.
_INFERNO = (
    (0, 0, 4), (27, 12, 65), (74, 12, 107), (120, 28, 109), (165, 44, 96), (207, 68, 70),
    (237, 105, 37), (251, 155, 6), (247, 209, 61), (252, 255, 164),
)  # fmt: skip


def palette_image(mask: ClassIndices, classes: Sequence[ClassInfo]) -> Image.Image:
    """Return a mask, uint8 (H, W), as a palette image whose indices are the class indices; uint16 as 16-bit greyscale."""
    image = Image.fromarray(mask)
    if mask.dtype == np.uint16:
        return image  # a palette has 256 colours
    image.putpalette(palette(tuple(classes)).tobytes())  # turns mode L into mode P, indices kept
    return image


@lru_cache(maxsize=32)
def palette(classes: tuple[ClassInfo, ...]) -> UInt8:
    """Return colours uint8 (256 or more, 3): the classes' own, or well-spread ones where they have none."""
    colors = np.zeros((max(256, len(classes)), 3), np.uint8)
    for index, info in enumerate(classes):
        spread = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.65, 0.95)  # golden-ratio steps of hue
        colors[index] = info.color or [round(255 * c) for c in spread]
    colors.setflags(write=False)
    return colors


def heat_colors(values: Float32) -> UInt8:
    """Colour values in 0..1, float32 (H, W), with the inferno map: uint8 (H, W, 3)."""
    return _inferno()[(np.clip(values, 0, 1) * 255).astype(np.uint8)]


@lru_cache(maxsize=1)
def _inferno() -> UInt8:
    positions = np.linspace(0, 1, len(_INFERNO))
    anchors = np.array(_INFERNO, np.float32)
    table = np.stack([np.interp(np.linspace(0, 1, 256), positions, a) for a in anchors.T], axis=1)
    return table.astype(np.uint8)


def draw_segmentation(
    photo: Image.Image,
    mask: ClassIndices,
    *,
    classes: tuple[ClassInfo, ...],
    shares: Mapping[str, float],
) -> Image.Image:
    """Draw a mask, uint8 or uint16 (h, w), over its photo, class borders sharpened, with a legend on the right.

    The photo stays as it is where the class is called "background". shares: of the image by class name, in 0..1.
    """
    mask = np.asarray(Image.fromarray(mask).resize(photo.size, Image.Resampling.NEAREST))
    colors = palette(classes)[mask].astype(np.float32)
    pixels = np.asarray(photo, np.float32)
    opacity = np.full(len(palette(classes)), _MASK_OPACITY, np.float32)
    opacity[[i for i, info in enumerate(classes) if info.name.lower() == "background"]] = 0
    blended = pixels + (colors - pixels) * opacity[mask][..., None]
    borders = _borders(mask)
    blended[borders] = colors[borders] * 0.6
    overlay = Image.fromarray(blended.astype(np.uint8))
    rows = [
        (tuple(int(c) for c in palette(classes)[i]), info.name, share)
        for i, info in enumerate(classes)
        if (share := shares.get(info.name, 0)) >= _MIN_SHARE
    ]
    rows.sort(key=lambda row: -row[2])
    return _beside(overlay, _legend(rows, height=overlay.height))


def draw_heat(
    photo: Image.Image, values: Float32, *, box: Box, size: tuple[int, int]
) -> Image.Image:
    """Draw a map in 0..1, float32 (h, w), over the region `box` (xyxy, original pixels) of a photo.

    The photo may be scaled; `size` is the original's (height, width). Outside the box it is dimmed.
    """
    scale_x, scale_y = photo.width / size[1], photo.height / size[0]
    left, top = round(box[0] * scale_x), round(box[1] * scale_y)
    right, bottom = round(box[2] * scale_x), round(box[3] * scale_y)
    region = (max(1, right - left), max(1, bottom - top))
    heat = np.asarray(Image.fromarray(values).resize(region, Image.Resampling.BICUBIC))
    heat = heat[max(0, -top) : photo.height - top, max(0, -left) : photo.width - left]
    left, top = max(0, left), max(0, top)
    right, bottom = left + heat.shape[1], top + heat.shape[0]
    pixels = np.asarray(photo, np.float32) * 0.35
    inside = np.asarray(photo.crop((left, top, right, bottom)), np.float32)
    opacity = (0.25 + 0.45 * np.clip(heat, 0, 1))[..., None]
    grey = inside.mean(axis=2, keepdims=True) * 0.5 + inside * 0.5
    pixels[top:bottom, left:right] = (
        grey * (1 - opacity) + heat_colors(heat).astype(np.float32) * opacity
    )
    return Image.fromarray(pixels.astype(np.uint8))


def draw_classes(
    photo: Image.Image, ranked: Sequence[tuple[str, float]], *, given: int = 1
) -> Image.Image:
    """List classes with their probabilities beside the photo, likeliest first; the first `given` stand out."""
    photo = enlarged(photo, shortest=320)
    rows = [(_INFERNO[5] if number < given else FAINT, *row) for number, row in enumerate(ranked)]
    return _beside(photo, _legend(rows, height=photo.height))


def draw_maps(
    photo: Image.Image,
    ranked: Sequence[tuple[str, float]],
    *,
    explanation: Float32,
    attention: Float32 | None,
    frame: Frame,
) -> Image.Image:
    """Draw photo, explanation (h, w) and, for a ViT, last-layer attention (heads, h, w) side by side.

    ranked: classes with their probabilities, likeliest first; three of them are the title.
    """
    photo = enlarged(photo, shortest=320)
    if attention is None:
        maps = [("explanation", explanation)]
    else:
        maps = [
            ("last layer, class token", attention.mean(axis=0)),
            ("rollout of all layers", explanation),
        ]
    panels = [(photo, "photo")]
    for title, values in maps:
        panel = draw_heat(photo, readable(values), box=frame.box, size=frame.size)
        panels.append((panel, title))
    label = ", ".join(f"{name} {share:.0%}" for name, share in ranked[:3] if share >= 0.01)
    return _titled_row(panels, title=label)


def readable(values: Float32) -> Float32:
    """Stretch a map to 0..1 for the eye: a few patches often outshine all others by far.

    The brightest 3 % are clipped, and the rest is lifted by a square root.
    """
    low, high = float(values.min()), float(np.quantile(values, 0.97))
    lifted: Float32 = np.sqrt(np.clip((values - low) / max(high - low, 1e-12), 0, 1))
    return lifted


def _borders(mask: ClassIndices) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    borders = np.zeros(mask.shape, bool)
    borders[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    borders[1:] |= mask[1:] != mask[:-1]
    return borders


@lru_cache(maxsize=8)
def font_of_size(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font at a size in pixels."""
    return ImageFont.load_default(size)


def _legend(rows: Sequence[tuple[tuple[int, ...], str, float]], *, height: int) -> Image.Image:
    text = max(9, min(18, height // (len(rows) + 2) * 2 // 3))
    step, font = text * 3 // 2, font_of_size(text)
    width = text * 3 + round(max((font.getlength(f"{n}  100%") for _, n, _ in rows), default=0))
    legend = Image.new("RGB", (width, max(height, step * (len(rows) + 1))), PAPER)
    draw = ImageDraw.Draw(legend)
    for number, (color, name, share) in enumerate(rows):
        y = step // 2 + number * step
        draw.rectangle((text // 2, y, text * 3 // 2, y + text), fill=color, outline=FAINT)
        draw.text((text * 2, y + text // 2), name, fill=INK, font=font, anchor="lm")
        percent = f"{share:.0%}" if share >= 0.01 else "<1%"
        draw.text((width - text // 2, y + text // 2), percent, fill=FAINT, font=font, anchor="rm")
    return legend


def _beside(left: Image.Image, right: Image.Image) -> Image.Image:
    sheet = Image.new("RGB", (left.width + right.width, max(left.height, right.height)), PAPER)
    sheet.paste(left, (0, 0))
    sheet.paste(right, (left.width, 0))
    return sheet


def enlarged(photo: Image.Image, *, shortest: int) -> Image.Image:
    """Enlarge a small photo so that captions are legible; very long ones stay within 1024."""
    scale = min(max(1.0, shortest / min(photo.size)), max(1.0, 1024 / max(photo.size)))
    if scale == 1:
        return photo
    size = (round(photo.width * scale), round(photo.height * scale))
    return photo.resize(size, Image.Resampling.BICUBIC)


def _titled_row(panels: Sequence[tuple[Image.Image, str]], *, title: str) -> Image.Image:
    gap, text = 8, max(14, panels[0][0].height // 18)
    width = sum(p.width for p, _ in panels) + gap * (len(panels) - 1)
    height = panels[0][0].height
    sheet = Image.new("RGB", (width, height + text * 4), PAPER)
    draw, font = ImageDraw.Draw(sheet), font_of_size(text + 2)
    while font.getlength(title) > width - 2 * gap and ", " in title:  # the last class does not fit
        title = title.rpartition(", ")[0]
    draw.text((gap, text), title, fill=INK, font=font, anchor="lm")
    left = 0
    for panel, caption in panels:
        sheet.paste(panel, (left, text * 2))
        draw.text(
            (left + gap, height + text * 3),
            caption,
            fill=FAINT,
            font=font_of_size(text - 2),
            anchor="lm",
        )
        left += panel.width + gap
    return sheet


def save_png(image: Image.Image, file: BinaryIO, *, pnginfo: PngInfo | None = None) -> None:
    """Write an image as PNG. A mask is runs of equal pixels: zlib's run lengths are a quarter smaller and faster for it."""
    strategy = zlib.Z_RLE if image.mode == "P" else zlib.Z_DEFAULT_STRATEGY
    image.save(
        file, format="PNG", compress_level=_PNG_LEVEL, compress_type=strategy, pnginfo=pnginfo
    )


def png_file(key: str, folder: str, image: Callable[[], Image.Image], engine: str) -> ResultFile:
    """Return a PNG of a result's own; the image is drawn when it is written. engine: what ran, kept in the file."""

    def write(file: BinaryIO) -> None:
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_text("Software", f"dlcv; {engine}")
        save_png(image(), file, pnginfo=info)

    return ResultFile(key=key, folder=folder, suffix=".png", write=write)
