"""Segmenters of segmentation_models_pytorch become bundles that give their masks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dlcv
from dlcv.export.bundle import export_bundle
from dlcv.export.sources import SourceOptions, load_source
from dlcv.runtime import Segmentation
from dlcv.runtime.errors import InputError, RecipeError

smp = pytest.importorskip("segmentation_models_pytorch")
SMALL = {"encoder_name": "mobilenet_v2", "classes": "3"}
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def options(**changes: Any) -> SourceOptions:
    usual: dict[str, Any] = {"size": (64, 64), "settings": SMALL, "random": True}
    return SourceOptions(**usual | changes)


@pytest.mark.parametrize("name", ["Unet", "DeepLabV3Plus"])
def test_an_architecture_gives_in_its_bundle_what_the_library_gives(
    name: str, tmp_path: Path
) -> None:
    said: list[str] = []
    source = load_source(f"smp:{name}", options(on_note=said.append))
    assert said == [
        "no --mean, --std given: those of ImageNet, (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225)"
    ]
    bundle = export_bundle(source, tmp_path / "bundle")
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with dlcv.load(bundle) as model:
        (result,) = model(photo)
    pixels = torch.from_numpy(((photo / 255 - MEAN) / STD).astype(np.float32))
    with torch.inference_mode():
        mask = source.model(pixels.permute(2, 0, 1)[None]).argmax(1)[0].numpy()
    assert isinstance(result, Segmentation)
    assert (result.mask == mask).mean() > 0.999


def test_segformer_is_exported_and_one_class_is_two(tmp_path: Path) -> None:
    settings = {"encoder_name": "mit_b0"}  # classes: 1, the library's default
    bundle = export_bundle(load_source("smp:Segformer", options(settings=settings)), tmp_path / "b")
    assert [c.name for c in bundle.manifest.classes] == ["background", "foreground"]


def test_a_folder_of_save_pretrained_brings_its_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = smp.Unet("mobilenet_v2", encoder_weights=None, classes=3)
    network.save_pretrained(str(tmp_path / "mine"))
    source = load_source(f"smp:{tmp_path / 'mine'}", SourceOptions(size=(64, 64)))
    assert (source.name, len(source.classes)) == ("smp-mine", 3)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(source.model(pixels), network.eval()(pixels))


def test_weights_of_lightning_fill_an_architecture(tmp_path: Path) -> None:
    network = smp.Unet("mobilenet_v2", encoder_weights=None, classes=3)
    state = {f"model.{k}": v for k, v in network.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    said: list[str] = []
    source = load_source(
        "smp:unet", options(random=False, weights=tmp_path / "last.ckpt", on_note=said.append)
    )
    assert said[0] == "took 'state_dict' of last.ckpt; stripped 'model.'"
    first = next(iter(network.state_dict().values()))
    assert torch.equal(next(iter(source.model.state_dict().values())), first)


@pytest.mark.parametrize(
    ("spec", "changes", "message"),
    [
        ("smp:Unett", {}, "has no architecture 'Unett'; there are Unet"),
        ("smp:Unet", {"random": False}, "needs --weights FILE .* or --random"),
        (
            "smp:Unet",
            {"settings": {"encoder_name": "resnet999"}},
            "cannot be built with these --set: ",
        ),
        ("smp:Unet", {"task": "classify"}, "smp: networks segment; leave out --task classify"),
        ("smp:UPerNet", {}, "smp:UPerNet is not exported: .*; take smp:FPN"),
        ("smp:PAN", {}, r"fails on float32 \(2, 3, 64, 64\) .*too small\); give another --size"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    spec: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as raised:
        load_source(spec, options(**changes))
    assert "\n" not in str(raised.value)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder of save_pretrained"):
        load_source(f"smp:{tmp_path}", SourceOptions(size=(64, 64)))
    torch.save({"a": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(RecipeError, match="does not fit Unet"):
        load_source("smp:Unet", options(random=False, weights=tmp_path / "w.pth"))
