"""Networks of Hugging Face transformers, from a folder of their `save_pretrained`: `hf:FOLDER`."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from dlcv.export.sources.base import ExportSource, SourceOptions
from dlcv.export.sources.hf_network import (
    TransformersNetwork,
    answer_of_embedder,
    network_from_folder,
)
from dlcv.export.sources.hf_processor import FILE, image_facts, json_object, read_processor
from dlcv.export.sources.imagenet import readable_names
from dlcv.export.sources.module import (
    ModuleFacts,
    facts_from_options,
    source_from_module,
)
from dlcv.export.sources.module_tasks import ModuleTask
from dlcv.runtime.errors import InputError

_KINDS: dict[ModuleTask, str] = {
    "classify": "Classifier",
    "segment": "Segmenter",
    "embed": "Embedder",
}
_EMBEDDERS = ("CLIPVisionModel", "CLIPVisionModelWithProjection", "SiglipVisionModel")
# Of networks for images and text, the part that sees.
_SEEING = {"CLIPModel": "CLIPVisionModelWithProjection", "SiglipModel": "SiglipVisionModel"}
# Segmenters whose graph runs at any size. That of others has the sizes inside as constants.
_OF_ANY_SIZE = ("MobileNetV2ForSemanticSegmentation", "SegformerForSemanticSegmentation")
_EXPORTED = (
    "classifiers (...ForImageClassification), semantic segmenters (...ForSemanticSegmentation) and base networks of images "
    "(ViTModel, Dinov2Model, CLIPVisionModel, ...)"
)


def source_from_hf(spec: str, options: SourceOptions) -> ExportSource:
    """Build a network of transformers from a folder: its configuration, its weights and how it prepares images.

    Classifiers give probabilities, segmenters masks, base networks embeddings. No code of the folder is run, and nothing
    is downloaded.

    Raises:
        InputError: the library is not installed; the folder is none of it, or of a network that is not exported; options
            that do not fit.
        RecipeError: the weights are damaged, or lack a tensor.
    """
    folder = Path(spec)
    config = _config(folder, options)
    name = folder.resolve().name
    kind, task = _kind_and_task(config, options)
    network: Any = network_from_folder(kind, folder)
    facts = {
        **_images(folder, network, options, task=task),
        **_classes(network, task, options),
        "name": f"hf-{name}",
        "description": f"{_KINDS[task]} {kind.__name__} of Hugging Face transformers.",
        "origin": f"hf:{name}, save_pretrained",
        "remake": (f"dlcv-export bundle hf:{name}{options.command_line}",),
        **facts_from_options(options),
        "task": task,
    }
    crop = facts.pop("crop", None)
    known = ModuleFacts(**facts)
    source = source_from_module(_module(network, known, options, crop=crop), known)
    if known.resize != "center_crop":
        return source
    rounded = msgspec.structs.replace(source.preprocessing, crop_rounding="down")  # as the library
    return dataclasses.replace(source, preprocessing=rounded)


def _config(folder: Path, options: SourceOptions) -> dict[str, Any]:
    """Return config.json, after a look at what lies in the folder and at the options."""
    if not folder.is_dir():
        raise InputError(
            f"hf: takes a folder of save_pretrained, and {str(folder)!r} is none; download one with hf download NAME "
            "--local-dir FOLDER"
        )
    if options.settings or options.weights or options.random:
        raise InputError(
            f"{folder} holds its settings and weights; leave out --set, --weights and --random"
        )
    if (folder / "adapter_config.json").exists():
        raise InputError(
            f"{folder} holds an adapter of PEFT; save the whole network after merge_and_unload()"
        )
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} has no config.json; give a folder of save_pretrained")
    config = json_object(folder / "config.json")
    if "quantization_config" in config:
        raise InputError(
            f"{folder} holds quantised weights; export the original, and dlcv-export precision makes int8 of it"
        )
    return config


def _kind_and_task(config: dict[str, Any], options: SourceOptions) -> tuple[Any, ModuleTask]:
    """Return the network's class in transformers, and what it is for."""
    transformers = _library()
    named = config.get("architectures") or ["nothing"]
    name = str(named[0])
    task = _task_of(_SEEING.get(name, name))
    if task is None and "auto_map" in config:
        raise InputError(
            f"{name} is code in the folder, which dlcv does not run; export it as py:FILE.py:FUNCTION"
        )
    if task is None:
        raise InputError(
            f"config.json names {name} as its architecture; of transformers, dlcv exports {_EXPORTED}"
        )
    if options.task not in (None, task):
        raise InputError(f"{name} is for task {task}; leave out --task {options.task}")
    if config.get("problem_type") == "regression":
        raise InputError(f"{name} was trained for regression; dlcv exports {_EXPORTED}")
    if name in _SEEING:
        options.on_note(f"{name} sees and reads: its part for images is taken, as {_SEEING[name]}")
    return getattr(transformers, _SEEING.get(name, name)), task


def _library() -> Any:
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as e:
        raise InputError("hf: needs transformers: pip install 'dlcv[hf]'") from e


def _task_of(name: str) -> ModuleTask | None:
    from transformers.models.auto import modeling_auto as auto

    tables: dict[ModuleTask, Any] = {
        "classify": auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        "segment": auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
        "embed": auto.MODEL_FOR_IMAGE_MAPPING_NAMES,
    }
    for task, table in tables.items():
        if name in _flat(table.values()):
            return task
    return "embed" if name in _EMBEDDERS else None


def _flat(names: Iterable[str | tuple[str, ...]]) -> set[str]:
    return {n for entry in names for n in ((entry,) if isinstance(entry, str) else entry)}


def _module(
    network: nn.Module, facts: ModuleFacts, options: SourceOptions, *, crop: tuple[int, int] | None
) -> TransformersNetwork:
    """Return the network as a module that gives one tensor."""
    kind = type(network).__name__
    if facts.task == "segment" and kind not in _OF_ANY_SIZE:
        if facts.resize == "longest_side":
            raise InputError(
                f"{kind} is exported for images of one size, which --resize longest_side does not give; give --resize "
                "letterbox or stretch"
            )
        return TransformersNetwork(network, answer="logits", only_size=facts.size)
    if crop is not None:
        options.on_note(
            f"images are stretched to {_by(facts.size)}, and the graph takes the middle {_by(crop)}, as {FILE} says; so it has "
            f"no maps of attention: with --resize center_crop --crop-fraction {crop[0] / facts.size[0]:g} it has"
        )
    if facts.task != "embed":
        return TransformersNetwork(network, answer="logits", crop=crop)
    answer = answer_of_embedder(network, size=crop or facts.size, channels=facts.channel_count)
    where = "last_hidden_state[:, 0]" if answer == "class token" else answer
    options.on_note(f"the embedding is {where} of {kind}")
    return TransformersNetwork(network, answer=answer, crop=crop)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _channels(network: Any) -> int:
    config = getattr(network.config, "vision_config", None) or network.config
    return int(getattr(config, "num_channels", 3))


def _images(
    folder: Path, network: Any, options: SourceOptions, *, task: ModuleTask
) -> dict[str, Any]:
    """Return how images are prepared, by the folder's file or else by the user alone."""
    channels = _channels(network)
    processor = read_processor(folder)
    if processor is not None:
        facts = image_facts(processor, options, task=task, channels=channels)
        return {"size": options.size} | facts
    given = options.images
    if given.mean is None or given.std is None or options.size is None:
        raise InputError(
            f"{folder} has no {FILE}, which says how images are prepared; copy it from where the network is from, or give "
            "--mean, --std and --size"
        )
    height, width = options.size
    how = f"{given.resize or 'stretch'}, {given.resample or 'bilinear'}"
    options.on_note(f"no {FILE}: images are resized to {height}x{width} ({how})")
    return {"size": options.size} | ({"channels": "grey"} if channels == 1 else {})


def _classes(network: Any, task: ModuleTask, options: SourceOptions) -> dict[str, Any]:
    """Return the names of the classes, and whether an image can have several."""
    if task == "embed":
        return {}
    config = network.config
    names = readable_names([str(name) for _, name in sorted(config.id2label.items())])
    if not options.classes:
        _check_names(config.id2label, options)
    several = task == "classify" and config.problem_type == "multi_label_classification"
    if task == "classify" and len(names) == 1 and not (several or options.activation == "sigmoid"):
        raise InputError(
            f"{type(network).__name__} has one output, which is a regression; for the probability of one label give "
            "--activation sigmoid"
        )
    return {"classes": names, **({"activation": "sigmoid"} if several else {})}


def _check_names(names: dict[int, str], options: SourceOptions) -> None:
    if sorted(names) != list(range(len(names))):
        raise InputError(
            f"id2label of config.json does not number its {len(names)} classes from 0 on; give --classes FILE"
        )
    if all(name == f"LABEL_{number}" for number, name in names.items()):
        options.on_note(
            f"the classes are named LABEL_0 to LABEL_{len(names) - 1}; give --classes FILE with their names"
        )
