"""Score a checkpoint on the test set of its recipe (or its validation set, if it has no other), in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dlcv.train.checkpoint import Checkpoint
from dlcv.train.data import load_dataset
from dlcv.train.data.batches import PlainBatches
from dlcv.train.metrics import (
    confusion_matrix_for,
    metrics_from_confusion,
    predictions_from_outputs,
)
from dlcv.train.modules import normalised


def evaluate(checkpoint: Checkpoint, root: Path) -> dict[str, Any]:
    """Return the metrics of a checkpoint, and `images`, how many they were measured on.

    root: the data root.

    Raises:
        RecipeError: the data is missing or does not fit.
    """
    recipe = checkpoint.recipe
    dataset = load_dataset(recipe, root, split="test")
    confusion = confusion_matrix_for(recipe)
    with torch.inference_mode():
        for images, labels in PlainBatches(dataset=dataset, batch=recipe.batch):
            outputs = checkpoint.model(normalised(images, recipe.normalization))
            confusion.update(predictions_from_outputs(outputs), labels.long())
    metrics = metrics_from_confusion(confusion.compute(), recipe)
    return {**metrics, "images": len(dataset)}
