"""The prototypical network of task `fewshot`."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from dlcv.train.fewshot.distance import distance_by_name
from dlcv.train.fewshot.recipe import FewShotRecipe
from dlcv.train.models import ModelSpec, build_model
from dlcv.train.models.classifiers import mlp_head
from dlcv.train.models.spec import without_head


class PrototypicalNetwork(nn.Module):
    """Maps images to embeddings. `distance` compares them with prototypes, the class means."""

    def __init__(self, encoder: nn.Module, head: nn.Module, *, distance: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.distance = distance

    def forward(self, x: Tensor) -> Tensor:
        """Normalised float (B, 3, H, W) to embeddings (B, D)."""
        embeddings: Tensor = self.head(self.encoder(x))
        return embeddings


def network_from_recipe(recipe: FewShotRecipe) -> ModelSpec:
    """Build the network of a recipe for images of the preprocessing's size.

    Raises:
        RecipeError: no such model, or it has no head that could be left out.
    """
    name = recipe.model.name
    classifier = build_model(name, recipe.model.options, num_classes=2)  # these go with the head
    spec = without_head(classifier, name=name)
    width = _width(spec.network, recipe.preprocessing.size)
    head: nn.Module = nn.Identity()
    if (mlp := recipe.mlp) is not None:
        head = mlp_head(width, mlp.width, hidden=mlp.hidden, dropout=mlp.dropout)
        width = mlp.width
    distance = distance_by_name(recipe.distance, width=width, hidden=recipe.distance_hidden)
    return replace(spec, network=PrototypicalNetwork(spec.network, head, distance=distance))


def _width(encoder: nn.Module, size: tuple[int, int]) -> int:
    """Return the encoder's number of features for images of this size."""
    encoder.eval()  # batch normalisation cannot train on a single image
    with torch.no_grad():
        width = int(encoder(torch.zeros(1, 3, *size)).shape[1])
    encoder.train()
    return width
