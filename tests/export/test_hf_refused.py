"""What is wrong with a folder of Hugging Face transformers, or does not fit it, is one sentence with the fix."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlcv.export.sources import SourceOptions, load_source
from dlcv.runtime.errors import InputError, UserError

transformers = pytest.importorskip("transformers")
SQUARE = {"height": 32, "width": 32}


def vit_folder(folder: Path) -> str:
    """Write a good folder of a small classifier, and return its spec."""
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        num_labels=5,
    )
    transformers.utils.logging.disable_progress_bar()
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.utils.logging.enable_progress_bar()
    transformers.ViTImageProcessor(size=SQUARE).save_pretrained(folder)
    return f"hf:{folder}"


def edited(folder: Path, file: str, **changes: Any) -> None:
    """Change keys of a JSON file; None takes one away."""
    written = json.loads((folder / file).read_text()) | changes
    kept = {name: value for name, value in written.items() if value is not None}
    (folder / file).write_text(json.dumps(kept))


# Every way in which a folder or the options can be wrong: what is done to a good folder, options, the sentence.

Breakage = tuple[Callable[[Path], object], dict[str, Any], str]
PROCESSOR = "preprocessor_config.json"


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def _without_head(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    kept = {name: w for name, w in weights.items() if not name.startswith("classifier")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


BROKEN: dict[str, Breakage] = {
    "no config": (lambda f: (f / "config.json").unlink(), {}, "has no config.json; give a folder"),
    "no json": (lambda f: (f / "config.json").write_text("{"), {}, "config.json cannot be read"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), {}, "must hold a JSON object, not"),
    "cut off": (_cut, {}, r"cannot be loaded as ViTForImageClassification \(.*\); copy the whole folder again"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), {}, "cannot be loaded as ViTFor"),
    "no head": (
        _without_head,
        {},
        r"lack, or .*, 2 tensors of ViTForImageClassification \(classifier.bias, classifier.weight\), which would be random",
    ),
    "other head": (
        lambda f: edited(f, "config.json", id2label={"0": "a"}, label2id={"a": 0}),
        {},
        r"have in other shapes, 2 tensors of ViTForImageClassification \(classifier.bias, classifier",
    ),
    "a detector": (
        lambda f: edited(f, "config.json", architectures=["DetrForObjectDetection"]),
        {},
        r"config.json names DetrForObjectDetection as its architecture; of transformers, dlcv exports classifiers",
    ),
    "no architecture": (
        lambda f: edited(f, "config.json", architectures=None),
        {},
        "config.json names nothing as its architecture",
    ),
    "code": (
        lambda f: edited(f, "config.json", architectures=["Mine"], auto_map={"AutoModel": "m.M"}),
        {},
        "Mine is code in the folder, which dlcv does not run; export it as py:",
    ),
    "regression": (
        lambda f: edited(f, "config.json", problem_type="regression"),
        {},
        "was trained for regression",
    ),
    "quantised": (
        lambda f: edited(f, "config.json", quantization_config={"bits": 8}),
        {},
        "holds quantised weights; export the original",
    ),
    "adapter": (
        lambda f: (f / "adapter_config.json").write_text("{}"),
        {},
        r"holds an adapter of PEFT; save the whole network after merge_and_unload\(\)",
    ),
    "gaps": (
        lambda f: edited(f, "config.json", id2label={str(n): "a" for n in (0, 1, 2, 3, 9)}),
        {},
        "does not number its 5 classes from 0 on; give --classes FILE",
    ),
    "weights": (lambda _: None, {"weights": Path("w.pth")}, "leave out --set, --weights and"),
    "random": (lambda _: None, {"random": True}, "holds its settings and weights; leave out"),
    "set": (lambda _: None, {"settings": {"a": "1"}}, "holds its settings and weights; leave out"),
    "task": (
        lambda _: None,
        {"task": "segment"},
        "ViTForImageClassification is for task classify; leave out --task segment",
    ),
    "size": (lambda _: None, {"size": (48, 48)}, "fails on float32 .*give another --size"),
    "no processor": (
        lambda f: (f / PROCESSOR).unlink(),
        {},
        "has no preprocessor_config.json, which says .* or give --mean, --std and --size",
    ),
    "other processor": (
        lambda f: edited(f, PROCESSOR, image_processor_type="PerceiverImageProcessor"),
        {},
        "is for PerceiverImageProcessor; dlcv prepares images as those of Beit, Bit",
    ),
    "nearest": (
        lambda f: edited(f, PROCESSOR, resample=0),
        {},
        "resizes by nearest; dlcv resizes by lanczos, bilinear, bicubic; give --resample",
    ),
    "no resize": (
        lambda f: edited(f, PROCESSOR, do_resize=False),
        {},
        "leaves images as large as they are, which a bundle cannot; give --resize and --size",
    ),
    "no crop": (
        lambda f: edited(f, PROCESSOR, size={"shortest_edge": 32}),
        {},
        "keeps the aspect ratio and does not crop, which a bundle cannot",
    ),
    "longest": (
        lambda f: edited(f, PROCESSOR, size={"shortest_edge": 32, "longest_edge": 64}),
        {},
        "resizes to .*longest_edge",
    ),
    "black border": (
        lambda f: edited(
            f, PROCESSOR, size={"shortest_edge": 32}, crop_size=SQUARE | {"height": 64, "width": 64},
            do_center_crop=True,
        ),
        {},
        "cuts 64x64 out of images whose shorter side is 32",
    ),
    "stretch and crop": (
        lambda f: edited(
            f,
            PROCESSOR,
            image_processor_type="DeiTImageProcessor",
            size={"height": 36, "width": 36},
            crop_size=SQUARE,
            do_center_crop=True,
        ),
        {"size": (32, 32)},
        "stretches images to 36x36 and cuts 32x32 out of them, which a bundle cannot; give --resize and --size",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_with_a_folder_is_one_sentence(name: str, tmp_path: Path) -> None:
    damage, options, sentence = BROKEN[name]
    spec = vit_folder(tmp_path / "in")
    damage(tmp_path / "in")
    with pytest.raises(UserError, match=sentence) as raised:
        load_source(spec, SourceOptions(**options))
    assert "\n" not in str(raised.value)


def test_a_name_of_the_hub_and_a_missing_library_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        InputError, match=r"hf: takes a folder of save_pretrained.*hf download NAME"
    ):
        load_source("hf:google/vit-base-patch16-224")
    spec = vit_folder(tmp_path / "in")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"hf: needs transformers: pip install 'dlcv\[hf\]'"):
        load_source(spec)
