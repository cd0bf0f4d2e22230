"""The result type of captioning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dlcv.runtime.caption.attention_strip import draw_caption
from dlcv.runtime.results.base import (
    Float32,
    Record,
    Result,
    ResultFile,
    WriteOptions,
    require_array,
)
from dlcv.runtime.results.draw import png_file


@dataclass(frozen=True, kw_only=True)
class Caption(Result):
    """The caption of one image.

    text: the words as a sentence. words: one per token. log_probability: natural logarithm, of all words and
    the end. attention: float32 (words, h, w) over `frame.box`, each word's map sums to 1; None if not
    requested.
    """

    text: str
    words: tuple[str, ...]
    log_probability: float
    attention: Float32 | None = None

    def __post_init__(self) -> None:
        if self.attention is None:
            return
        require_array(self.attention, "attention", np.float32, ndim=3)
        if len(self.attention) != len(self.words):
            raise ValueError(f"{len(self.attention)} maps of attention, {len(self.words)} words")

    def overlay(self) -> Image.Image:
        """Draw the strip: the photo, then the decoder's attention for each word.

        Raises:
            ValueError: attention was not asked for.
            ImageError: the source cannot be read again.
        """
        if self.attention is None:
            raise ValueError(
                "this caption was made without attention; ask for the output `attention`"
            )
        return draw_caption(
            self.photo(),
            self.text,
            words=self.words,
            attention=self.attention,
            frame=self.frame,
        )

    def record(self) -> Record:
        """Return the fields of a JSON line."""
        return self._base_record() | {
            "caption": self.text,
            "words": len(self.words),
            "log_probability": round(self.log_probability, 6),
            "engine": self.engine,
        }

    def files(self, options: WriteOptions) -> Iterator[ResultFile]:
        """Yield the strip."""
        if options.overlays:
            yield png_file("overlay", "overlays", self.overlay, self.engine)
