import copy

import pytest
import torch
from torch import nn

from dlcv.train.byol.parts import decay_at, follow, mlp, regression_loss, spread
from dlcv.train.byol.probe import probe_accuracy
from dlcv.train.byol.recipe import ByolConfig


def test_the_loss_is_0_for_the_same_way_2_across_and_4_against_it_whatever_the_length():
    ways = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    assert float(regression_loss(ways, 7 * ways)) == pytest.approx(0, abs=1e-6)
    assert float(regression_loss(ways, ways.flip(1))) == pytest.approx(2)
    assert float(regression_loss(ways, -ways)) == pytest.approx(4)


def test_no_gradient_goes_into_the_target():
    prediction, target = torch.rand(2, 3).requires_grad_(), torch.rand(2, 3).requires_grad_()
    regression_loss(prediction, target).backward()
    assert prediction.grad is not None
    assert target.grad is None


def test_the_decay_goes_from_its_base_to_1_along_a_cosine_as_in_the_paper():
    config = ByolConfig(decay=0.996)
    assert decay_at(0, steps=100, config=config) == pytest.approx(0.996)
    assert decay_at(50, steps=100, config=config) == pytest.approx(0.998)
    assert decay_at(100, steps=100, config=config) == pytest.approx(1)
    constant = ByolConfig(decay=0.99, decay_schedule="constant")
    assert {decay_at(step, steps=100, config=constant) for step in (0, 50, 100)} == {0.99}


def test_the_target_moves_by_what_decay_leaves():
    online, target = nn.Linear(2, 2), nn.Linear(2, 2)
    before = copy.deepcopy(target)
    follow(target, online, decay=0.75)
    for new, old, fast in zip(target.parameters(), before.parameters(), online.parameters(), strict=True):  # fmt: skip
        assert torch.allclose(new, 0.75 * old + 0.25 * fast)


def test_the_spread_is_near_1_for_random_ways_and_0_for_one_way():
    random = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    assert spread(random) == pytest.approx(1, abs=0.01)
    assert spread(random[:1].expand(100, 64) * torch.rand(100, 1)) == pytest.approx(0, abs=1e-3)


def test_the_projector_has_the_papers_layers():
    layers = mlp(512, ByolConfig())
    assert [type(layer).__name__ for layer in layers] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert layers(torch.rand(2, 512)).shape == (2, 256)
    assert layers[0].out_features == 4096


def test_the_probe_learns_what_a_line_parts_and_nothing_from_noise():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (600,), generator=generator)
    noise = torch.randn(600, 8, generator=generator)
    told = noise.clone()
    told[:, :3] += 6 * torch.nn.functional.one_hot(labels, 3)
    for features, least, most in ((told, 0.97, 1.0), (noise, 0.2, 0.45)):
        known, asked = (features[:300], labels[:300]), (features[300:], labels[300:])
        score = probe_accuracy(known, asked, classes=3, weight_decay=1e-3)
        assert least <= score <= most
        assert score == probe_accuracy(known, asked, classes=3, weight_decay=1e-3)


def test_the_probe_works_where_lightning_forbids_gradients():
    with torch.inference_mode():
        rows = (torch.rand(9, 4), torch.arange(9) % 3)
        assert 0 <= probe_accuracy(rows, rows, classes=3, weight_decay=1e-3) <= 1


def test_the_probe_is_that_of_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model")
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 4, (800,), generator=generator)
    features = torch.randn(800, 10, generator=generator)
    features[:, :4] += torch.nn.functional.one_hot(labels, 4)
    known, asked = (features[:400], labels[:400]), (features[400:], labels[400:])
    mean, std = known[0].mean(0), known[0].std(0)
    reference = linear.LogisticRegression(C=1 / (400 * 1e-3), max_iter=1000)
    reference.fit(((known[0] - mean) / std).numpy(), known[1].numpy())
    expected = reference.score(((asked[0] - mean) / std).numpy(), asked[1].numpy())
    assert probe_accuracy(known, asked, classes=4, weight_decay=1e-3) == pytest.approx(expected, abs=0.01)  # fmt: skip
