"""The model card's section on precisions."""

from __future__ import annotations

import shlex

from dlcv.runtime.bundle.manifest import Manifest
from dlcv.runtime.bundle.report import card_with_metrics, card_with_section
from dlcv.runtime.bundle.schema import OutputParity, Variant

_TITLE = "## Precisions"
_NAMED = 5


def card_with_precisions(card: str, manifest: Manifest) -> str:
    """Return a model card with its metrics, and its section on precisions before the limits, rewritten."""
    lines = [_TITLE, "", "| precision | file | size | accuracy | parity | kept in fp32 |"]
    lines.append("|---|---|---|---|---|---|")
    for precision, variant in manifest.graphs[manifest.main_graph].variants.items():
        size = manifest.files[variant.file].size_bytes / 1e6
        parity = "; ".join(f"{n} {_parity(p)}" for n, p in variant.parity.outputs.items())
        cells = (
            precision
            if variant.weights == "fp32"
            else f"{precision}, weights stored in {variant.weights}",
            variant.file,
            f"{size:.2f} MB",
            _accuracy(variant),
            parity,
            _kept(variant),
        )
        lines.append(f"| {' | '.join(cells)} |")
    if commands := _commands(manifest):
        lines += ["", "```", *commands, "```"]
    section = "\n".join(lines) + "\n\n"
    without = card_with_section(card_with_metrics(card, manifest), _TITLE, None)
    before, limits, after = without.partition("## Limits\n")
    if not limits:
        return f"{before.rstrip()}\n\n{section.rstrip()}\n".lstrip()
    return before + section + limits + after


def _commands(manifest: Manifest) -> list[str]:
    """Return the commands that make the lower precisions. IMAGES stands for those that int8 was calibrated on."""
    commands = []
    for name, variant in manifest.graphs[manifest.main_graph].variants.items():
        precision, _, target = name.partition("-")
        if precision == "fp32":
            continue
        options = [f"--to {precision}", *([f"--for {target}"] if target else [])]
        options += ["--calibrate IMAGES"] if precision == "int8" else []
        if variant.accuracy is not None:
            options.append(f"--labelled {shlex.quote(variant.accuracy.data)}")
        commands.append(f"dlcv-export precision {manifest.name} {' '.join(options)}")
    return commands


def _parity(parity: OutputParity) -> str:
    if parity.agreement is not None:
        return f"agreement {parity.agreement:.4f}"
    return f"cosine {parity.cosine:.4f}" if parity.cosine is not None else ""


def _accuracy(variant: Variant) -> str:
    accuracy = variant.accuracy
    if accuracy is None:
        return ""
    return (
        f"{accuracy.metric} {accuracy.value:.4f}, fp32 {accuracy.baseline:.4f} "
        f"({accuracy.images} images of {accuracy.data})"
    )


def _kept(variant: Variant) -> str:
    names = ", ".join(f"`{name}`" for name in variant.kept[:_NAMED])
    more = len(variant.kept) - _NAMED
    return names + (f" and {more} more" if more > 0 else "")
