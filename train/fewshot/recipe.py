"""The recipe of a prototypical network (Snell et al. 2017, https://arxiv.org/abs/1703.05175)."""

from __future__ import annotations

from typing import Literal

from dlcv.runtime.bundle.schema import Positive
from dlcv.runtime.fewshot.episodes import EpisodeConfig
from dlcv.train.recipe import RunRecipe
from dlcv.train.settings import AugmentConfig, Model, Share, require_relative


class EpisodeData(Model, frozen=True, kw_only=True):
    """Images in class folders, split by class: no class is in two splits.

    root: a folder, or a ZIP or tar archive. A class is a folder with images. train, validation, test: the class
    folders of a split, or their parent folders, relative to `root`, such as `base`, `Greek` or `cats/siamese`.
    The validation score chooses the checkpoint. rotations: each class rotated by 90, 180 and 270 degrees makes
    three more classes. episodes: a CSV with fixed test episodes (docs/fewshot.md), instead of drawn ones.
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
        """A description of the data, for a model card."""
        return self.root


class MlpConfig(Model, frozen=True, kw_only=True):
    """Layers between features and embedding: `hidden` widths, each followed by ReLU and dropout, then `width`."""

    hidden: tuple[Positive, ...] = ()
    width: Positive
    dropout: Share = 0.0


class FewShotRecipe(RunRecipe, frozen=True, kw_only=True):
    """The recipe of a prototypical network: `model` without its head, followed by `mlp`, and a `distance`.

    distance: `euclidean`, squared, as in the paper; `cosine`, times a learnt scale; `parametric`, two linear
    layers on a prototype concatenated with a query. distance_hidden: width of the first of these two; null
    means the width of the embedding, as in report D. batch: episodes per step. test_shots: further numbers of
    shots to score the checkpoint at, besides `test.shots`. augment: of training images; null changes nothing.
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
        """Return all contradictions between settings, as sentences."""
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
