"""Images are prepared as transformers' own image processors do it, and a real network gives the same answers.

The references are the library's processors, on Pillow images. With its Pillow backend (`...ImageProcessorPil`) ours are equal
where an image is stretched; where it is cropped, under 1 % of the values are rounded to the other side, by 1 of 255. Its
torchvision backend, which `AutoImageProcessor` takes by default, resizes with other arithmetic: a value differs by 0.3 of 255
on average at most, of photos in portrait format by up to 10 at single places.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from dlcv.export.sources import ExportSource, SourceOptions, load_source
from dlcv.export.sources.hf_processor import image_facts, read_processor
from dlcv.runtime.bundle.schema import Preprocessing
from dlcv.runtime.images import load_pixels
from dlcv.runtime.images.samples import sample_paths

transformers = pytest.importorskip("transformers")
MOST = 2e-2  # of a probability
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("ViT", {}),
    "ViT, not square": ("ViT", {"size": {"height": 96, "width": 160}, "resample": 1}),
    "BEiT": ("Beit", {}),
    "SigLIP": ("Siglip", {}),
    "Segformer": ("Segformer", {}),
    "DPT": ("DPT", {}),
    "ConvNeXT": ("ConvNext", {"size": {"shortest_edge": 224}}),
    "ConvNeXT, large": ("ConvNext", {"size": {"shortest_edge": 384}}),
    "CLIP": ("CLIP", {}),
    "DINOv2": ("Bit", {"size": {"shortest_edge": 256}}),
    "MobileNetV2": ("MobileNetV2", {}),
    "MobileViT": ("MobileViT", {"size": {"shortest_edge": 288}}),
    "EfficientNet": ("EfficientNet", {"rescale_offset": True, "rescale_factor": 1 / 127.5}),
    "EfficientNet, std twice": ("EfficientNet", {"image_std": [0.5, 0.4, 0.3]}),
    "PoolFormer": ("PoolFormer", {}),
    "LeViT": ("Levit", {}),
    "neither scaled nor normalised": ("ViT", {"do_rescale": False, "do_normalize": False}),
    "normalised in 0..255": ("ViT", {"do_rescale": False, "image_mean": 120.0, "image_std": 60.0}),
}


def prepared(image: Any, facts: dict[str, Any], preprocessing: Preprocessing) -> Any:
    """Return what a network takes, as its graph computes it: float64 (C, H, W)."""
    pixels = load_pixels(image, preprocessing).pixels.astype(np.float64)
    if facts.get("channels") == "bgr":
        pixels = pixels[..., ::-1]
    scaled = pixels * facts["scale"] - np.array(facts["mean"])
    return (scaled / np.array(facts["std"])).transpose(2, 0, 1)


def preprocessing_of(facts: dict[str, Any]) -> Preprocessing:
    names = ("resize", "size", "resample", "crop_fraction")
    known = {name: facts[name] for name in names if name in facts}
    if facts["resize"] == "center_crop":
        known["crop_rounding"] = "down"
    return Preprocessing(**known)


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


@pytest.fixture
def _rows_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Pillow filter rows first, as until version 13; since then it filters columns first where they shrink much more."""
    plain = Image.Image.resize

    def resize(
        image: Image.Image, size: tuple[int, int], *args: Any, **options: Any
    ) -> Image.Image:
        if not options.get("box") and len(args) < 2:
            image = plain(image, (size[0], image.height), *args, **options)
        return plain(image, size, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", resize)


@pytest.mark.usefixtures("_rows_first")
@pytest.mark.parametrize("name", PROCESSORS)
def test_decoded_pixels_are_prepared_as_the_librarys_processor_does_it(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    kind, settings = PROCESSORS[name]
    processors = {
        "Pillow": getattr(transformers, f"{kind}ImageProcessorPil")(**settings),
        "torchvision": getattr(transformers, f"{kind}ImageProcessor")(**settings),
    }
    processors["Pillow"].save_pretrained(tmp_path)
    read = read_processor(tmp_path)
    assert read is not None
    facts = image_facts(read, SourceOptions(), task="classify", channels=3)
    preprocessing = preprocessing_of(facts)
    unit = (facts["scale"] / np.array(facts["std"])).reshape(-1, 1, 1)  # of 1 of 255
    largest = dict.fromkeys(processors, 0.0)
    for path in sample_paths():
        photo = opened(path)
        for image in (photo, photo.rotate(90, expand=True)):
            ours = prepared(np.asarray(image), facts, preprocessing)
            for backend, processor in processors.items():
                (library,) = processor(images=image, return_tensors="np")["pixel_values"]
                steps = np.abs(ours - np.asarray(library)) / unit
                largest[backend] = max(largest[backend], float(steps.max()))
                assert steps.mean() < (0.01 if backend == "Pillow" else 0.3)
    for backend, steps in largest.items():
        record_property(f"largest difference to {backend}, of 255", steps)
    print(f"{name}: largest difference, of 255: {largest}")
    assert largest["Pillow"] < (0.01 if facts["resize"] == "stretch" else 2.01)
    assert largest["torchvision"] < 12


@pytest.mark.parametrize(
    ("settings", "size", "fraction"),
    [
        ({"feature_extractor_type": "ViTFeatureExtractor", "size": 224}, (224, 224), 1.0),
        ({"image_processor_type": "ViTImageProcessorFast", "size": 224}, (224, 224), 1.0),
        (
            {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 224, "crop_pct": None},
            (224, 224),
            0.875,
        ),
        (
            {"feature_extractor_type": "CLIPFeatureExtractor", "size": 256, "crop_size": 224},
            (224, 224),
            0.875,
        ),
    ],
)
def test_old_files_with_sizes_as_numbers_are_read(
    settings: dict[str, Any], size: tuple[int, int], fraction: float, tmp_path: Path
) -> None:
    import json

    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    read = read_processor(tmp_path)
    assert read is not None
    facts = image_facts(read, SourceOptions(), task="classify", channels=3)
    assert (facts["size"], facts.get("crop_fraction", 1.0)) == (size, fraction)


def test_a_segmenters_crop_becomes_a_stretch_with_a_note(tmp_path: Path) -> None:
    transformers.MobileViTImageProcessor(size={"shortest_edge": 544}).save_pretrained(tmp_path)
    notes: list[str] = []
    read = read_processor(tmp_path)
    assert read is not None
    options = SourceOptions(on_note=notes.append)
    facts = image_facts(read, options, task="segment", channels=3)
    assert (facts["resize"], facts["size"], facts["channels"]) == ("stretch", (256, 256), "bgr")
    assert "crop_fraction" not in facts
    assert notes[0].startswith("a mask covers the whole image: images are stretched to 256x256")


def real_network(data_root: Path) -> Any:
    """Return transformers' MobileNetV2 with the weights of torchvision's, whose tensors are the same in the same order."""
    weights = torch.load(data_root / "weights/mobilenet_v2_imagenet_deq.pth", weights_only=True)
    config = transformers.MobileNetV2Config(tf_padding=False, layer_norm_eps=1e-5, num_labels=1000)
    network = transformers.MobileNetV2ForImageClassification(config)
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
    return network.eval()


def normalised(source: ExportSource, image: Any) -> torch.Tensor:
    pixels = load_pixels(image, source.preprocessing).pixels / 255.0
    normalised = (pixels - np.array(source.mean)) / np.array(source.std)
    return torch.from_numpy(normalised.transpose(2, 0, 1).astype(np.float32))


def test_a_real_network_gives_the_same_answers_on_real_photos(
    data_root: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with zipfile.ZipFile(data_root / "photos/imagenet_sample.zip") as archive:
        names = [name for name in archive.namelist() if name.lower().endswith(".jpg")][::6]
        archive.extractall(tmp_path / "photos", names)
    paths = [tmp_path / "photos" / name for name in names]
    paths += sorted((data_root / "photos/originals").iterdir())
    network = real_network(data_root)
    network.save_pretrained(tmp_path / "in")
    processor = transformers.MobileNetV2ImageProcessor(
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    )
    processor.save_pretrained(tmp_path / "in")
    source = load_source(f"hf:{tmp_path / 'in'}")
    automatic = transformers.AutoImageProcessor.from_pretrained(tmp_path / "in")
    with torch.inference_mode():
        photos = [opened(path) for path in paths]
        theirs = network(**automatic(images=photos, return_tensors="pt")).logits.softmax(1)
        ours = source.model(torch.stack([normalised(source, path) for path in paths])).softmax(1)
    difference = (ours - theirs).abs().max(dim=1).values
    record_property("largest difference", float(difference.max()))
    print(
        f"{len(paths)} photos: largest difference of a probability {difference.max():.1e}, "
        f"median {difference.median():.1e}"
    )
    assert torch.equal(ours.argmax(1), theirs.argmax(1))
    assert difference.max() < MOST
