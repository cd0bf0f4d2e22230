"""The recipe of a prototypical network (Snell et al. 2017, https://arxiv.org/abs/1703.05175)."""

from __future__ import annotations

from typing import Literal

from dlcv.runtime.bundle.schema import Positive
from dlcv.runtime.fewshot.episodes import EpisodeConfig
from dlcv.train.recipe import RunRecipe
from dlcv.train.settings import AugmentConfig, Model, Share, require_relative


class EpisodeData(Model, frozen=True, kw_only=True):
    """Images in class folders, split by class: no class of one split is in another.

    root: a folder, or a ZIP or tar archive. A class is a folder that holds images. train, validation, test: the
    class folders of a split, or folders that they lie in, from `root` on, such as `base`, `Greek` or `cats/siamese`.
    validation chooses the checkpoint. rotations: each class turned by 90, 180 and 270 degrees is three more
    classes. episodes: a CSV with the fixed test episodes (docs/fewshot.md), instead of drawn ones.
    """

    root: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    rotations: bool = False
    episodes: str | None = None

    def __post_init__(self) -> None:
        for key, path in (("root", self.root), ("episodes", self.episodes or "")):
            require_relative(f"data.{key}", path)

    @property
    def name(self) -> str:
        """The data in words, for a model card."""
        return self.root


class MlpConfig(Model, frozen=True, kw_only=True):
    """Layers between features and embedding: `hidden` widths, each with ReLU and dropout, then `width`."""

    hidden: tuple[Positive, ...] = ()
    width: Positive
    dropout: Share = 0.0


class FewShotRecipe(RunRecipe, frozen=True, kw_only=True):
    """A prototypical network: `model` without its head, `mlp` behind it, and a `distance`.

    distance: `euclidean`, squared, as in the paper; `cosine`, times a learnt scale; `parametric`, two linear
    layers on a prototype beside a query. distance_hidden: width of the first of these two; null is that of the embedding,
    as report D has it. batch: episodes in a step. test_shots: shots at which the checkpoint
    is scored besides `test.shots`. augment: of training images; null changes nothing.
    """

    task: Literal["fewshot"]
    data: EpisodeData
    mlp: MlpConfig | None = None
    distance: Literal["euclidean", "cosine", "parametric"] = "euclidean"
    distance_hidden: Positive | None = None
    training: EpisodeConfig
    validation: EpisodeConfig
    test: EpisodeConfig
    test_shots: tuple[Positive, ...] = ()
    augment: AugmentConfig | None = None

    def contradictions(self) -> list[str]:
        """Return every contradiction between settings, in words."""
        problems = super().contradictions()
        height, width = self.preprocessing.size
        for key in ("training", "validation", "test"):
            if getattr(self, key).ways < 2:
                problems.append(f"{key}.ways must be 2 or more: one class is no choice")
        if self.data.rotations and height != width:
            problems.append(f"data.rotations needs square images, not {height}x{width}")
        if self.distance_hidden is not None and self.distance != "parametric":
            problems.append(
                f"distance {self.distance} has no hidden layer; leave out distance_hidden"
            )
        if self.batch > self.training.episodes:
            problems.append(
                f"batch {self.batch} exceeds training.episodes {self.training.episodes}"
            )
        if self.data.episodes is not None and self.test_shots:
            problems.append("data.episodes fixes the shots; leave out test_shots")
        return problems
