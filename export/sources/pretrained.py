"""Shared by timm and torchvision sources: weights from a file, from a download, or random."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from dlcv.export.sources.base import SourceOptions
from dlcv.runtime.errors import InputError
from dlcv.train.weights import fitted_weights, load_weights

_SEED = 0
LIMITS_OF_RANDOM = (
    "The weights are random: the answers mean nothing. It is for tests of programs.",
)


@contextmanager
def seeded() -> Iterator[None]:
    """Make random weights reproducible, without changing the caller's random state.

    Log messages about download retries are suppressed; a failed download ends in one error.
    """
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            yield
    finally:
        logger.setLevel(level)


def take_weights(
    model: nn.Module, options: SourceOptions, *, unused: tuple[str, ...] = ()
) -> nn.Module:
    """Load the weights file, if one is given, and return the model in evaluation mode.

    unused: prefixes of tensors that the file may contain but the graph does not need.

    Raises:
        RecipeError: the file is not one of weights, or does not fit.
    """
    if options.weights is not None:
        fitted = fitted_weights(model, options.weights, key=options.weights_key, unused=unused)
        load_weights(model, fitted.state, source=str(options.weights))
        if fitted.note:
            options.on_note(fitted.note)
    return model.eval()


def origin_of(spec: str, options: SourceOptions) -> str:
    """Return where the weights come from, for the manifest. A file is named with its SHA-256."""
    if options.random:
        return f"{spec}, random weights (seed {_SEED})"
    if options.weights is None:
        return f"{spec}, published weights"
    digest = hashlib.sha256(options.weights.read_bytes()).hexdigest()
    return f"{spec}, weights from {options.weights.name} (SHA-256 {digest})"


def data_of_weights(options: SourceOptions, *, published: str) -> str:
    """Return what the weights were trained on, for the model card. published: of the weights that are downloaded."""
    if options.random:
        return "None."
    return published if options.weights is None else "Not stated: the weights came from a file."


def download_failed(spec: str, error: Exception) -> InputError:
    """Return the error for published weights that could not be downloaded."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return InputError(
        f"the published weights of {spec} cannot be loaded ({reason}); "
        "give --weights FILE, or --random for random weights"
    )
