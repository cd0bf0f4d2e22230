"""The photos on which masks, activations and attention are drawn: test images, or files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import torch

from dlcv.runtime.errors import ImageError, InputError
from dlcv.runtime.images import Frame, Source, load_display, load_pixels
from dlcv.runtime.results.draw import enlarged

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from dlcv.runtime.bundle.schema import Preprocessing
    from dlcv.runtime.evaluate.labelled import LabelledImage
    from dlcv.runtime.images import UInt8
    from dlcv.train.figures.request import Request

_DEFAULT = 3
_SHORTEST, _LONGEST = 320, 640  # size of a displayed picture in pixels


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A photo.

    pixels: uint8 (H, W, 3), the network's input, of the region `frame`. view: the whole photo, for display.
    """

    name: str
    pixels: UInt8
    frame: Frame
    view: Image

    def title(self, most: int) -> str:
        """Return the name, cut to `most` characters."""
        return self.name if len(self.name) <= most else f"{self.name[: most - 1]}…"

    def seen(self) -> Image:
        """Return the part of the view that the network saw."""
        height, width = self.frame.size
        x, y = self.view.width / width, self.view.height / height
        left, top, right, bottom = self.frame.box
        return self.view.crop(
            (round(left * x), round(top * y), round(right * x), round(bottom * y))
        )

    @property
    def aspect(self) -> float:
        """The view's ratio of height to width."""
        return self.view.height / self.view.width

    def cell_aspect(self, grid: tuple[int, ...]) -> float:
        """Return the height-to-width ratio of a cell of a map (h, w) that covers what the network saw."""
        seen = self.seen()
        return (seen.height / grid[0]) / (seen.width / grid[1])


def photos_for(request: Request) -> list[Photo]:
    """Return the requested photo files, or else the chosen test images.

    Raises:
        InputError: no test image has such a name, or a file cannot be read.
    """
    preprocessing = request.labelled.recipe.preprocessing
    if request.photos:
        return [_photo(path.name, path, preprocessing) for path in request.photos]
    images = chosen_images(request)
    return [_photo(short_name(image.name), image.read(), preprocessing) for image in images]


def pixels_of(photos: Sequence[Photo]) -> Tensor:
    """Return one batch, uint8 (N, H, W, 3).

    Raises:
        InputError: the photos differ in size after preprocessing.
    """
    sizes = {photo.pixels.shape for photo in photos}
    if len(sizes) > 1:
        raise InputError(
            "the photos differ in size after the recipe's preprocessing, which keeps their aspect;"
            " give photos of one aspect"
        )
    return torch.from_numpy(np.stack([photo.pixels for photo in photos]))


def chosen_images(request: Request) -> list[LabelledImage]:
    """Return the requested test images; by default three, evenly spaced.

    Raises:
        InputError: no image, or more than one, has such a name.
    """
    images = request.test_images
    names = [image.name for image in images]
    return [images[i] for i in chosen_indices(names, request.images, default=_DEFAULT)]


def chosen_indices(names: Sequence[str], wanted: Sequence[str], *, default: int) -> list[int]:
    """Return the indices of the requested names; by default `default` evenly spaced ones.

    A name may omit its suffix, or be the beginning of a name's last part.

    Raises:
        InputError: no name, or more than one, fits.
    """
    if not wanted:
        count = min(default, len(names))
        return [i * len(names) // count for i in range(count)]
    return [_index(names, name) for name in wanted]


def short_name(name: str) -> str:
    """Return the last part of a name, without its suffix."""
    return PurePosixPath(name).stem


def _index(names: Sequence[str], wanted: str) -> int:
    found = [i for i, name in enumerate(names) if wanted in (name, name.rpartition(".")[0])]
    found = found or [i for i, name in enumerate(names) if name.rpartition("/")[2].startswith(wanted)]  # fmt: skip
    if len(found) != 1:
        raise InputError(
            f"--images {wanted}: {len(found)} of {len(names)} images fit; such as {names[0]}"
        )
    return found[0]


def _photo(name: str, source: Source, preprocessing: Preprocessing) -> Photo:
    try:
        image = load_pixels(source, preprocessing)
        view = enlarged(load_display(source, longest=_LONGEST), shortest=_SHORTEST)
    except ImageError as e:
        raise InputError(f"{name}: {e}") from e
    return Photo(name=name, pixels=image.pixels, frame=image.frame, view=view)
