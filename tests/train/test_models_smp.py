"""Segmenters of segmentation_models_pytorch and of torchvision, by name."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torchvision

from dlcv.runtime.errors import RecipeError
from dlcv.train.models import build_model
from dlcv.train.recipe import Recipe
from dlcv.train.weights import load_backbone, load_pretrained

smp = pytest.importorskip("segmentation_models_pytorch")
SMALL = {"encoder_name": "mobilenet_v2", "encoder_depth": 3, "decoder_channels": [16, 8, 8]}


def test_options_go_to_the_librarys_builder_and_logits_have_the_images_size():
    spec = build_model("smp:unet", SMALL, num_classes=4)
    assert spec.network.eval()(torch.zeros(2, 3, 32, 64)).shape == (2, 4, 32, 64)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("smp:Unett", {}, "has no architecture 'Unett'; there are Unet"),
        ("smp:UPerNet", {}, "smp:UPerNet is not trained here.* take smp:FPN, smp:Unet or smp:Dee"),
        ("smp:Unet", {"classes": 3}, "the classes of an smp: network are the recipe's; leave"),
        ("smp:Unet", {"encoder_name": "resnet9000"}, "smp:Unet refuses its options .*resnet9000"),
    ],
)
def test_what_the_library_refuses_is_one_sentence(name, options, message):
    with pytest.raises(RecipeError, match=message) as raised:
        build_model(name, options, num_classes=3)
    assert "\n" not in str(raised.value)


def test_published_weights_go_into_the_encoder_or_the_download_fails_in_a_sentence():
    published = smp.Unet(**SMALL, encoder_weights=None)
    asked = []

    def library(**options):
        asked.append(options["encoder_weights"])
        if options["encoder_weights"] != "imagenet":
            raise OSError("no route")
        return published

    spec = with_library(build_model("smp:Unet", SMALL, num_classes=3), library)
    assert load_pretrained(spec, name="smp:Unet") == []
    own = spec.backbone.state_dict()
    assert all(torch.equal(own[name], t) for name, t in published.encoder.state_dict().items())
    other = build_model("smp:Unet", {**SMALL, "encoder_weights": "ssl"}, num_classes=3)
    with pytest.raises(RecipeError, match=r"smp:Unet \(ssl\) could not be had \(no route\); retry"):
        load_pretrained(with_library(other, library), name="smp:Unet")
    assert asked == ["imagenet", "ssl"]


def with_library(spec, library):
    """Return a spec whose published weights come from another builder than the library's."""
    asking = spec.pretrained
    return replace(spec, pretrained=partial(asking.func, library, *asking.args[1:]))


def test_a_weights_file_is_of_the_whole_network_or_of_its_encoder(tmp_path):
    torch.manual_seed(0)
    other = smp.Unet(**SMALL, encoder_weights=None, classes=9)
    whole = {f"model.{name}": tensor for name, tensor in other.state_dict().items()}
    torch.save({"state_dict": whole}, tmp_path / "last.ckpt")
    torch.save(other.encoder.state_dict(), tmp_path / "encoder.pth")
    spec = build_model("smp:Unet", SMALL, num_classes=3)
    told: list[str] = []
    staying = load_backbone(
        spec, tmp_path / "last.ckpt", allow_missing=("head",), on_note=told.append
    )
    assert staying == ["segmentation_head.0.weight", "segmentation_head.0.bias"]
    assert told == ["took 'state_dict' of last.ckpt; stripped 'model.'"]
    own = spec.network.state_dict()
    assert all(torch.equal(own[n], t) for n, t in other.state_dict().items() if n not in staying)
    spec = build_model("smp:Unet", SMALL, num_classes=3)
    assert load_backbone(spec, tmp_path / "encoder.pth", allow_missing=("head",)) == []
    own = spec.backbone.state_dict()
    assert all(torch.equal(own[name], t) for name, t in other.encoder.state_dict().items())


def test_encoder_weights_without_a_download_are_refused(new_recipe):
    model = {"name": "smp:Unet", "options": {"encoder_weights": "imagenet"}}
    with pytest.raises(ValueError, match="set pretrained to true, or leave it out"):
        new_recipe("segment", model=model)
    assert isinstance(new_recipe("segment", model=model, pretrained=True), Recipe)


def test_a_segmenter_of_torchvision_takes_weights_of_other_classes_without_its_head(tmp_path):
    name = "lraspp_mobilenet_v3_large"
    torch.manual_seed(0)
    other = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=21)
    torch.save(other.state_dict(), tmp_path / "coco.pth")
    spec = build_model(f"torchvision:{name}", num_classes=3)
    staying = load_backbone(spec, tmp_path / "coco.pth", allow_missing=("head",))
    assert {n.rpartition(".")[0] for n in staying} == {
        "classifier.low_classifier",
        "classifier.high_classifier",
    }
    outputs = spec.network.eval()(torch.zeros(1, 3, 32, 48))
    assert outputs["out"].shape == (1, 3, 32, 48)
