"""Folders of Hugging Face transformers' `save_pretrained` become bundles that give the library's answers."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dlcv
from dlcv.export.bundle import export_bundle
from dlcv.export.sources import ExportSource, SourceOptions, load_source
from dlcv.export.sources.base import ImageOptions
from dlcv.runtime import Classification, Segmentation
from dlcv.runtime.errors import InputError, RecipeError
from dlcv.runtime.images.samples import sample_paths

transformers = pytest.importorskip("transformers")
CLASSES = ["cat", "dog", "horse", "car", "bird"]
NAMES: dict[str, Any] = {
    "id2label": dict(enumerate(CLASSES)),
    "label2id": {name: number for number, name in enumerate(CLASSES)},
}
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "initializer_range": 0.3,
}
STAGES: dict[str, Any] = {"hidden_sizes": [8, 16], "depths": [1, 1]}
SQUARE = {"height": 32, "width": 32}


def built(kind: str, **settings: Any) -> Any:
    """Return a small network of the library with random weights, always the same."""
    family = kind.partition("For")[0].removesuffix("Model").removesuffix("WithProjection")
    torch.manual_seed(0)
    config = getattr(transformers, f"{family.removesuffix('Model')}Config")(**settings)
    return getattr(transformers, kind)(config).eval()


def saved(folder: Path, network: Any, processor: Any = None, **save: Any) -> str:
    """Write a folder as users have them, and return its spec."""
    transformers.utils.logging.disable_progress_bar()
    network.save_pretrained(folder, **save)
    transformers.utils.logging.enable_progress_bar()
    if processor is not None:
        processor.save_pretrained(folder)
    return f"hf:{folder}"


def vit_folder(folder: Path, **config: Any) -> str:
    network = built("ViTForImageClassification", **SMALL | NAMES | config)
    return saved(folder, network, transformers.ViTImageProcessor(size=SQUARE))


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def answers(model: Any, processor: Any, photo: Image.Image) -> Any:
    with torch.inference_mode():
        return model(**processor(images=photo, return_tensors="pt"), output_attentions=True)


def test_a_vit_gives_in_its_bundle_what_the_library_gives(tmp_path: Path) -> None:
    spec = vit_folder(tmp_path / "pets")
    source = load_source(spec)
    assert (source.name, [c.name for c in source.classes]) == ("hf-pets", CLASSES)
    bundle = export_bundle(source, tmp_path / "bundle")
    model = transformers.ViTForImageClassification.from_pretrained(
        tmp_path / "pets", attn_implementation="eager"
    )
    processor = transformers.ViTImageProcessorPil.from_pretrained(tmp_path / "pets")
    photos = [opened(path) for path in sample_paths()]
    with dlcv.load(bundle) as running:
        results = running([np.asarray(photo) for photo in photos])
    for result, photo in zip(results, photos, strict=True):
        library = answers(model, processor, photo)
        assert isinstance(result, Classification)
        assert (
            result.classes[int(result.probabilities.argmax())].name
            == (CLASSES[int(library.logits.argmax())])
        )
        expected = library.logits.softmax(1)[0].numpy()
        np.testing.assert_allclose(result.probabilities, expected, atol=1e-5)
        attention = library.attentions[-1][0, :, 0, 1:].reshape(4, 4, 4)
        assert result.attention is not None
        np.testing.assert_allclose(result.attention, attention.numpy(), atol=1e-5)
        assert result.explanation is not None
        assert result.explanation.shape == (4, 4)


def test_a_network_of_convolutions_gives_the_input_of_its_last_layer(tmp_path: Path) -> None:
    network = built("ConvNextForImageClassification", **STAGES, **NAMES, num_stages=2)
    processor = transformers.ConvNextImageProcessorPil(size={"shortest_edge": 32})
    bundle = export_bundle(
        load_source(saved(tmp_path / "in", network, processor)), tmp_path / "bundle"
    )
    photo = opened(sample_paths()[0])
    with dlcv.load(bundle) as running:
        (result,) = running(np.asarray(photo))
    with torch.inference_mode():
        pooled = network.convnext(**processor(images=photo, return_tensors="pt")).pooler_output[0]
    assert isinstance(result, Classification)
    assert result.embedding is not None
    np.testing.assert_allclose(result.embedding, pooled.numpy(), atol=1e-3)


def test_several_labels_an_image_become_independent_probabilities(tmp_path: Path) -> None:
    spec = vit_folder(tmp_path / "in", problem_type="multi_label_classification")
    source = load_source(spec, SourceOptions(threshold=0.3))
    bundle = export_bundle(source, tmp_path / "bundle")
    assert (bundle.manifest.activation, bundle.manifest.threshold) == ("sigmoid", 0.3)
    photo = np.asarray(opened(sample_paths()[0]).resize((32, 32)))
    with dlcv.load(bundle) as running:
        (result,) = running(photo)
    pixels = torch.from_numpy((photo / 127.5 - 1).astype(np.float32)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        expected = source.model(pixels)[0].sigmoid().numpy()
    assert isinstance(result, Classification)
    np.testing.assert_allclose(result.probabilities, expected, atol=1e-5)
    assert abs(float(expected.sum()) - 1) > 0.1


def test_segformer_is_exported_with_its_small_logits_up_sampled(tmp_path: Path) -> None:
    network = built(
        "SegformerForSemanticSegmentation",
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        initializer_range=0.3,
        **NAMES,
    )
    processor = transformers.SegformerImageProcessorPil(size={"height": 64, "width": 64})
    source = load_source(saved(tmp_path / "in", network, processor))
    bundle = export_bundle(source, tmp_path / "bundle")
    photo = opened(sample_paths()[0])
    with dlcv.load(bundle) as running:
        (result,) = running(np.asarray(photo))
    with torch.inference_mode():
        outputs = network(**processor(images=photo, return_tensors="pt"))
    (mask,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[(64, 64)])
    assert isinstance(result, Segmentation)
    assert (result.graph_mask == mask.numpy()).mean() > 0.999
    assert len(np.unique(result.graph_mask)) > 1


def test_a_segmenter_whose_graph_has_one_size_inside_takes_images_of_any(tmp_path: Path) -> None:
    backbone = transformers.ConvNextConfig(
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    network = built(
        "UperNetForSemanticSegmentation",
        backbone_config=backbone,
        hidden_size=16,
        use_auxiliary_head=False,
        initializer_range=0.3,
        **NAMES,
    )
    processor = transformers.SegformerImageProcessorPil(size={"height": 64, "width": 64})
    spec = saved(tmp_path / "in", network, processor)
    source = load_source(spec)
    pixels = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(source.model(pixels), network(pixels).logits)
        assert source.model(torch.rand(1, 3, 96, 32)).shape == (1, 5, 96, 32)
    export_bundle(source, tmp_path / "bundle")  # the gate runs it at other sizes
    with pytest.raises(InputError, match=r"images of one size.*give --resize letterbox or stretch"):
        load_source(spec, SourceOptions(images=ImageOptions(resize="longest_side")))


def embedders() -> dict[str, tuple[Callable[[], Any], str, Callable[[Any], Any]]]:
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    clip = {"vision_config": SMALL | {"projection_dim": 16}, "text_config": text}
    return {
        "pooler": (
            lambda: built("ViTModel", **SMALL),
            "pooler_output of ViTModel",
            lambda outputs: outputs.pooler_output,
        ),
        "dinov2": (
            lambda: built("Dinov2Model", **SMALL),
            "pooler_output of Dinov2Model",
            lambda outputs: outputs.last_hidden_state[:, 0],
        ),
        "siglip": (
            lambda: built("SiglipVisionModel", **SMALL),
            "pooler_output of SiglipVisionModel",
            lambda outputs: outputs.pooler_output,
        ),
        "resnet": (
            lambda: built("ResNetModel", embedding_size=8, **STAGES),
            "pooler_output of ResNetModel",
            lambda outputs: outputs.pooler_output.flatten(1),
        ),
        "clip": (
            lambda: built("CLIPModel", projection_dim=16, **clip),
            "image_embeds of CLIPVisionModelWithProjection",
            lambda outputs: outputs,
        ),
    }


@pytest.mark.parametrize("name", embedders())
def test_a_base_network_embeds_as_the_library_uses_it(name: str, tmp_path: Path) -> None:
    make, said, expected = embedders()[name]
    network, notes = make(), list[str]()
    spec = saved(tmp_path / "in", network, transformers.ViTImageProcessor(size=SQUARE))
    source = load_source(spec, SourceOptions(on_note=notes.append))
    assert notes[-1] == f"the embedding is {said}"
    pixels = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        if name == "clip":
            parts = network.vision_model(pixels).pooler_output
            library = network.visual_projection(parts)
        else:
            library = expected(network(pixels))
        torch.testing.assert_close(source.model(pixels), library)
    if name == "clip":  # its position embeddings are an nn.Embedding, which torch names "embedding"
        bundle = export_bundle(source, tmp_path / "bundle")
        assert [o.name for o in bundle.manifest.graphs["model"].outputs] == ["embedding"]


def test_a_vit_without_a_trained_pooler_embeds_by_its_class_token(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = transformers.ViTModel(transformers.ViTConfig(**SMALL), add_pooling_layer=False).eval()
    notes: list[str] = []
    spec = saved(tmp_path / "in", network, transformers.ViTImageProcessor(size=SQUARE))
    source = load_source(spec, SourceOptions(on_note=notes.append))
    assert notes == ["the embedding is last_hidden_state[:, 0] of ViTModel"]
    pixels = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        library = network(pixels).last_hidden_state[:, 0]
        torch.testing.assert_close(source.model(pixels), library)


def test_the_middle_of_a_stretched_image_is_taken_in_the_graph(tmp_path: Path) -> None:
    network = built("DeiTForImageClassification", **SMALL, **NAMES)
    processor = transformers.DeiTImageProcessorPil(
        size={"height": 41, "width": 36}, crop_size=SQUARE
    )
    spec, notes = saved(tmp_path / "in", network, processor), list[str]()
    bundle = export_bundle(
        load_source(spec, SourceOptions(on_note=notes.append)), tmp_path / "bundle"
    )
    assert notes[0].startswith(
        "images are stretched to 41x36, and the graph takes the middle 32x32"
    )
    assert [o.name for o in bundle.manifest.graphs["model"].outputs] == [
        "probabilities",
        "embedding",
    ]
    photos = [opened(path) for path in sample_paths()]
    with dlcv.load(bundle) as running, torch.inference_mode():
        for result, photo in zip(running([np.asarray(p) for p in photos]), photos, strict=True):
            library = network(**processor(images=photo, return_tensors="pt")).logits.softmax(1)
            assert isinstance(result, Classification)
            np.testing.assert_allclose(result.probabilities, library[0].numpy(), atol=1e-5)
    images = ImageOptions(resize="center_crop", crop_fraction=0.875)
    cropped = load_source(spec, SourceOptions(images=images))
    assert cropped.preprocessing.size == (32, 32)


def weights_of(source: ExportSource) -> dict[str, torch.Tensor]:
    network: Any = source.model
    state: dict[str, torch.Tensor] = network.network.state_dict()
    return state


def test_weights_in_shards_and_in_halves_are_read(tmp_path: Path) -> None:
    network = built("ViTForImageClassification", **SMALL, **NAMES)
    processor = transformers.ViTImageProcessor(size=SQUARE)
    whole = load_source(saved(tmp_path / "whole", network, processor))
    spec = saved(tmp_path / "shards", network, processor, max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    for name, tensor in weights_of(load_source(spec)).items():
        assert torch.equal(tensor, weights_of(whole)[name])
    halves = load_source(saved(tmp_path / "halves", network.half(), processor))
    assert {tensor.dtype for tensor in weights_of(halves).values()} == {torch.float32}


class Payload:
    """Would make a file, if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_an_old_file_of_weights_is_read_but_code_in_it_does_not_run(tmp_path: Path) -> None:
    folder, proof = tmp_path / "in", tmp_path / "ran"
    spec = vit_folder(folder)
    weights = weights_of(load_source(spec))
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert torch.equal(
        weights_of(load_source(spec))["classifier.weight"], weights["classifier.weight"]
    )
    torch.save(weights | {"payload": Payload(proof)}, folder / "pytorch_model.bin")
    with pytest.raises(RecipeError, match="cannot be loaded as ViTForImageClassification"):
        load_source(spec)
    assert not proof.exists()


def test_loading_says_nothing_on_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    spec = vit_folder(tmp_path / "in")
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_source(spec)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert transformers.utils.logging.is_progress_bar_enabled()


def test_unnamed_classes_are_kept_with_a_note_and_named_by_a_file(tmp_path: Path) -> None:
    spec = saved(
        tmp_path / "in",
        built("ViTForImageClassification", **SMALL, num_labels=3),
        transformers.ViTImageProcessor(size=SQUARE),
    )
    notes: list[str] = []
    source = load_source(spec, SourceOptions(on_note=notes.append))
    assert [c.name for c in source.classes] == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert notes == [
        "the classes are named LABEL_0 to LABEL_2; give --classes FILE with their names"
    ]
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    named = load_source(spec, SourceOptions(classes=tmp_path / "names.txt", on_note=notes.append))
    assert [c.name for c in named.classes] == ["a", "b", "c"]
    assert len(notes) == 1


def test_what_the_user_says_of_images_goes_before_the_file(tmp_path: Path) -> None:
    spec = vit_folder(tmp_path / "in")
    images = ImageOptions(mean=(0.1, 0.2, 0.3), resize="center_crop", crop_fraction=0.5)
    source = load_source(spec, SourceOptions(images=images))
    assert source.mean == pytest.approx((0.1, 0.2, 0.3))
    assert source.std == pytest.approx((0.5, 0.5, 0.5))
    assert (source.preprocessing.resize, source.preprocessing.crop_fraction) == ("center_crop", 0.5)
    scaled = ImageOptions(scale=1.0, mean=(128.0,))
    source = load_source(spec, SourceOptions(images=scaled))
    assert source.mean == pytest.approx((128 / 255,) * 3)
    assert source.std == pytest.approx((0.5, 0.5, 0.5))


def test_without_a_file_on_images_the_users_words_are_enough(tmp_path: Path) -> None:
    spec = vit_folder(tmp_path / "in")
    (tmp_path / "in/preprocessor_config.json").unlink()
    notes: list[str] = []
    images = ImageOptions(mean=(0.4,), std=(0.2,))
    source = load_source(spec, SourceOptions(images=images, size=(32, 32), on_note=notes.append))
    assert (source.mean, source.std) == ((0.4,) * 3, (0.2,) * 3)
    assert notes == ["no preprocessor_config.json: images are resized to 32x32 (stretch, bilinear)"]


def test_a_network_for_greyscale_takes_one_channel(tmp_path: Path) -> None:
    network = built("ViTForImageClassification", **SMALL, **NAMES, num_channels=1)
    processor = transformers.ViTImageProcessor(size=SQUARE, image_mean=[0.3], image_std=[0.2])
    source = load_source(saved(tmp_path / "in", network, processor))
    assert source.preprocessing.channels == 1
    assert source.mean == pytest.approx((0.3,))
    assert source.std == pytest.approx((0.2,))


def test_a_network_with_one_output_is_a_regression_or_one_label(tmp_path: Path) -> None:
    spec = vit_folder(tmp_path / "in", id2label={0: "cat"}, label2id={"cat": 0})
    with pytest.raises(
        InputError, match=r"has one output, which is a regression.*--activation sig"
    ):
        load_source(spec)
    source = load_source(spec, SourceOptions(activation="sigmoid"))
    assert (source.activation, [c.name for c in source.classes]) == ("sigmoid", ["cat"])
