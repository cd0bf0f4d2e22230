"""The networks and distances: shapes, parameters of D6, scores against arithmetic."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dlcv.runtime.errors import RecipeError
from dlcv.train.fewshot.distance import distance_by_name
from dlcv.train.fewshot.network import network_from_recipe
from dlcv.train.fewshot.recipe import FewShotRecipe
from dlcv.train.models import build_model
from dlcv.train.models.spec import without_head
from dlcv.train.recipe import builtin_recipes, load_recipe
from dlcv.train.summary import layer_rows

RECIPES = [name for name in builtin_recipes() if name.startswith("fewshot-")]


def test_the_layer_table_is_that_of_the_report():
    recipe = load_recipe("fewshot-mini-parametric", FewShotRecipe)
    rows = layer_rows(network_from_recipe(recipe).network, recipe.preprocessing.size)
    counts = [row.parameters for row in rows if row.kind in ("Conv2d", "Linear")]
    assert counts == [1792, 36928, 36928, 36928, 1280800, 640800, 320400, 320400, 401]
    assert next(row.output for row in rows if row.kind == "Flatten") == "(1, 1600)"


@pytest.mark.parametrize(("size", "features"), [(84, 1600), (32, 1024), (28, 3136), (16, 1024)])
def test_conv4_pools_while_four_pixels_are_left(size, features):
    spec = build_model("conv4", {"image_size": size}, num_classes=3)
    network = without_head(spec, name="conv4").network
    assert network(torch.zeros(2, 3, size, size)).shape == (2, features)


def test_conv4_refuses_pools_that_do_not_fit():
    with pytest.raises(RecipeError, match="5 pools do not fit 4 convolutions on 84 pixels"):
        build_model("conv4", {"pools": 5}, num_classes=3)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18"])
def test_any_backbone_is_a_network_without_its_head(name, fewshot_recipe):
    recipe = fewshot_recipe(
        model={"name": name}, mlp=None, preprocessing={"resize": "stretch", "size": [32, 32]}
    )
    spec = network_from_recipe(recipe)
    assert spec.network.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 512)
    assert spec.unused_weights == ("fc.",)


def test_a_model_without_a_head_is_refused(fewshot_recipe):
    model = {"name": "vit_conv_stem", "options": {"dim": 16, "depth": 1, "heads": 2}}
    with pytest.raises(RecipeError, match="is not a classifier that ends in a head"):
        network_from_recipe(fewshot_recipe(model=model))


def test_a_new_network_learns_its_batch_statistics(fewshot_recipe):
    network = network_from_recipe(fewshot_recipe()).network
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds(name):
    recipe = load_recipe(name, FewShotRecipe)
    network: Any = network_from_recipe(recipe).network.eval()
    embeddings = network(torch.zeros(2, 3, *recipe.preprocessing.size))
    assert network.distance(embeddings, embeddings[:1]).shape == (2, 1)


def test_distances_are_what_they_are_called():
    query, prototypes = torch.randn(4, 6), torch.randn(3, 6)
    q, p = query.numpy()[:, None], prototypes.numpy()[None]
    euclidean = distance_by_name("euclidean", width=6)(query, prototypes)
    np.testing.assert_allclose(euclidean, -((q - p) ** 2).sum(2), rtol=1e-5)
    cosine = distance_by_name("cosine", width=6)(query, prototypes).detach()
    lengths = np.linalg.norm(q, axis=2) * np.linalg.norm(p, axis=2)
    np.testing.assert_allclose(cosine, 10 * (q * p).sum(2) / lengths, rtol=1e-4)


def test_the_parametric_distance_sees_the_prototype_and_then_the_query():
    distance: Any = distance_by_name("parametric", width=6)
    query, prototypes = torch.randn(4, 6), torch.randn(3, 6)
    scores = distance(query, prototypes)
    wider: Any = distance_by_name("parametric", width=6, hidden=9)
    assert wider.score.in_features == 9
    pair = torch.cat([prototypes[2], query[1]])
    expected = distance.score(nn.functional.relu(distance.hidden(pair)))
    torch.testing.assert_close(scores[1, 2], expected[0])
