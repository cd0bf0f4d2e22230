"""The recipe of captioning."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from dlcv.runtime.bundle.schema import Positive
from dlcv.train.recipe import RunRecipe
from dlcv.train.settings import Model, Share, require_relative

_ENCODER = {"encoder.", "backbone"}  # values of `freeze` that freeze the encoder


class CaptionData(Model, frozen=True, kw_only=True):
    """Images with captions in a folder under the data root.

    train, test: caption files in that folder, JSON `{"image.jpg": ["a caption", ...]}`; the images are beside
    them, also in archives. Validation uses the test images. train_limit: keep only the first images, for quick
    trials.
    """

    root: str
    train: str
    test: str
    train_limit: Positive | None = None

    def __post_init__(self) -> None:
        for key in ("root", "train", "test"):
            require_relative(f"data.{key}", getattr(self, key))


class DecoderConfig(Model, frozen=True, kw_only=True):
    """The transformer decoder: width, layers, attention heads and dropout.

    length: most tokens of a caption, its end included; longer ones are cut.
    """

    dim: Positive = 256
    depth: Positive = 2
    heads: Positive = 4
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    length: Positive = 32

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(
                f"decoder.dim {self.dim} is not a multiple of decoder.heads {self.heads}"
            )


class CaptionRecipe(RunRecipe, frozen=True, kw_only=True):
    """The recipe of a captioner. `model` is the encoder: `torchvision:NAME` of a CNN or `timm:NAME` of a CNN or ViT.

    vocabulary: number of tokens: four marks, and the most frequent words of the training captions. remember:
    number of training images that are captioned at every validation; `remembered` is the share of them that got
    one of their own captions. freeze: with `encoder.` or `backbone`, each image is encoded only once for the
    whole run.
    """

    task: Literal["caption"]
    data: CaptionData
    vocabulary: Annotated[int, Meta(ge=5)]
    decoder: DecoderConfig = DecoderConfig()
    label_smoothing: Share = 0.0
    remember: Annotated[int, Meta(ge=0)] = 50

    def contradictions(self) -> list[str]:
        """Return all contradictions between settings, as sentences."""
        problems = super().contradictions()
        if self.preprocessing.resize == "longest_side":
            problems.append(
                "captioning needs images of one size; set preprocessing.resize to another"
            )
        return problems

    @property
    def encodes_once(self) -> bool:
        """Whether the encoder's features of an image stay the same throughout the run."""
        return not _ENCODER.isdisjoint(self.freeze)
