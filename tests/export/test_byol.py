"""A backbone learnt without labels becomes a bundle that embeds, and serves few-shot classification."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from dlcv.export.bundle import export_bundle, verify_bundle
from dlcv.export.engine import EngineBuild, engine_into_cache
from dlcv.export.sources import SourceOptions, load_source
from dlcv.runtime import Prototypes, load
from dlcv.runtime.errors import InputError
from dlcv.runtime.images.samples import sample_paths
from dlcv.runtime.machine.system import is_importable
from dlcv.train.byol.recipe import ByolRecipe
from dlcv.train.checkpoint import load_checkpoint, save_checkpoint
from dlcv.train.modules import normalised
from dlcv.train.recipe import load_recipe
from dlcv.train.tasks import task_kind

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
BACKBONES: dict[str, dict[str, Any]] = {
    "cifar_resnet20": {},
    "torchvision:mobilenet_v3_small": {},
    "timm:vit_tiny_patch16_224": VIT,
}


@pytest.fixture(scope="module", params=BACKBONES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained checkpoint of a backbone, with its bundle beside it."""
    folder = tmp_path_factory.mktemp("byol") / "run"
    recipe = load_recipe("cifar10-byol", ByolRecipe)
    model = msgspec.structs.replace(
        recipe.model, name=request.param, options=BACKBONES[request.param]
    )
    recipe = msgspec.structs.replace(recipe, model=model)
    torch.manual_seed(0)
    metrics = {"probe_accuracy": 0.5, "random_accuracy": 0.3, "images": 6670, "epoch": 2}
    network = task_kind("byol").network(recipe).network
    save_checkpoint(folder, network, recipe=recipe, metrics=metrics)
    export_bundle(load_source(str(folder)), folder / "bundle")
    return folder


def test_the_engine_embeds_as_pytorch_does(run: Path) -> None:
    checkpoint = load_checkpoint(run, ByolRecipe)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    with torch.inference_mode():
        inputs = normalised(torch.tensor(pixels), checkpoint.recipe.normalization)
        expected = checkpoint.model(inputs).numpy()
    with load(run / "bundle", engine="ort") as predictor:
        answers: list[Any] = predictor(list(pixels))
    received = np.stack([answer.vector for answer in answers])
    np.testing.assert_allclose(received, expected, atol=1e-4 * np.abs(expected).max())


def test_it_serves_few_shot_classification_by_the_cosine(run: Path) -> None:
    cat, dog = (path for path in sample_paths() if path.stem in ("cat", "dog"))
    with load(run / "bundle", engine="ort") as predictor:
        prototypes = Prototypes.fit(predictor, {"cat": [cat], "dog": [dog]})
        answers = prototypes.predict(predictor, [cat, dog])
    assert [answer.label.name for answer in answers] == ["cat", "dog"]


def test_it_is_verified_with_its_checkpoint_and_says_what_it_scored(run: Path) -> None:
    verify_bundle(run / "bundle", load_source(str(run)), engine="ort")
    card = (run / "bundle" / "README.md").read_text()
    assert (
        "| probe_accuracy | 0.5 | 6,670 images of cifar10 that were not trained on, by a " in card
    )
    assert "random weights: 0.300 |" in card
    assert "## Classes" not in card
    with pytest.raises(InputError, match="has no classes of its own; leave out --classes"):
        load_source(str(run), SourceOptions(classes=run / "names.txt"))


@pytest.mark.skipif(not is_importable("tensorrt_rtx"), reason="TensorRT-RTX is not installed")
def test_it_builds_with_tensorrt_rtx(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlcv.runtime import open_bundle

    monkeypatch.setenv("DLCV_CACHE", str(tmp_path))
    made = engine_into_cache(open_bundle(run / "bundle"), EngineBuild(target="rtx"))
    assert (made.plan.precision, len(made.plan.data) > 0) == ("fp32", True)
