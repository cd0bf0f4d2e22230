import numpy as np
import pytest
import torch

from dlcv.train.data.batches import Dataset
from dlcv.train.losses import class_weights, distillation_loss
from dlcv.train.metrics import (
    confusion_matrix_for,
    metrics_from_confusion,
    predictions_from_outputs,
)
from dlcv.train.settings import LossConfig


def test_iou_matches_a_count_by_hand_with_ignored_pixels(new_recipe):
    labels = torch.tensor([[0, 0, 0, 1, 1, 2, 255, 255]])
    predictions = torch.tensor([[0, 0, 1, 1, 2, 2, 0, 2]])
    recipe = new_recipe("segment")
    matrix = confusion_matrix_for(recipe)
    matrix.update(predictions, labels)
    metrics = metrics_from_confusion(matrix.compute(), recipe)
    # red: TP 2, FP 0, FN 1; green: TP 1, FP 1, FN 1; blue: TP 1, FP 1, FN 0
    assert metrics["iou"] == pytest.approx({"red": 2 / 3, "green": 1 / 3, "blue": 1 / 2})
    assert metrics["mean_iou"] == pytest.approx((2 / 3 + 1 / 3 + 1 / 2) / 3)
    assert metrics["accuracy"] == pytest.approx(4 / 6)


def test_iou_over_batches_matches_sets_of_pixels(new_recipe):
    random = np.random.default_rng(0)
    labels = random.choice([0, 1, 2, 255], (6, 9, 7))
    predictions = random.integers(0, 3, (6, 9, 7))
    recipe = new_recipe("segment")
    matrix = confusion_matrix_for(recipe)
    for start in (0, 2, 4):
        part = slice(start, start + 2)
        matrix.update(torch.from_numpy(predictions[part]), torch.from_numpy(labels[part]))
    kept = labels != 255
    reference = []
    for index in range(3):
        is_label, is_prediction = (labels == index) & kept, (predictions == index) & kept
        reference.append((is_label & is_prediction).sum() / (is_label | is_prediction).sum())
    metrics = metrics_from_confusion(matrix.compute(), recipe)
    assert list(metrics["iou"].values()) == pytest.approx(reference)
    assert metrics["mean_iou"] == pytest.approx(np.mean(reference))


def test_a_class_that_never_occurs_is_left_out_of_the_mean(new_recipe):
    recipe = new_recipe("segment")
    metrics = metrics_from_confusion(torch.tensor([[3, 0, 0], [1, 4, 0], [0, 0, 0]]), recipe)
    assert metrics["iou"]["blue"] is None
    assert metrics["mean_iou"] == pytest.approx((3 / 4 + 4 / 5) / 2)


def test_recall_is_by_class_and_accuracy_over_all(new_recipe):
    recipe = new_recipe()
    metrics = metrics_from_confusion(torch.tensor([[3, 1, 0], [0, 6, 0], [0, 0, 0]]), recipe)
    assert metrics == {"accuracy": 0.9, "recall": {"red": 0.75, "green": 1.0, "blue": None}}


def test_nothing_seen_scores_zero(new_recipe):
    empty = torch.zeros(3, 3, dtype=torch.int64)
    assert metrics_from_confusion(empty, new_recipe())["accuracy"] == 0
    assert metrics_from_confusion(empty, new_recipe("segment"))["mean_iou"] == 0


def test_predictions_come_from_logits_or_torchvisions_dict():
    logits = torch.tensor([[0.0, 2.0, 1.0]])
    assert predictions_from_outputs(logits).tolist() == [1]
    assert predictions_from_outputs({"out": logits[..., None, None]}).tolist() == [[[1]]]


def test_distillation_is_zero_for_equal_logits_and_matches_the_formula():
    student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    assert distillation_loss(teacher, teacher, temperature=2).item() == pytest.approx(0, abs=1e-6)
    p = np.exp([0, 1.5]) / np.exp([0, 1.5]).sum()
    q = np.exp([0.5, 0]) / np.exp([0.5, 0]).sum()
    expected = 4 * (p * np.log(p / q)).sum()
    assert distillation_loss(student, teacher, temperature=2).item() == pytest.approx(expected)


def test_log_class_weights_favour_rare_classes_and_ignore_the_ignored():
    labels = torch.tensor([[[0] * 8 + [1] * 2 + [255] * 10]], dtype=torch.uint8)
    dataset = Dataset(images=torch.zeros(1, 1, 20, 3, dtype=torch.uint8), labels=labels)
    weights = class_weights(dataset, LossConfig(class_weights="log", log_offset=1.1), num_classes=2)
    assert weights is not None
    expected = np.array([1 / np.log(1.9), 1 / np.log(1.3)])
    assert weights.tolist() == pytest.approx(expected / expected.mean())
    assert class_weights(dataset, LossConfig(), num_classes=2) is None
