"""Heads and inputs beyond softmax and RGB: their bundles give what the network gives, end to end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from typer.testing import CliRunner

import dlcv
from dlcv.cli.infer.app import app
from dlcv.export import export_model
from dlcv.export.bundle import export_bundle, verify_bundle
from dlcv.export.sources import ImageOptions, SourceOptions, load_source
from dlcv.export.sources.module import ModuleFacts, source_from_module
from dlcv.runtime import Classification, Segmentation
from dlcv.runtime.errors import BundleError, InputError

PHOTO = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)


def answer(bundle: Any, image: Any = PHOTO) -> Any:
    with dlcv.load(bundle) as model:
        (result,) = model(image)
    return result


def run(network: nn.Module, pixels: np.ndarray[Any, Any]) -> Tensor:
    """Run a network on pixels (H, W, C) that are normalised already."""
    image = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        output: Tensor = network.eval()(image)[0]
    return output


class Maps(nn.Module):
    def __init__(self, outputs: int, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Conv2d(channels, outputs, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        maps: Tensor = self.layers(pixels) * 4
        return maps


class Untraceable(nn.Module):
    """A classifier with a condition on a tensor's shape, which torch.fx cannot follow."""

    def __init__(self, head: nn.Module, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Conv2d(channels, 8, 3, padding=1)
        self.head = head

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        if pixels.shape[2] < 8:
            raise ValueError("too small")
        features = self.layers(pixels).relu().mean((2, 3))
        return {"logits": self.head(features)}


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_one_channel_is_two_classes_from_a_threshold_on(tmp_path: Path, threshold: float) -> None:
    network = Maps(1)
    export_model(network, tmp_path / "b", task="segment", size=(64, 48), threshold=threshold)
    result = answer(tmp_path / "b")
    probability = run(network, PHOTO / 255)[0].sigmoid().numpy()
    assert isinstance(result, Segmentation)
    clear = np.abs(probability - threshold) > 1e-4
    assert ((probability >= threshold) == result.mask)[clear].all()
    chosen = np.where(result.mask == 1, probability, 1 - probability)
    assert result.confidence is not None
    np.testing.assert_allclose(result.confidence, chosen, atol=1e-4)


def test_several_labels_are_those_above_the_threshold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 6))
    names = ["sea", "sand", "sun", "boat", "bird", "tree"]
    export_model(
        network, tmp_path / "b", classes=names, size=(64, 48), activation="sigmoid", threshold=0.55
    )
    result = answer(tmp_path / "b")
    probability = run(network, PHOTO / 255).sigmoid().numpy()
    assert isinstance(result, Classification)
    np.testing.assert_allclose(result.probabilities, probability, atol=1e-5)
    given = [names[i] for i in np.argsort(-probability) if probability[i] >= 0.55]
    assert 0 < len(given) < 6
    assert [label.name for label in result.labels] == given
    record = result.record()
    assert [label["label"] for label in record["labels"]] == given
    assert record["label"] == given[0]
    assert result.csv_row(record)["labels"].startswith(f"{given[0]}:0.")
    assert result.overlay().width > 48
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    arguments = ["classify", "photo.png", "-m", "b", "--overlay", "--out", "out", "-e", "ort"]
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0, ran.output
    assert (tmp_path / "out/overlays/photo.png").is_file()  # there is no explanation to draw


def test_more_than_256_classes_are_a_mask_of_16_bits(tmp_path: Path) -> None:
    network = Maps(300)
    export_model(network, tmp_path / "b", task="segment", size=(64, 48))
    result = answer(tmp_path / "b")
    expected = run(network, PHOTO / 255).argmax(0).numpy()
    assert result.mask.dtype == np.uint16
    assert expected.max() > 255
    assert (result.mask == expected).mean() > 0.999
    result.mask_image().save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as read:
        assert (np.asarray(read) == result.mask).all()
    assert result.overlay().height >= 64


def test_a_network_with_one_channel_takes_greyscale(tmp_path: Path) -> None:
    network = Maps(3, channels=1)
    export_model(
        network, tmp_path / "b", task="segment", size=(64, 48), channels="grey", mean=(0.4,)
    )
    grey = np.asarray(Image.fromarray(PHOTO).convert("L"))[..., None]
    expected = run(network, grey / 255 - 0.4).argmax(0).numpy()
    for image in (PHOTO, grey, grey[..., 0], Image.fromarray(grey[..., 0])):
        assert (answer(tmp_path / "b", image).mask == expected).mean() > 0.999


def test_timm_with_one_channel(tmp_path: Path) -> None:
    said: list[str] = []
    options = SourceOptions(
        random=True, size=(64, 64), settings={"in_chans": "1"}, on_note=said.append
    )
    source = load_source("timm:resnet10t", options)
    assert len(said) == 1
    assert said[0].startswith("one channel: mean 0.449 and std 0.226, the averages of the three; ")
    bundle = export_bundle(source, tmp_path / "b")
    assert bundle.graph().inputs[0].shape == ("batch", 64, 64, 1)
    assert answer(bundle).probabilities.shape == (1000,)
    with pytest.raises(InputError, match="images of 1 or 3 channels, not in_chans=4"):
        load_source("timm:resnet10t", SourceOptions(random=True, settings={"in_chans": "4"}))


def test_caffe_pixels_are_blue_first_and_unscaled(tmp_path: Path) -> None:
    network = Maps(3)
    export_model(
        network,
        tmp_path / "b",
        task="segment",
        size=(64, 48),
        channels="bgr",
        scale=1.0,
        mean=(104.0, 117.0, 123.0),
        std=(50.0,),
    )
    expected = run(network, (PHOTO[..., ::-1] - (104.0, 117.0, 123.0)) / 50).argmax(0).numpy()
    assert (answer(tmp_path / "b").mask == expected).mean() > 0.999


@pytest.mark.parametrize("pad_at", ["center", "end"])
def test_a_padded_image_has_a_mask_without_its_border(tmp_path: Path, pad_at: str) -> None:
    network = Maps(3)
    facts: dict[str, Any] = {"resize": "letterbox", "pad": (114, 114, 114), "pad_at": pad_at}
    export_model(network, tmp_path / "b", task="segment", size=(64, 64), **facts)
    result = answer(tmp_path / "b")
    padded = np.full((64, 64, 3), 114, np.uint8)
    left = 8 if pad_at == "center" else 0
    padded[:, left : left + 48] = PHOTO
    expected = run(network, padded / 255).argmax(0).numpy()[:, left : left + 48]
    assert result.mask.shape == (64, 48)
    assert (result.mask == expected).mean() > 0.999
    counts = np.bincount(expected.ravel(), minlength=3) / expected.size
    assert result.shares == pytest.approx(
        {f"class {i}": counts[i] for i in range(3) if counts[i]}, abs=1e-3
    )


def test_a_classifier_that_cannot_be_traced_has_the_embedding_of_its_graph(tmp_path: Path) -> None:
    network = Untraceable(nn.Linear(8, 5))
    bundle = export_model(network, tmp_path / "b", size=(64, 48))
    result = answer(bundle)
    features = run(nn.Sequential(network.layers, nn.ReLU()), PHOTO / 255).mean((1, 2)).numpy()
    np.testing.assert_allclose(result.embedding, features, atol=1e-4)
    verify_bundle(bundle.path, source_from_module(network, ModuleFacts(size=(64, 48))))


def test_without_a_last_linear_layer_the_embedding_is_said_to_be_absent(tmp_path: Path) -> None:
    head = nn.Sequential(nn.Linear(8, 5), nn.LayerNorm(5))
    bundle = export_model(Untraceable(head), tmp_path / "b", size=(64, 48))
    assert [spec.name for spec in bundle.graph().outputs] == ["probabilities"]
    assert "no embedding" in (bundle.path / "README.md").read_text()
    assert answer(bundle).embedding is None
    with pytest.raises(BundleError, match="has no output 'embedding', only probabilities"):
        dlcv.load(bundle, outputs=("embedding",))


class Switching(nn.Module):
    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner = nn.Dropout(0.5)
        self.answer = forward

    def forward(self, pixels: Tensor) -> Tensor:
        return self.answer(pixels.mean((2, 3)))


class Stubborn(Switching):
    def train(self, mode: bool = True) -> "Stubborn":
        super().train(mode)
        self.inner.train()
        return self


@pytest.mark.parametrize(
    ("network", "facts", "message"),
    [
        (
            Switching(lambda x: functional.dropout(x, 0.5)),
            {},
            "gives other answers for the same images .* training=self.training",
        ),
        (Stubborn(lambda x: x), {}, r"stays in training mode after eval\(\) \(in inner\)"),
        (Maps(1), {"task": "segment", "threshold": 1.5}, "[Tt]hreshold"),
        (Maps(3), {"task": "segment", "threshold": 0.5}, "a threshold needs a sigmoid"),
        (
            Maps(3),
            {"task": "segment", "activation": "sigmoid"},
            "a segmenter with 3 channels is not exported with activation sigmoid",
        ),
        (Maps(3), {"task": "segment", "resize": "center_crop"}, "a mask covers the whole image"),
        (
            Maps(3),
            {"task": "segment", "channels": "grey"},
            r"fails on float32 \(2, 1, .*--channels",
        ),
        (Maps(3), {"task": "segment", "pad": (1, 2, 3)}, "pad and pad_at need resize 'letterbox'"),
        (
            Maps(2),
            {"task": "segment", "classes": ["sky", "ro\x1b[31mad"]},
            r"no line breaks and control characters, as 'ro\\x1b\[31mad' has",
        ),
        (Maps(2), {"task": "segment", "scale": 0.0}, "scale and std must not be 0"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(
    tmp_path: Path, network: nn.Module, facts: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as raised:
        export_model(network, tmp_path / "b", **{"size": (64, 48), **facts})
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "b").exists()


def test_a_module_stays_in_the_mode_in_which_it_was(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5)).train()
    network[1].eval()  # frozen, as many do
    export_model(network, tmp_path / "b", task="segment", size=(32, 32))
    assert [part.training for part in network] == [True, False, True]


def test_options_of_a_trained_timm_network_replace_its_own() -> None:
    images = ImageOptions(mean=(0.4,), resize="letterbox", pad=(1, 2, 3), channels="bgr")
    options = SourceOptions(random=True, images=images, activation="sigmoid", size=(96, 96))
    source = load_source("timm:resnet10t", options)
    config = timm.get_pretrained_cfg("resnet10t")
    assert config is not None
    assert source.mean == (0.4, 0.4, 0.4)
    assert source.std == tuple(reversed(config.std))
    assert source.is_bgr
    assert source.preprocessing.resize == "letterbox"
    assert source.preprocessing.pad == (1, 2, 3)
    assert (source.activation, source.threshold) == ("sigmoid", 0.5)
    assert " --activation sigmoid --mean 0.4 --channels bgr --resize letterbox" in source.remake[0]


@pytest.mark.parametrize(
    ("spec", "images", "message"),
    [
        (
            "torchvision:lraspp_mobilenet_v3_large",
            ImageOptions(resize="center_crop"),
            "a mask covers the whole image",
        ),
        ("timm:resnet10t", ImageOptions(scale=1.0), "--scale is the unit of --mean and --std"),
        ("timm:resnet10t", ImageOptions(std=(0.0,)), "--scale and --std must not be 0"),
        ("timm:resnet10t", ImageOptions(channels="grey"), "takes 3 channels, not .*in_chans=1"),
    ],
)
def test_image_options_that_do_not_fit_a_library_are_one_sentence(
    tmp_path: Path, spec: str, images: ImageOptions, message: str
) -> None:
    options = SourceOptions(random=True, size=(64, 64), images=images)
    with pytest.raises(InputError, match=message):
        export_bundle(load_source(spec, options), tmp_path / "b")


def test_of_smp_the_mean_alone_leaves_the_std_of_imagenet() -> None:
    pytest.importorskip("segmentation_models_pytorch")
    options = SourceOptions(
        random=True,
        size=(64, 64),
        images=ImageOptions(mean=(0.5,)),
        settings={"encoder_name": "resnet18"},
    )
    source = load_source("smp:FPN", options)
    assert (source.mean, source.std) == ((0.5, 0.5, 0.5), (0.229, 0.224, 0.225))
