"""Writes a bundle's model card, README.md, from its manifest and source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from dlcv.export.sources.base import ModelFacts
from dlcv.runtime.bundle.manifest import Manifest
from dlcv.runtime.bundle.report import any_size_line, card_with_section, metrics_table
from dlcv.runtime.bundle.schema import OutputParity, Preprocessing, Task

_ROLLOUT = "attention rollout of the class token (Abnar and Zuidema 2020), largest value 1"
_OUTPUTS = {
    "probabilities": "the probability of each class; each row sums to 1",
    "embedding": "what the last linear layer sees; not normalised",
    "explanation": "class activation map of the likeliest class (Zhou et al. 2016), largest value 1",
    "attention": "the last layer's attention from the class token to each patch, by head",
    "mask": "the class of each pixel",
    "memory": "keys and values of the image for every layer of the decoder",
    "confidence": "the probability of the class in the mask, in 0..1",
}
_OUTPUTS_OF: dict[Task, dict[str, str]] = {
    "embed": {"embedding": "what images are compared by; not normalised"}
}
_FURTHER = {  # graphs other than the one that takes images
    "distance": "more is nearer",
    "decoder": "goes on with a caption by one token: `cache` holds the tokens so far, zeros at first, and "
    "`next_cache` what to go on with; `attention` is where the last layer looked for the next token and sums to 1",
}
_MOST_CLASSES_LISTED = 60
# Settings that appear elsewhere in the card.
_SAID = ("name", "task", "description", "classes", "preprocessing", "data_note", "licence_note")
_PARITY_NOTE = (
    "Differences of `embedding` are relative to its largest value; of `mask`, the difference is 1 "
    "where a pixel's class differs. Agreement is the share of equal decisions: likeliest classes, "
    "or pixels of the mask."
)

_HALF_WEIGHTS = (
    "Stored in fp16, computed in fp32: the file is about half as large, an engine turns the weights into fp32 when it loads "
    "the graph, and all arithmetic is fp32."
)


def card_from_manifest(manifest: Manifest, source: ModelFacts) -> str:
    """Return the model card as Markdown."""
    graph = manifest.graphs[manifest.main_graph]
    variant = next(iter(graph.variants.values()))
    parity = variant.parity
    names = {spec.name for spec in graph.outputs}
    meanings = _OUTPUTS | ({"explanation": _ROLLOUT} if "attention" in names else {})
    meanings |= _OUTPUTS_OF.get(manifest.task, {}) | _by_activation(manifest)
    outputs = [f"- `{spec}` - {meanings[spec.name]}" for spec in graph.outputs]
    sections = {
        "Use": _use(manifest),
        "Input and outputs": "\n".join(
            [
                f"- `{graph.inputs[0]}` - {'grey' if manifest.preprocessing.channels == 1 else 'RGB'} pixels. {_resize_text(manifest.preprocessing)}",
                *outputs,
                *_further_graphs(manifest),
            ]
        ),
        "Classes": _classes(manifest),
        "Weights": "" if variant.weights == "fp32" else _HALF_WEIGHTS,
        "Data": source.data,
        "Licence": manifest.licence,
        "Metrics": metrics_table(manifest),
        "Parity": f"{parity.engine} against {parity.reference}, on {parity.images}:\n\n"
        f"{_parity_table(parity.outputs)}\n\n{_PARITY_NOTE}",
        "Limits": "\n".join(f"- {limit}" for limit in (*source.limits, *_limits(manifest))),
        "Settings": _settings(manifest.provenance.recipe),
        "Made by": _made_by(manifest, source),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items() if text)
    return f"# {manifest.name}\n\n{manifest.description}\n\n{body}\n"


_ANY_SIZE = "## Photos of any size"


def card_with_any_size(card: str, manifest: Manifest) -> str:
    """Return a model card with its section on the graph that resizes by itself, before the limits, written anew."""
    graph = manifest.graphs[manifest.main_graph]
    without = card_with_section(card, _ANY_SIZE, None)
    if graph.any_size is None:
        return without
    parity = graph.any_size.parity
    section = (
        f"{_ANY_SIZE}\n\n{any_size_line(manifest, graph.any_size)}. `image` is uint8 (1, height, width, "
        f"{manifest.preprocessing.channels}), as decoded and oriented.\n\n{parity.engine} against {parity.reference}, on "
        f"{parity.images}; `resized` is the pixels that enter the network, in 0..255:\n\n{_parity_table(parity.outputs)}\n\n"
    )
    before, limits, after = without.partition("## Limits\n")
    if not limits:
        return f"{before.rstrip()}\n\n{section.rstrip()}\n".lstrip()
    return before + section + limits + after


def _by_activation(manifest: Manifest) -> dict[str, str]:
    """Return what outputs are where labels, or two classes of pixels, are decided by a threshold."""
    if manifest.threshold is None:
        return {}
    least = f"{manifest.threshold:g}"
    return {
        "probabilities": f"the probability of each label (sigmoid); an image has those of {least} or more, perhaps none",
        "mask": f"1 where the probability of the second class (sigmoid) is {least} or more, else 0",
    }


def _further_graphs(manifest: Manifest) -> list[str]:
    lines = []
    for name, graph in manifest.graphs.items():
        if name in _FURTHER:
            tensors = "`, `".join(str(spec) for spec in (*graph.inputs, *graph.outputs))
            lines.append(f"- a second graph, `{name}`: `{tensors}` - {_FURTHER[name]}")
    return lines


def _use(manifest: Manifest) -> str:
    names = {spec.name for spec in manifest.graphs[manifest.main_graph].outputs}
    commands = [manifest.task, *(["attend"] if "attention" in names else [])]
    lines = [f"dlcv-infer {command} photo.jpg -m {manifest.name}" for command in commands]
    if manifest.task == "embed":
        lines.append(f"dlcv-infer fewshot photo.jpg --support examples/ -m {manifest.name}")
    return _code([*lines, f"dlcv-infer check {manifest.name}"])


def _resize_text(preprocessing: Preprocessing) -> str:
    height, width = preprocessing.size
    how = {
        "stretch": f"The whole image is resized to {width}x{height}.",
        "center_crop": f"The centre of the image ({preprocessing.crop_fraction:.1%} of the largest "
        f"region of that shape) is resized to {width}x{height}.",
        "letterbox": f"The image is resized to fit into {width}x{height}; a border of colour {preprocessing.pad} fills the "
        f"rest, {'on both sides' if preprocessing.pad_at == 'center' else 'right and below'}.",
        "longest_side": f"The image is resized so that its longer side has {max(height, width)} pixels, "
        f"both sides rounded to multiples of {preprocessing.multiple}.",
    }[preprocessing.resize]
    grey = "It is converted to greyscale. " if preprocessing.channels == 1 else ""
    return f"{grey}{how} The filter is {preprocessing.resample}, antialiased. Normalisation is in the graph."


def _classes(manifest: Manifest) -> str:
    names = [c.name for c in manifest.classes]
    if not names:
        return ""
    shown = ", ".join(names[:_MOST_CLASSES_LISTED])
    more = len(names) - _MOST_CLASSES_LISTED
    return f"{len(names)}: {shown}" + (f", and {more} more in `manifest.json`" if more > 0 else "")


def _limits(manifest: Manifest) -> list[str]:
    limits = [
        "Images unlike those it was trained on (other cameras, places, times) are answered worse."
    ]
    if manifest.classes and manifest.activation == "softmax":
        limits.insert(
            0,
            "It knows the classes above and no others: every image gets one of them, however sure.",
        )
    names = {spec.name for spec in manifest.graphs[manifest.main_graph].outputs}
    if manifest.task == "classify" and "embedding" not in names:
        limits.append(
            "It gives no embedding: its graph shows no last linear layer that would see one."
        )
    if "explanation" in names:
        limits.append("`explanation` shows what the answer rests on; it is not a segmentation.")
    return limits


def _parity_table(outputs: Mapping[str, OutputParity]) -> str:
    lines = [
        "| output | largest difference | mean difference | cosine | agreement |",
        "|---|---|---|---|---|",
    ]
    for name, parity in outputs.items():
        largest = f"{parity.max_difference:.1e}" + _limit(parity.max_difference_allowed, "at most")
        cosine = _number(parity.cosine) + _limit(parity.cosine_required, "at least")
        agreement = _number(parity.agreement) + _limit(parity.agreement_required, "at least")
        lines.append(
            f"| {name} | {largest} | {parity.mean_difference:.1e} | {cosine} | {agreement} |"
        )
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _limit(value: float | None, words: str) -> str:
    return "" if value is None else f" ({words} {value:g})"


def _settings(recipe: dict[str, Any] | None) -> str:
    if recipe is None:
        return ""
    settings = {key: value for key, value in recipe.items() if key not in _SAID}
    text: str = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=100)
    return f"All of the recipe is in `manifest.json`.\n\n```yaml\n{text}```"


def _made_by(manifest: Manifest, source: ModelFacts) -> str:
    libraries = ", ".join(f"{k} {v}" for k, v in manifest.provenance.libraries.items())
    *before, last = source.remake
    out = f" -o {manifest.name}" if last.startswith("dlcv-") else ""
    commands = [*before, last + out]
    made = f"{manifest.provenance.source}; {manifest.provenance.created}; {libraries}."
    return f"{made}\n\n{_code(commands)}"


def _code(lines: list[str]) -> str:
    return "\n".join(["```", *lines, "```"])
