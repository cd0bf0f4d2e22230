"""What a run of captioning decides besides the settings that every run has."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from dlcv.runtime.bundle.schema import Positive
from dlcv.train.recipe import RunRecipe
from dlcv.train.settings import Model, Share, require_relative

_ENCODER = {"encoder.", "backbone"}  # what `freeze` names to leave the encoder as it is


class CaptionData(Model, frozen=True, kw_only=True):
    """Images with captions in a folder under the data root.

    train, test: caption files in it, JSON `{"image.jpg": ["a caption", ...]}`; images lie beside them, also in
    archives. The test images validate. train_limit keeps only the first images, for trying things out.
    """

    root: str
    train: str
    test: str
    train_limit: Positive | None = None

    def __post_init__(self) -> None:
        for key in ("root", "train", "test"):
            require_relative(f"data.{key}", getattr(self, key))


class DecoderConfig(Model, frozen=True, kw_only=True):
    """The transformer that tells: its width, layers, attention heads and dropout.

    length: tokens of a caption at most, its end included; longer ones are cut.
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
    """A run of captioning. `model` is the encoder: `torchvision:NAME` of a CNN or `timm:NAME` of a CNN or ViT.

    vocabulary: tokens, four of which are marks and the others the most frequent words of the training captions.
    remember: so many training images are captioned at every validation; `remembered` is the share of them that got
    one of their own captions. freeze: with `encoder.` or `backbone` each image is encoded once for the whole run.
    """

    task: Literal["caption"]
    data: CaptionData
    vocabulary: Annotated[int, Meta(ge=5)]
    decoder: DecoderConfig = DecoderConfig()
    label_smoothing: Share = 0.0
    remember: Annotated[int, Meta(ge=0)] = 50

    def contradictions(self) -> list[str]:
        """Return every contradiction between settings, in words."""
        problems = super().contradictions()
        if self.preprocessing.resize == "longest_side":
            problems.append(
                "captioning needs images of one size; set preprocessing.resize to another"
            )
        return problems

    @property
    def encodes_once(self) -> bool:
        """Whether what the encoder gives for an image stays the same through the run."""
        return not _ENCODER.isdisjoint(self.freeze)
