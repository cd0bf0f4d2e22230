"""Outputs are compared by what they are, and every failure is a sentence with the numbers."""

import re
from typing import Any, get_args

import numpy as np
import pytest

from dlcv.runtime.bundle.contract import TASKS
from dlcv.runtime.bundle.schema import DType, Precision, TensorSpec
from dlcv.runtime.measure.parity import TOLERANCES, Comparison, Tolerance, compare, worst


def spec(name: str, *shape: int | str, dtype: DType = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=("batch", *shape))


PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]], np.float32)


def compared(name: Any, expected: Any, received: Any, *, case: str = "case") -> Comparison:
    expected, received = np.asarray(expected), np.asarray(received)
    dtype: Any = str(expected.dtype)
    specs = [spec(name, *expected.shape[1:], dtype=dtype)]
    return compare({name: expected}, {name: received}, specs=specs, case=case)


def test_equal_arrays_have_no_difference():
    result = compared("probabilities", PROBABILITIES, PROBABILITIES)
    parity = result.outputs["probabilities"]
    assert not result.failures
    assert (parity.max_difference, parity.mean_difference, parity.agreement) == (0, 0, 1)
    assert parity.cosine == pytest.approx(1)
    assert parity.max_difference_allowed == TOLERANCES["fp32"]["probabilities"].max_difference


def test_another_decision_fails_by_value_and_by_agreement():
    received = PROBABILITIES[:, ::-1].copy()
    failures = compared("probabilities", PROBABILITIES, received, case="batch 2").failures
    assert failures == (
        "batch 2: 'probabilities' has a largest difference of 6.00e-01, allowed is 1e-04",
        "batch 2: 'probabilities' has a least agreement of 0.500000, required is 1",
    )


def test_a_tie_may_be_decided_either_way():
    expected = np.array([[0.400001, 0.4, 0.2]], np.float32)
    received = np.array([[0.4, 0.400001, 0.2]], np.float32)
    assert not compared("probabilities", expected, received).failures


def test_the_map_of_a_tie_that_was_decided_otherwise_is_left_out():
    expected = np.array([[0.400001, 0.4, 0.2]], np.float32)
    received = np.array([[0.4, 0.400001, 0.2]], np.float32)
    maps = np.zeros((1, 2, 2), np.float32), np.ones((1, 2, 2), np.float32)
    specs = [spec("probabilities", 3), spec("explanation", 2, 2)]
    result = compare(
        {"probabilities": expected, "explanation": maps[0]},
        {"probabilities": received, "explanation": maps[1]},
        specs=specs,
        case="tie",
    )
    assert not result.failures
    assert result.outputs["explanation"].max_difference == 0


@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
def test_differences_of_embeddings_are_relative(scale):
    expected = np.array([[1, -2, 4]], np.float32) * scale
    received = expected + np.float32(0.008 * scale)
    parity = compared("embedding", expected, received).outputs["embedding"]
    assert parity.max_difference == pytest.approx(0.002, rel=1e-3)


def test_an_embedding_in_another_direction_fails():
    failures = compared("embedding", [[1.0, 0.0]], [[0.0, 1.0]]).failures
    assert any("least cosine similarity of 0.000000, required is 0.99999" in f for f in failures)


def test_embeddings_of_zero_are_alike():
    zeros = np.zeros((2, 3), np.float32)
    assert not compared("embedding", zeros, zeros).failures


def test_agreement_of_masks_is_the_share_of_equal_pixels():
    expected = np.zeros((1, 10, 100), np.uint8)
    received = expected.copy()
    received[0, 0, :1] = 7
    passed = compared("mask", expected, received)
    assert not passed.failures
    assert passed.outputs["mask"].agreement == 0.999
    received[0, 0, :2] = 7
    (failure,) = compared("mask", expected, received).failures
    assert "'mask' has a least agreement of 0.998000, required is 0.999" in failure


@pytest.mark.parametrize(
    ("received", "message"),
    [
        ({}, "'confidence' is missing from the outputs"),
        ({"confidence": np.zeros((1, 2, 2))}, "is float64, declared is float32"),
        ({"confidence": np.zeros((1, 2, 3), np.float32)}, r"has shape \(1, 2, 3\), the reference"),
        ({"confidence": np.full((1, 2, 2), np.nan, np.float32)}, "not finite"),
        (
            {"confidence": np.zeros((1, 2, 2), np.float32), "other": np.zeros(1)},
            "an output 'other' that was not declared",
        ),
    ],
)
def test_structure_is_checked_before_values(received, message):
    reference = {"confidence": np.zeros((1, 2, 2), np.float32)}
    result = compare(reference, received, specs=[spec("confidence", "height", "width")], case="c")
    assert len(result.failures) == 1
    assert re.search(message, result.failures[0])


def test_the_worst_of_several_cases_counts():
    good = compared("confidence", [[[0.5]]], [[[0.5]]], case="good")
    bad = compared("confidence", [[[0.5]]], [[[0.75]]], case="bad")
    result = worst([good, bad, good])
    assert result.outputs["confidence"].max_difference == 0.25
    assert result.failures == bad.failures


def test_nothing_compared_is_nothing_found():
    assert worst([]).outputs == {}


def test_an_output_without_a_tolerance_fails_even_if_it_is_equal():
    same = np.ones((1, 2), np.float32)
    result = compare(
        {"embedding": same, "depth": same},
        {"embedding": same, "depth": same},
        specs=[spec("embedding", 2), spec("depth", 2)],
        case="c",
    )
    assert result.failures == (
        "c: 'depth' has no tolerance, so nothing can judge it; add it to TOLERANCES",
    )
    assert list(result.outputs) == ["embedding"]


def test_a_tolerance_without_a_limit_is_no_tolerance():
    with pytest.raises(ValueError, match="a tolerance without a limit judges nothing"):
        Tolerance()


CONTRACTED = sorted(
    {name for task in TASKS.values() for graph in task.graphs.values() for name in graph.outputs}
)
DECIDING = ("probabilities", "mask", "scores", "logits")
BY_LOSS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")


def opposite(name: str, seed: int) -> Any:
    """Return what no engine may give for an output whose reference has another seed."""
    if name == "mask":
        return np.full((2, 3, 4), seed, np.uint8)
    return np.roll(np.eye(2, 12, dtype=np.float32), seed, axis=1)


@pytest.mark.parametrize("precision", get_args(Precision))
@pytest.mark.parametrize("name", CONTRACTED)
def test_every_output_of_the_contract_is_judged_in_every_precision(precision, name):
    reference, other = opposite(name, 0), opposite(name, 5)
    specs = [spec(name, *reference.shape[1:], dtype="uint8" if name == "mask" else "float32")]
    given: Any = {"specs": specs, "case": "c", "tolerances": TOLERANCES[precision]}
    assert not compare({name: reference}, {name: reference}, **given).failures
    assert compare({name: reference}, {name: other}, **given).failures
    if name in DECIDING:
        assert TOLERANCES[precision][name].agreement is not None


@pytest.mark.parametrize("name", CONTRACTED)
def test_a_lower_precision_is_allowed_no_less_than_a_higher_one(name):
    for field, better in (("max_difference", 1), ("cosine", -1), ("agreement", -1)):
        limits = [getattr(TOLERANCES[precision][name], field) for precision in BY_LOSS]
        known = [better * limit for limit in limits if limit is not None]
        assert known == sorted(known), field


def test_there_is_no_tolerance_for_what_is_not_in_the_contract():
    assert {name for judged in TOLERANCES.values() for name in judged} == set(CONTRACTED)


def test_of_independent_labels_each_is_a_decision_at_the_threshold():
    expected = np.array([[0.9, 0.45, 0.1], [0.2, 0.8, 0.3]], np.float32)
    received = np.array([[0.9, 0.55, 0.1], [0.2, 0.8, 0.3]], np.float32)
    loose = TOLERANCES["fp32"] | {"probabilities": Tolerance(max_difference=0.2, agreement=1.0)}
    given: Any = {"specs": [spec("probabilities", 3)], "case": "c", "threshold": 0.5}

    def agreement(tolerances: Any, **changes: Any) -> Any:
        pair = {"probabilities": expected}, {"probabilities": received}
        return compare(*pair, **{**given, **changes, "tolerances": tolerances})

    assert not agreement(loose).failures  # a tie: .05 from the threshold, .4 are allowed
    far = {"probabilities": Tolerance(max_difference=0.02, agreement=1.0)}
    result = agreement(far)
    assert result.outputs["probabilities"].agreement == pytest.approx(5 / 6)
    assert any("agreement of 0.833333" in failure for failure in result.failures)
    assert agreement(far, threshold=None).outputs["probabilities"].agreement == 1.0
