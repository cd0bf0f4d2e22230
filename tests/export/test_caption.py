"""A captioner as a bundle: exported, proved, built with TensorRT-RTX, and run by the runtime as PyTorch runs it."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from dlcv.export.bundle import export_bundle, verify_bundle
from dlcv.export.caption import decoder_runs, graph_from_decoder
from dlcv.export.gate import Run
from dlcv.export.sources import ExportSource, SourceOptions, load_source
from dlcv.export.writing import prove
from dlcv.runtime.bundle.schema import Preprocessing
from dlcv.runtime.caption.beam_search import SearchOptions
from dlcv.runtime.caption.vocabulary import TOKENIZER_FILE, vocabulary_from_captions
from dlcv.runtime.engines import EngineOptions, why_unavailable
from dlcv.runtime.errors import BundleError, InputError, ParityError
from dlcv.runtime.images import load_pixels
from dlcv.runtime.images.samples import sample_paths
from dlcv.runtime.measure.parity import replay_golden
from dlcv.runtime.running.predictor import load
from dlcv.train.caption.data import load_captions
from dlcv.train.caption.encoder import build_encoder, feature_shape
from dlcv.train.caption.evaluate import captions_from_features, captions_of
from dlcv.train.caption.network import CaptionDecoder, Captioner
from dlcv.train.caption.recipe import CaptionRecipe, DecoderConfig
from dlcv.train.checkpoint import load_checkpoint, save_checkpoint
from dlcv.train.modules import normalised
from dlcv.train.recipe import load_recipe
from dlcv.train.settings import ModelConfig, Normalization
from dlcv.train.tasks import task_kind
from dlcv.train.weights import load_backbone

WORDS = [
    "a",
    "the",
    "two",
    "dog",
    "cat",
    "bird",
    "road",
    "house",
    "tree",
    "taxi",
    "man",
    "woman",
    "red",
    "green",
    "on",
    "in",
]
NORMALIZATION = Normalization(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
ENGINES = [name for name in ("ort", "openvino") if why_unavailable(name) is None]
VIT = ModelConfig(
    name="timm:vit_tiny_patch16_224",
    options={"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
)


@pytest.fixture(scope="module")
def vocabulary():
    return vocabulary_from_captions([" ".join(WORDS)], size=len(WORDS) + 4)


def captioner(model: ModelConfig, *, tokens: int) -> Captioner:
    torch.manual_seed(0)
    encoder = build_encoder(model).network
    channels, grid = feature_shape(encoder, (32, 32))
    config = DecoderConfig(dim=16, depth=2, heads=2, length=8)
    decoder = CaptionDecoder(config, vocabulary=tokens, channels=channels, grid=grid)
    for name, parameter in decoder.named_parameters():
        if "weight" in name and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.7)  # so that captions differ between photos
    return Captioner(encoder, decoder).eval()


@pytest.fixture(scope="module")
def make(vocabulary):
    """Makes a source of a tiny random captioner."""

    def source(model: ModelConfig = VIT) -> ExportSource:
        return ExportSource(
            model=captioner(model, tokens=len(vocabulary)),
            name="tiny-captioner",
            task="caption",
            classes=(),
            preprocessing=Preprocessing(resize="stretch", size=(32, 32)),
            mean=NORMALIZATION.mean,
            std=NORMALIZATION.std,
            description="A tiny random captioner.",
            licence="none needed",
            origin="a test",
            data="None.",
            remake=("dlcv-export bundle tiny",),
            files={TOKENIZER_FILE: vocabulary.to_json()},
        )

    return source


@pytest.fixture(scope="module")
def source(make):
    return make()


@pytest.fixture(scope="module")
def bundle(source, tmp_path_factory):
    return export_bundle(source, tmp_path_factory.mktemp("bundles") / "tiny-captioner")


def pytorch_captions(source, vocabulary, options):
    preprocessing = source.preprocessing
    pixels = np.stack([load_pixels(path, preprocessing).pixels for path in sample_paths()])
    with torch.inference_mode():
        features = source.model.encoder(normalised(torch.tensor(pixels), NORMALIZATION))
    return captions_from_features(source.model, features, vocabulary=vocabulary, options=options)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("beams", [1, 3])
def test_captions_of_an_engine_are_those_of_pytorch_token_by_token(
    engine, beams, bundle, source, vocabulary
):
    options = SearchOptions(beams=beams)
    expected = pytorch_captions(source, vocabulary, options)
    settings = EngineOptions(threads=1, batch_size=3)
    with load(bundle, engine=engine, search=options, options=settings) as predictor:
        results: list[Any] = predictor(sample_paths())
    assert expected.attention is not None
    texts = [vocabulary.text(tokens) for tokens in expected.tokens]
    assert [result.text for result in results] == texts
    assert len(set(texts)) > 1
    logs = [result.log_probability for result in results]
    np.testing.assert_allclose(
        logs, expected.log_probability, atol=2e-3 if engine == "ort" else 0.5
    )
    for number, result in enumerate(results):
        assert len(result.words) == len(result.attention)
        np.testing.assert_allclose(result.attention.sum((1, 2)), 1, atol=1e-4)
        np.testing.assert_allclose(
            result.attention, expected.attention[number, : len(result.words)], atol=2e-2
        )


@pytest.mark.parametrize("beams", [1, 3])
def test_a_cache_that_stays_on_the_device_gives_the_same_captions(beams, bundle, monkeypatch):
    """ONNX Runtime's CPU provider stands for the GPU, on which engine `cuda` keeps the cache."""
    from dlcv.runtime.engines.ort import OrtEngine
    from dlcv.runtime.engines.ort_stateful import OrtRuns
    from dlcv.runtime.engines.registry import ENGINES

    begun = []

    def begin(engine, state):
        specs = engine.inputs, engine.outputs
        begun.append(state)
        return OrtRuns(
            engine._session, state, specs=specs, place=("cpu", 0), errors=lambda _: nullcontext()
        )

    def captions() -> Any:
        pixels = [load_pixels(p, bundle.manifest.preprocessing).pixels for p in sample_paths()]
        settings = EngineOptions(threads=1, batch_size=len(pixels))
        search = SearchOptions(beams=beams)
        with load(bundle, engine="ort", search=search, options=settings) as predictor:
            return predictor.run(np.stack(pixels))

    through_host = captions()
    monkeypatch.setitem(ENGINES, "ort", replace(ENGINES["ort"], keeps_state=True))
    monkeypatch.setattr(OrtEngine, "begin", begin, raising=False)
    kept = captions()
    assert len(begun) == 1
    for name, array in through_host.items():
        np.testing.assert_array_equal(kept[name], array)


def test_an_engine_says_what_pytorch_says_of_100_photos(data_root, tmp_path):
    recipe = load_recipe("caption-flickr8k-mobilenet", CaptionRecipe)
    photos = load_captions(recipe, data_root, train=False)
    torch.manual_seed(0)
    spec: Any = task_kind("caption").network(recipe)
    load_backbone(spec, data_root / str(recipe.weights))
    for name, parameter in spec.network.decoder.named_parameters():
        if "weight" in name and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    words = vocabulary_from_captions(
        load_captions(recipe, data_root, train=True).all_captions, size=recipe.vocabulary
    )
    files = {TOKENIZER_FILE: words.to_json()}
    save_checkpoint(tmp_path / "run", spec.network.eval(), recipe=recipe, metrics={}, files=files)
    checkpoint = load_checkpoint(tmp_path / "run", CaptionRecipe)
    bundle = export_bundle(load_source(str(tmp_path / "run")), tmp_path / "bundle")
    with load(bundle, engine="ort") as predictor:
        results: list[Any] = predictor(list(photos.images.numpy()))
    said = [result.text for result in results]
    assert said == captions_of(checkpoint, photos.images, words)
    assert len(said) == 100
    assert len(set(said)) > 50


def test_attention_is_not_computed_unless_it_is_asked_for(bundle):
    outputs = ("tokens", "log_probability")
    with load(bundle, engine="ort", outputs=outputs) as predictor:
        result: Any = predictor(sample_paths()[0])[0]
        assert result.attention is None
        assert [spec.name for spec in predictor.engine.outputs] == list(outputs)
    with pytest.raises(BundleError, match=r"has no output 'mask', only tokens, log_probability"):
        load(bundle, engine="ort", outputs=("mask",))


def test_golden_cases_belong_to_their_graphs_and_pass(bundle):
    names = [case.name for case in bundle.golden("decoder")]
    assert names == ["decoder1", "decoder2"]
    assert [case.name for case in bundle.golden()] == ["encoder1", "encoder2"]
    from dlcv.runtime.engines import load_engine

    for graph in ("encoder", "decoder"):
        with load_engine(bundle, "ort", graph=graph) as engine:
            assert not replay_golden(bundle, engine, graph=graph).failures


def test_a_bundle_is_verified_against_its_source_and_no_other(bundle, source, make):
    verify_bundle(bundle.path, source, engine="ort")
    other = make()
    with torch.no_grad():
        other.model.decoder.word_pos_embed *= -1
    with pytest.raises(ParityError, match="'logits' has a largest relative difference"):
        verify_bundle(bundle.path, other, engine="ort")


def test_a_cache_that_is_wrong_does_not_pass_the_gate(source, monkeypatch):
    decoder = source.model.decoder
    memory = decoder.memory(torch.randn(2, decoder.features[0].in_features, *decoder.grid))
    images = Run(name="two photos", feeds={}, expected={"memory": memory.detach().numpy()})
    plain = CaptionDecoder.step

    def forgetful(self, token, position, cache, memory):
        return plain(self, token, position, cache * 0, memory)

    monkeypatch.setattr(CaptionDecoder, "step", forgetful)
    graph, runs = graph_from_decoder(decoder), decoder_runs(decoder, [images])
    with pytest.raises(ParityError, match="two photos, position 3: 'logits'"):
        prove(graph, runs, reference="PyTorch", images="none")


def test_the_card_says_what_the_graphs_are(bundle):
    card = (bundle.path / "README.md").read_text()
    assert "dlcv-infer caption photo.jpg -m tiny-captioner" in card
    assert "- a second graph, `decoder`: `token: int32 (batch)`" in card
    assert "## Classes" not in card


def test_both_graphs_build_with_tensorrt_rtx(bundle):
    pytest.importorskip("tensorrt_rtx")
    from dlcv.export.engine import EngineBuild, engine_into_cache

    for graph in ("encoder", "decoder"):
        made = engine_into_cache(bundle, EngineBuild(target="rtx", graph=graph))
        assert made.plan.shares == {"fp32": 1.0}


def test_a_tokenizer_of_another_size_is_refused(bundle):
    other = vocabulary_from_captions(["just these"], size=6)
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    files |= {TOKENIZER_FILE: other.to_json()}
    from dlcv.runtime.bundle import save_bundle

    path = Path(str(bundle.path) + "-other")
    saved = save_bundle(path, bundle.manifest, files=files, overwrite=True)
    with pytest.raises(BundleError, match=r"tokenizer.json has 6 tokens, the decoder 20; export"):
        load(saved, engine="ort")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda m: m.update(tokenizer=None), "task 'caption' needs 'tokenizer', the file"),
        (lambda m: m["files"].pop("tokenizer.json"), "'files' does not list 'tokenizer.json'"),
        (lambda m: m["graphs"].pop("decoder"), "task 'caption' needs a graph named 'decoder'"),
        (lambda m: m["graphs"]["decoder"]["inputs"].pop(2), "needs the input 'cache'"),
        (
            lambda m: m["graphs"]["encoder"]["outputs"][0]["shape"].__setitem__(4, 9),
            "the decoder takes memory",
        ),
    ],
)
def test_a_manifest_that_breaks_the_contract_is_refused(damage, sentence, bundle):
    from dlcv.runtime.bundle.manifest import json_from_manifest, manifest_from_json

    data = msgspec.json.decode(json_from_manifest(bundle.manifest))
    damage(data)
    with pytest.raises(BundleError, match=sentence):
        manifest_from_json(msgspec.json.encode(data))


def test_a_bundle_without_its_tokenizer_file_is_refused(bundle, tmp_path):
    import shutil

    from dlcv.runtime.bundle import open_bundle

    path = shutil.copytree(bundle.path, tmp_path / "copy")
    (path / TOKENIZER_FILE).unlink()
    with pytest.raises(BundleError, match=r"tokenizer.json is missing; copy the whole bundle"):
        open_bundle(path)


def test_search_is_for_captioners():
    with pytest.raises(
        InputError, match=r"'cifar10-vit' \(classify\) writes no captions; name a captioner, or"
    ):
        load("cifar10-vit", engine="ort", search=SearchOptions())


def test_a_checkpoint_becomes_a_source_with_its_tokenizer(make, vocabulary, tmp_path):
    source = make()
    recipe = msgspec.convert(
        {
            "name": "tiny",
            "task": "caption",
            "description": "Tiny.",
            "model": {"name": VIT.name, "options": VIT.options},
            "preprocessing": {"resize": "stretch", "size": [32, 32]},
            "normalization": {"mean": NORMALIZATION.mean, "std": NORMALIZATION.std},
            "data": {"root": "r", "train": "a.json", "test": "b.json"},
            "vocabulary": len(vocabulary),
            "decoder": {"dim": 16, "depth": 2, "heads": 2, "length": 8},
            "optimizer": {"lr": 0.1},
            "epochs": 1,
            "batch": 1,
        },
        CaptionRecipe,
    )
    files = {TOKENIZER_FILE: vocabulary.to_json()}
    metrics = {"cider": 0.5, "remembered": 1.0, "images": 7}
    save_checkpoint(tmp_path / "run", source.model, recipe=recipe, metrics=metrics, files=files)
    loaded = load_source(str(tmp_path / "run"))
    assert loaded.files == files
    assert [(m.name, m.data) for m in loaded.metrics] == [
        ("cider", "7 images of r that were not trained on")
    ]
    assert load_checkpoint(tmp_path / "run").recipe == recipe
    with pytest.raises(InputError, match="has its vocabulary and its size; leave out --classes"):
        load_source(str(tmp_path / "run"), SourceOptions(size=(64, 64)))
