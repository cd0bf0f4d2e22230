"""The recipe of BYOL: augmentation of the two views, and the target's moving average."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from dlcv.runtime.bundle.schema import Positive
from dlcv.train.recipe import LabelledRecipe
from dlcv.train.settings import AboveZero, Model, NonNegative, Share, require_relative


class ViewConfig(Model, frozen=True, kw_only=True):
    """The random augmentation of a view, in this order. Each image draws its own.

    area: a random box of this share of the image, 3:4 to 4:3, is resized to `size` (Szegedy et al. 2015,
    https://arxiv.org/abs/1409.4842); null resizes the whole image, as in reports B and D. size: side of a view
    in pixels. flip: probability of mirroring. jitter: brightness, contrast and saturation vary by up to this
    factor, hue by up to this share of the circle; jitter_share: probability of jitter. grayscale, blur:
    probabilities. blur_kernel: side in pixels; blur_sigma: (least, most) standard deviation of the Gaussian, in
    pixels.
    """

    area: tuple[AboveZero, AboveZero] | None = None
    size: Positive
    flip: Share = 0.5
    jitter: tuple[NonNegative, NonNegative, NonNegative, NonNegative] = (0.0, 0.0, 0.0, 0.0)
    jitter_share: Share = 1.0
    grayscale: Share = 0.0
    blur: Share = 0.0
    blur_kernel: Positive = 3
    blur_sigma: tuple[AboveZero, AboveZero] = (1.0, 2.0)

    def __post_init__(self) -> None:
        if self.area is not None and not self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"augment.area must be (low, high) up to 1, not {self.area}")
        if max(self.jitter[:3]) > 1 or self.jitter[3] > 0.5:
            raise ValueError(
                f"augment.jitter must be at most 1, and .5 for hue, the last; not {self.jitter}"
            )
        if self.blur_kernel % 2 == 0:
            raise ValueError(f"augment.blur_kernel must be odd, not {self.blur_kernel}")
        if self.blur_sigma[0] > self.blur_sigma[1]:
            raise ValueError(f"augment.blur_sigma must be (least, most), not {self.blur_sigma}")


class ByolConfig(Model, frozen=True, kw_only=True):
    """The settings of BYOL.

    hidden, projection: widths of projector and predictor. decay: of the target's moving average, at the first
    step. decay_schedule: `cosine` raises it to 1 as in the paper; `constant` keeps it, as the library
    byol-pytorch does that reports B and D used.
    """

    hidden: Positive = 4096
    projection: Positive = 256
    decay: Annotated[float, Meta(ge=0, lt=1)] = 0.996
    decay_schedule: Literal["cosine", "constant"] = "cosine"


class ProbeConfig(Model, frozen=True, kw_only=True):
    """The linear probe: accuracy of a linear classifier on the frozen backbone.

    images: number of labelled training images to fit on, the first ones; null for all. weight_decay: factor of
    half the sum of squared weights in the loss.
    """

    images: Positive | None = None
    weight_decay: NonNegative = 1e-3


class ByolRecipe(LabelledRecipe, frozen=True, kw_only=True):
    """Pre-training of a backbone without labels. Labels are used only by the probe, which monitors progress.

    unlabelled: folder or archive under the data root with the training images; without it, those of `data`.
    """

    task: Literal["byol"]
    unlabelled: str | None = None
    augment: ViewConfig
    byol: ByolConfig = ByolConfig()
    probe: ProbeConfig = ProbeConfig()

    def __post_init__(self) -> None:
        require_relative("unlabelled", self.unlabelled or "")
        super().__post_init__()

    def contradictions(self) -> list[str]:
        """Return all contradictions between settings, as sentences."""
        problems = super().contradictions()
        if self.batch < 2:
            problems.append("byol normalises over the batch, so batch must be 2 or more")
        if self.keep == "loss":
            problems.append("byol's loss is least when it has collapsed; keep must be metric")
        if self.preprocessing.resize == "longest_side":
            problems.append("byol needs images of one size; set preprocessing.resize otherwise")
        return problems
