"""Draws a caption as a strip of pictures: the photo, then the decoder's attention for each word."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from dlcv.runtime.results.draw import FAINT, INK, PAPER, draw_heat, font_of_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dlcv.runtime.images import Frame
    from dlcv.runtime.results.base import Float32

_SIDE = 224  # shorter side of a photo in pixels
_A_ROW = 6  # pictures
_GAP = 8


def draw_caption(
    photo: Image.Image, text: str, *, words: Sequence[str], attention: Float32, frame: Frame
) -> Image.Image:
    """Draw the strip in rows of six pictures, with each word above its own.

    attention: float32 (words, h, w) over `frame.box`.
    """
    photo = _fitted(photo)
    maps = comparable(attention)
    panels = [draw_heat(photo, values, box=frame.box, size=frame.size) for values in maps]
    return _sheet([photo, *panels], ["photo", *words], title=text)


def comparable(attention: Float32) -> Float32:
    """Scale each map of (words, h, w) to 0..1 by itself: the strip shows where, not how much."""
    low = attention.min(axis=(1, 2), keepdims=True)
    spread = np.maximum(attention.max(axis=(1, 2), keepdims=True) - low, 1e-12)
    scaled: Float32 = (attention - low) / spread
    return scaled


def _fitted(photo: Image.Image) -> Image.Image:
    scale = min(_SIDE / min(photo.size), 2 * _SIDE / max(photo.size))
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    return photo.resize(size, Image.Resampling.BICUBIC)


def _sheet(panels: list[Image.Image], titles: list[str], *, title: str) -> Image.Image:
    width, height = panels[0].size
    text = max(13, height // 14)
    across = min(_A_ROW, len(panels))
    down = -(-len(panels) // across)
    step = (width + _GAP, height + 2 * text)
    sheet = Image.new("RGB", (across * step[0] - _GAP, down * step[1] + 2 * text), PAPER)
    draw = ImageDraw.Draw(sheet)
    room = sheet.width - 2 * _GAP
    size = min(text + 3, int((text + 3) * room / max(1, font_of_size(text + 3).getlength(title))))
    draw.text((_GAP, text), title, fill=INK, font=font_of_size(max(6, size)), anchor="lm")
    for number, (panel, word) in enumerate(zip(panels, titles, strict=True)):
        left, top = number % across * step[0], number // across * step[1] + 2 * text
        color = FAINT if number == 0 else INK
        place = (left + width // 2, top + text)
        draw.text(place, word, fill=color, font=font_of_size(text + 2), anchor="mm")
        sheet.paste(panel, (left, top + 2 * text))
    return sheet
