import shutil
from typing import Any

import pytest
import torch

from dlcv.runtime.caption.vocabulary import vocabulary_from_captions
from dlcv.runtime.errors import RecipeError
from dlcv.train.caption.evaluate import evaluate_captions, vocabulary_of
from dlcv.train.caption.recipe import CaptionRecipe
from dlcv.train.checkpoint import load_checkpoint
from dlcv.train.fit import Checkpoints, fit
from dlcv.train.recipe import builtin_recipes, load_recipe
from dlcv.train.tasks import task_kind


def run(recipe, root, out, **options):
    with torch.random.fork_rng():
        return fit(recipe, root, out=out, **options)


@pytest.fixture(scope="module")
def trained(new_recipe, toy_root, tmp_path_factory):
    """A captioner that had time to learn its six photos by heart."""
    out = tmp_path_factory.mktemp("run") / "run"
    recipe = new_recipe(epochs=8, validate_every=8, batch=1, optimizer={"lr": 0.01})
    return out, run(recipe, toy_root, out)


def test_a_captioner_learns_its_photos_by_heart_and_tells_new_ones_apart(trained):
    _, metrics = trained
    assert metrics["remembered"] == 1.0
    assert metrics["bleu4"] > 0.5 or metrics["cider"] > 3


def test_a_checkpoint_holds_its_tokenizer_and_scores_as_it_says(trained, toy_root):
    out, metrics = trained
    checkpoint = load_checkpoint(out, CaptionRecipe)
    assert vocabulary_of(checkpoint).words([1, 2, 3]) == ("<start>", "<end>", "<unk>")
    again = evaluate_captions(checkpoint, toy_root)
    assert {k: v for k, v in metrics.items() if k != "epoch"} == again


def test_a_checkpoint_without_its_tokenizer_says_so(trained, tmp_path):
    folder = shutil.copytree(trained[0], tmp_path / "copy")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(RecipeError, match=r"has no tokenizer.json, without which its captions"):
        vocabulary_of(load_checkpoint(folder, CaptionRecipe))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(RecipeError, match="is not a tokenizer of the tokenizers library"):
        vocabulary_of(load_checkpoint(folder, CaptionRecipe))
    other = vocabulary_from_captions(["one two three"], size=7)
    (folder / "tokenizer.json").write_bytes(other.to_json())
    with pytest.raises(RecipeError, match="has 7 tokens, the network 12; it is of another run"):
        vocabulary_of(load_checkpoint(folder, CaptionRecipe))


class PowerFailureError(Exception):
    pass


@pytest.mark.parametrize(
    "changes",
    [{"freeze": ["backbone"]}, {"freeze": [], "decoder": {"dim": 8, "heads": 2, "length": 8}}],
)
def test_a_resumed_run_is_the_same_run(changes, new_recipe, toy_root, tmp_path, monkeypatch):
    recipe = new_recipe(epochs=3, **changes)
    run(recipe, toy_root, tmp_path / "whole")

    def fail(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise PowerFailureError

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_epoch_start", fail)
        with pytest.raises(PowerFailureError):
            run(recipe, toy_root, tmp_path / "parts")
    run(recipe, toy_root, tmp_path / "parts", resume=True)
    both = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert both[0] == both[1]


def test_an_encoder_that_is_not_frozen_learns(new_recipe, toy_root):
    kind, recipe = task_kind("caption"), new_recipe(freeze=[], epochs=1)
    data = kind.data(recipe, toy_root)
    module: Any = kind.module(recipe, kind.network(recipe), data)
    images, tokens = data.train_dataloader()[0]
    module._loss(module._features(images, train=True), tokens).backward()
    encoder = module.network.encoder.named_parameters()
    assert all(p.grad is not None for name, p in encoder if "head" not in name)


@pytest.mark.parametrize("name", [n for n in builtin_recipes() if n.startswith("caption-")])
def test_each_builtin_captioner_can_be_built(name):
    recipe = load_recipe(name, CaptionRecipe)
    with torch.device("meta"):
        spec: Any = task_kind("caption").network(recipe)
    assert spec.network.decoder.length == recipe.decoder.length
    assert spec.pretrained is not None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"vocabulary": 13}, "have 8 different words, which with 4 marks make 12 tokens; set vocabulary"),
        ({"data": {"root": "toy", "train": "none.json", "test": "test.json"}}, "no caption file .*none.json"),
        ({"model": {"name": "resnet18"}}, "no encoder 'resnet18'; give torchvision:NAME"),
        ({"model": {"name": "torchvision:resnet18"}}, "it has no part `features`; timm has"),
        ({"preprocessing": {"resize": "stretch", "size": [48, 48]}}, "gives no features of images of 48x48"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(changes, sentence, new_recipe, toy_root, tmp_path):
    with pytest.raises(RecipeError, match=sentence):
        run(new_recipe(**changes), toy_root, tmp_path / "run")


def test_heads_divide_the_width(new_recipe):
    with pytest.raises(ValueError, match=r"dim 10 is not a multiple of decoder.heads 4"):
        new_recipe(decoder={"dim": 10})


def test_images_have_one_size(new_recipe):
    resize = {"resize": "longest_side", "size": [32, 32]}
    with pytest.raises(ValueError, match="captioning needs images of one size"):
        new_recipe(preprocessing=resize)


def test_unknown_words_and_cuts_are_counted_before_training(new_recipe, toy_root, tmp_path, capsys):
    run(
        new_recipe(vocabulary=9, epochs=1, decoder={"dim": 8, "heads": 2, "length": 4}),
        toy_root,
        tmp_path / "run",
    )
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("training: 6 images, 12 captions of 3.5 words; 6 are cut to 3, ")
    assert "words are not in the vocabulary of 9" in lines[1]
