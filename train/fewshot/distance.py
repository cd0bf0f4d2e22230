"""Distances between embeddings and prototypes, as scores: larger is nearer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlcv.runtime.fewshot.episode_accuracy import Distance

_FIRST_SCALE = 10.0


class Euclidean(nn.Module):
    """The negative squared Euclidean distance (Snell et al. 2017, equation 2)."""

    def forward(self, query: Tensor, prototypes: Tensor) -> Tensor:
        """query (batch, D), prototypes (classes, D) to scores (batch, classes)."""
        # Differences, not the cheaper products, which lose precision where two points are near.
        return -(query[:, None] - prototypes[None]).square().sum(dim=2)


class Cosine(nn.Module):
    """Cosine similarity times a learnt scale. Without the scale, values in -1..1 would make softmax nearly flat."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(_FIRST_SCALE))

    def forward(self, query: Tensor, prototypes: Tensor) -> Tensor:
        """query (batch, D), prototypes (classes, D) to scores (batch, classes)."""
        return self.scale * F.normalize(query, dim=1) @ F.normalize(prototypes, dim=1).T


class Parametric(nn.Module):
    """A learnt distance: two linear layers on a prototype concatenated with a query."""

    def __init__(self, width: int, *, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * width, hidden)
        self.score = nn.Linear(hidden, 1)

    def forward(self, query: Tensor, prototypes: Tensor) -> Tensor:
        """query (batch, D), prototypes (classes, D) to scores (batch, classes)."""
        shape = (query.shape[0], prototypes.shape[0], query.shape[1])
        pairs = torch.cat([prototypes[None].expand(shape), query[:, None].expand(shape)], dim=2)
        scores: Tensor = self.score(F.relu(self.hidden(pairs)))
        return scores.squeeze(2)


def distance_by_name(name: str, *, width: int, hidden: int | None = None) -> nn.Module:
    """Build a distance by its name in a recipe. width: of the embeddings. hidden: see `FewShotRecipe`."""
    builders: dict[str, Callable[[], nn.Module]] = {
        "euclidean": Euclidean,
        "cosine": Cosine,
        "parametric": lambda: Parametric(width, hidden=hidden or width),
    }
    return builders[name]()


def distance_on_arrays(module: Any, *, device: torch.device | str = "cpu") -> Distance:
    """Return a distance on float32 arrays, computed by PyTorch on the module's device."""

    def distance(query: Any, prototypes: Any) -> Any:
        tensors = (torch.from_numpy(array).to(device) for array in (query, prototypes))
        with torch.inference_mode():
            return module(*tensors).float().cpu().numpy()

    return distance
