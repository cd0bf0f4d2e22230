"""Few-shot checkpoints become bundles of two graphs, and the engine predicts what PyTorch predicts."""

import json
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from dlcv.export.bundle import export_bundle, verify_bundle
from dlcv.export.engine import EngineBuild, engine_into_cache
from dlcv.export.sources import SourceOptions, load_source
from dlcv.runtime import Prototypes, load, open_bundle
from dlcv.runtime.bundle.manifest import Manifest, json_from_manifest
from dlcv.runtime.engines import load_engine
from dlcv.runtime.engines.base import EngineOptions
from dlcv.runtime.errors import BundleError, InputError, ParityError
from dlcv.runtime.fewshot.episode_accuracy import score_episodes, scores_of
from dlcv.runtime.fewshot.episodes import EpisodeConfig
from dlcv.runtime.fewshot.evaluation import EpisodeOptions, evaluate_episodes
from dlcv.runtime.fewshot.support import support_images
from dlcv.runtime.machine.system import is_importable
from dlcv.runtime.measure.check import replay_all
from dlcv.train.checkpoint import load_checkpoint, save_checkpoint
from dlcv.train.fewshot.data import load_split
from dlcv.train.fewshot.distance import distance_on_arrays
from dlcv.train.fewshot.evaluate import embedded, episodes_of_test
from dlcv.train.fewshot.network import network_from_recipe
from dlcv.train.fewshot.recipe import FewShotRecipe
from dlcv.train.recipe import load_recipe

DISTANCES = ["euclidean", "cosine", "parametric"]
SHARE_OF_TIES = 1e-4
ENGINES = ["ort", "openvino"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """For each distance, an untrained checkpoint and its bundle."""
    root = tmp_path_factory.mktemp("fewshot")
    for name in DISTANCES:
        recipe = load_recipe(f"fewshot-tiny32-{name}", FewShotRecipe)
        torch.manual_seed(0)
        model = msgspec.structs.replace(recipe.model, options={"image_size": 32, "width": 8})
        recipe = msgspec.structs.replace(recipe, model=model)
        network = network_from_recipe(recipe).network
        metrics = {
            "accuracy": 0.3,
            "interval": 0.01,
            "shots": {"1-shot": 0.3, "5-shot": 0.5},
            "intervals": {"1-shot ±": 0.01, "5-shot ±": 0.02},
            "episodes": 600,
            "ways": 5,
            "images": 1200,
        }
        save_checkpoint(root / name, network, recipe=recipe, metrics=metrics)
        export_bundle(load_source(str(root / name)), root / f"{name}-bundle")
    return root


def bundle_of(made, name):
    return open_bundle(made / f"{name}-bundle")


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("engine", ENGINES)
def test_both_graphs_replay_their_golden_cases(made, name, engine):
    bundle = bundle_of(made, name)
    comparison, info = replay_all(bundle, engine, precision=None, options=EngineOptions(threads=1))
    assert info.name == engine
    assert set(comparison.outputs) == {"embedding", "scores"}
    assert not comparison.failures
    assert [case.name for case in bundle.golden("distance")] == ["distance1", "distance2"]


@pytest.mark.parametrize("name", DISTANCES)
def test_the_distance_takes_any_number_of_queries_and_classes(made, name):
    distance: Any = load_checkpoint(made / name).model.distance
    bundle = bundle_of(made, name)
    with load_engine(bundle, "ort", graph="distance") as engine:
        for queries, classes in ((1, 1), (1, 5), (7, 2)):
            query, prototypes = torch.randn(queries, 64), torch.randn(classes, 64)
            feeds = {"query": query.numpy(), "prototypes": prototypes.numpy()}
            with torch.inference_mode():
                expected = distance(query, prototypes)
            np.testing.assert_allclose(engine.infer(feeds)["scores"], expected, rtol=1e-4)


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("graph", ["model", "distance"])
@pytest.mark.skipif(not is_importable("tensorrt_rtx"), reason="TensorRT-RTX is not installed")
def test_both_graphs_build_with_tensorrt_rtx(made, name, graph, tmp_path, monkeypatch):
    monkeypatch.setenv("DLCV_CACHE", str(tmp_path))
    built = engine_into_cache(bundle_of(made, name), EngineBuild(target="rtx", graph=graph))
    assert built.plan.precision == "fp32"
    assert ("classes 1,8,1024" in built.request.fields["profile"]) == (graph == "distance")


def predictions_of(predictor, images, episode):
    """Return what the runtime says of an episode's queries."""
    support = {f"{n}": [images[i] for i in s.tolist()] for n, s in enumerate(episode.support)}
    answers = Prototypes.fit(predictor, support).predict(
        predictor, [images[i] for i in episode.query.tolist()]
    )
    return np.stack([answer.probabilities for answer in answers])


def compare_episodes(checkpoint, bundle, split, episodes, *, engine):
    """Check that the runtime predicts what PyTorch predicts, query by query."""
    embeddings = embedded(checkpoint, split.images)
    images = split.images.images.numpy()
    differing = count = 0
    with load(bundle, engine=engine, options=EngineOptions(batch_size=64)) as predictor:
        for episode in episodes:
            distance = distance_on_arrays(checkpoint.model.distance)
            scores = scores_of(embeddings, episode, distance=distance)
            expected = torch.tensor(scores).softmax(dim=1).numpy()
            received = predictions_of(predictor, images, episode)
            np.testing.assert_allclose(received, expected, atol=1e-3)
            differing += int((received.argmax(1) != expected.argmax(1)).sum())
            count += len(received)
    return differing, count


@pytest.fixture
def colours():
    """Images at the graph's size, of six classes of ten images of noise around a colour."""
    random = np.random.default_rng(0)
    colors = random.integers(0, 200, (6, 1, 1, 1, 3))
    images = colors + random.integers(0, 56, (6, 10, 32, 32, 3))
    return torch.tensor(images.astype(np.uint8)).flatten(0, 1)


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_engine_predicts_what_pytorch_predicts(made, name, engine, colours):
    from dlcv.train.data.batches import Dataset
    from dlcv.train.fewshot.data import ClassSplit

    labels = torch.arange(6).repeat_interleave(10)
    split = ClassSplit(images=Dataset(images=colours, labels=labels), classes=tuple("abcdef"))
    config = EpisodeConfig(ways=5, shots=2, queries=4, episodes=5)
    episodes = split.sampler(config, split="test", seed=0)
    checkpoint = load_checkpoint(made / name, FewShotRecipe)
    differing, count = compare_episodes(
        checkpoint, bundle_of(made, name), split, episodes, engine=engine
    )
    assert (differing, count) == (0, 100)


@pytest.mark.parametrize("name", DISTANCES)
def test_the_engine_predicts_what_pytorch_predicts_on_600_episodes(made, name, data_root):
    checkpoint = load_checkpoint(made / name, FewShotRecipe)
    recipe: Any = checkpoint.recipe
    split = load_split(recipe, data_root, split="test")
    expected = score_episodes(
        embedded(checkpoint, split.images),
        episodes_of_test(recipe, split, data_root),
        distance=distance_on_arrays(checkpoint.model.distance),
    )
    images = support_images(data_root / recipe.data.root, within=recipe.data.test)
    drawing = EpisodeOptions(shots=(recipe.test.shots,), seed=recipe.seed)
    with load(bundle_of(made, name), engine="ort") as predictor:
        received = evaluate_episodes(predictor, images, drawing)
    ours, theirs = map(np.concatenate, (received.scores["1-shot"].answers, expected.answers))
    # Which of two classes at the same distance wins is a matter of the last bit, which CPUs round differently.
    assert np.mean(ours != theirs) <= SHARE_OF_TIES
    assert received.record()["accuracy"] == pytest.approx(expected.accuracy, abs=SHARE_OF_TIES)
    assert (expected.episodes, received.images) == (600, 1200)


def test_the_bundle_says_what_it_is(made):
    manifest = bundle_of(made, "cosine").manifest
    assert (manifest.task, manifest.classes) == ("embed", ())
    scores = {metric.name: (metric.value, metric.data) for metric in manifest.metrics}
    assert list(scores) == ["accuracy, 1-shot", "accuracy, 5-shot"]
    assert scores["accuracy, 5-shot"] == (
        0.5,
        "600 5-way episodes of classes that were not trained on; 95 % interval ± 0.0200",
    )
    card = (made / "cosine-bundle" / "README.md").read_text()
    assert "a second graph, `distance`: `query: float32 (batch, 64)`, `prototypes:" in card
    assert "dlcv-infer fewshot photo.jpg --support examples/" in card
    assert "## Classes" not in card


def test_a_bundle_is_verified_with_its_checkpoint_and_no_other(made):
    verify_bundle(made / "cosine-bundle", load_source(str(made / "cosine")), engine="ort")
    with pytest.raises(ParityError, match="scores"):
        verify_bundle(made / "cosine-bundle", load_source(str(made / "euclidean")), engine="ort")
    with pytest.raises(InputError, match="has no classes of its own; leave out --classes"):
        load_source(str(made / "cosine"), SourceOptions(classes=made / "names.txt"))


def test_prototypes_of_one_bundle_are_refused_by_another(made, colours):
    images = list(colours.numpy())
    support = {"a": images[:2], "b": images[10:12]}
    with load(made / "cosine-bundle", engine="ort") as cosine:
        fitted = Prototypes.fit(cosine, support)
    with (
        load(made / "euclidean-bundle", engine="ort") as euclidean,
        pytest.raises(InputError, match="made with bundle 'fewshot-tiny32-cosine'"),
    ):
        fitted.predict(euclidean, images[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda g: g["inputs"][1].update(shape=["classes", 65]),
            "'prototypes' has 65 columns but 'embedding' has 64",
        ),
        (lambda g: g["inputs"].pop(), "needs the input 'prototypes'"),
        (
            lambda g: g["outputs"][0].update(shape=["classes", "batch"]),
            r"output 'scores' must be float32 \(batch, classes\)",
        ),
    ],
)
def test_a_distance_that_breaks_the_contract_is_refused(made, change, message):
    data = json.loads(json_from_manifest(bundle_of(made, "cosine").manifest))
    change(data["graphs"]["distance"])
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(data, Manifest)


def test_a_bundle_has_no_graph_that_it_does_not_name(made):
    with pytest.raises(BundleError, match="has no graph 'decoder', only model, distance"):
        bundle_of(made, "cosine").graph("decoder")
