"""Compares a graph's outputs with reference outputs, for the export gate and `dlcv-infer check`.

Different outputs are compared differently. `probabilities`, `mask`, `scores` and `logits` lead to decisions, so
their agreement is counted. Outputs without a fixed scale, such as `embedding` and `scores`, are compared by
relative difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from dlcv.runtime.bundle.schema import OutputParity, Precision, Storage, TensorSpec

if TYPE_CHECKING:
    from dlcv.runtime.bundle import Bundle
    from dlcv.runtime.engines.base import Engine

Array: TypeAlias = "np.ndarray[Any, Any]"
Arrays: TypeAlias = Mapping[str, Array]

_CHOICES = ("probabilities", "scores", "logits")  # the answer is the largest value of a row
_RELATIVE = ("embedding", "scores", "logits", "memory", "next_cache")


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """The allowed deviation of an output from its reference; None means no limit, but one limit there must be.

    max_difference: absolute; for `embedding` and other `_RELATIVE` outputs, a share of the reference's largest
    absolute value. cosine: lowest cosine similarity of any item of the batch. agreement: lowest share of equal
    decisions.
    """

    max_difference: float | None = None
    cosine: float | None = None
    agreement: float | None = None

    def __post_init__(self) -> None:
        if self.max_difference is None and self.cosine is None and self.agreement is None:
            raise ValueError("a tolerance without a limit judges nothing; give one")


TOLERANCES: dict[Precision, dict[str, Tolerance]] = {
    "fp32": {
        "probabilities": Tolerance(max_difference=1e-4, agreement=1.0),
        "embedding": Tolerance(max_difference=1e-3, cosine=0.99999),
        "explanation": Tolerance(max_difference=1e-3),
        "attention": Tolerance(max_difference=1e-3),
        "mask": Tolerance(agreement=0.999),
        "confidence": Tolerance(max_difference=1e-3),
        "scores": Tolerance(max_difference=1e-3, agreement=1.0),
        "logits": Tolerance(max_difference=1e-3, agreement=1.0),
        "memory": Tolerance(max_difference=1e-3, cosine=0.99999),
        "next_cache": Tolerance(max_difference=1e-3, cosine=0.99999),
    },
    "fp16": {
        "probabilities": Tolerance(max_difference=2e-2, agreement=1.0),
        "embedding": Tolerance(max_difference=2e-2, cosine=0.9999),
        "explanation": Tolerance(cosine=0.999),
        "attention": Tolerance(cosine=0.999),
        "mask": Tolerance(agreement=0.99),
        "confidence": Tolerance(cosine=0.999),
        "scores": Tolerance(max_difference=1e-2, agreement=1.0),
        "logits": Tolerance(max_difference=1e-2, agreement=1.0),
        "memory": Tolerance(max_difference=2e-2, cosine=0.9999),
        "next_cache": Tolerance(max_difference=2e-2, cosine=0.9999),
    },
    "bf16": {
        "probabilities": Tolerance(max_difference=0.15, agreement=1.0),
        "embedding": Tolerance(max_difference=0.15, cosine=0.99),
        "explanation": Tolerance(cosine=0.99),
        "attention": Tolerance(cosine=0.98),
        "mask": Tolerance(agreement=0.9),
        "confidence": Tolerance(cosine=0.98),
        "scores": Tolerance(max_difference=5e-2, agreement=1.0),
        "logits": Tolerance(max_difference=5e-2, agreement=1.0),
        "memory": Tolerance(max_difference=0.15, cosine=0.99),
        "next_cache": Tolerance(max_difference=0.15, cosine=0.99),
    },
    "int8": {
        "probabilities": Tolerance(max_difference=0.3, agreement=1.0),
        "embedding": Tolerance(max_difference=0.3, cosine=0.97),
        "explanation": Tolerance(cosine=0.95),
        "attention": Tolerance(cosine=0.9),
        "mask": Tolerance(agreement=0.85),
        "confidence": Tolerance(cosine=0.95),
        "scores": Tolerance(max_difference=0.1, agreement=1.0),
        "logits": Tolerance(max_difference=0.1, agreement=1.0),
        "memory": Tolerance(max_difference=0.3, cosine=0.97),
        "next_cache": Tolerance(max_difference=0.3, cosine=0.97),
    },
}


def tolerances_of(precision: Precision, *, weights: Storage = "fp32") -> dict[str, Tolerance]:
    """Return the tolerances by output of a precision of arithmetic, and a storage of the graph's weights.

    Weights that were rounded to fp16 have the tolerances of fp16, though all is computed in fp32.
    """
    return TOLERANCES["fp16" if (precision, weights) == ("fp32", "fp16") else precision]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result of a comparison: measurements of the outputs that were judged, and one sentence for each failure."""

    outputs: dict[str, OutputParity]
    failures: tuple[str, ...]


def compare(
    reference: Arrays,
    outputs: Arrays,
    *,
    specs: Sequence[TensorSpec],
    case: str,
    tolerances: Mapping[str, Tolerance] = TOLERANCES["fp32"],
    threshold: float | None = None,
) -> Comparison:
    """Compare one batch of outputs with its reference: names, dtypes, shapes, then values.

    If the two likeliest classes of an item differ by less than twice the allowed difference, the item is a tie:
    either answer is right. Where a tie was decided differently, the item's `explanation` belongs to another
    class and is left out.

    Every output is judged: one without a tolerance is a failure.

    threshold: of labels that are independent of each other; then each label is a decision, and a tie where its
    probability differs from the threshold by that much.

    reference, outputs: arrays by name. specs: the expected tensors. case: the name used in failures.
    """
    failures = _structure_failures(reference, outputs, specs=specs)
    for name in (spec.name for spec in specs if spec.name not in tolerances):
        failures.setdefault(
            name, f"{name!r} has no tolerance, so nothing can judge it; add it to TOLERANCES"
        )
    sound = {spec.name for spec in specs} - set(failures)
    parities = {}
    for spec in specs:
        if spec.name in sound:
            kept: slice | Array = slice(None)
            if spec.name == "explanation" and "probabilities" in sound:
                kept = _same_top(reference["probabilities"], outputs["probabilities"])
            expected, received = reference[spec.name][kept], outputs[spec.name][kept]
            parities[spec.name] = _parity(
                spec.name,
                expected,
                received,
                tolerance=tolerances[spec.name],
                threshold=threshold,
            )
    sentences = [
        *failures.values(),
        *(s for name, parity in parities.items() for s in _value_failures(name, parity)),
    ]
    return Comparison(outputs=parities, failures=tuple(f"{case}: {s}" for s in sentences))


def worst(comparisons: Sequence[Comparison]) -> Comparison:
    """Combine several comparisons: largest differences, lowest agreements, and all failures."""
    names = dict.fromkeys(name for c in comparisons for name in c.outputs)
    merged = {
        n: _worst_parity([c.outputs[n] for c in comparisons if n in c.outputs]) for n in names
    }
    return Comparison(outputs=merged, failures=tuple(f for c in comparisons for f in c.failures))


def replay_golden(bundle: Bundle, engine: Engine, *, graph: str | None = None) -> Comparison:
    """Run a graph's golden inputs on an engine and compare with the outputs that PyTorch gave.

    Only the outputs that the engine has are compared, with the tolerances of its precision, and of how the fp32 graph's
    weights are stored.

    Raises:
        BundleError: a golden file is damaged.
        EngineError: the engine failed.
    """
    exact = bundle.graph(graph).variants.get("fp32")
    weights = exact.weights if exact else "fp32"
    return worst(
        [
            compare(
                case.outputs,
                engine.infer(case.inputs),
                specs=engine.outputs,
                case=f"golden case {case.name}",
                tolerances=tolerances_of(engine.info.precision, weights=weights),
                threshold=bundle.manifest.threshold,
            )
            for case in bundle.golden(graph)
        ]
    )


def _structure_failures(
    reference: Arrays, outputs: Arrays, *, specs: Sequence[TensorSpec]
) -> dict[str, str]:
    """Return by output why its values cannot be compared."""
    failures = {
        name: f"there is an output {name!r} that was not declared"
        for name in outputs
        if name not in {spec.name for spec in specs}
    }
    for spec in specs:
        if spec.name not in outputs or spec.name not in reference:
            where = "outputs" if spec.name not in outputs else "reference"
            failures[spec.name] = f"{spec.name!r} is missing from the {where}"
            continue
        expected, received = reference[spec.name], outputs[spec.name]
        if str(received.dtype) != spec.dtype:
            failures[spec.name] = f"{spec.name!r} is {received.dtype}, declared is {spec.dtype}"
        elif received.shape != expected.shape or not _fits(spec, received.shape):
            failures[spec.name] = (
                f"{spec.name!r} has shape {received.shape}, the reference {expected.shape}, "
                f"declared is ({', '.join(map(str, spec.shape))})"
            )
        elif not np.isfinite(received).all():
            failures[spec.name] = f"{spec.name!r} holds values that are not finite"
    return failures


def _fits(spec: TensorSpec, shape: tuple[int, ...]) -> bool:
    return len(shape) == len(spec.shape) and all(
        isinstance(wanted, str) or wanted == size
        for wanted, size in zip(spec.shape, shape, strict=True)
    )


def _parity(
    name: str,
    expected: Array,
    received: Array,
    *,
    tolerance: Tolerance,
    threshold: float | None,
) -> OutputParity:
    if name == "mask":
        difference = (expected != received).astype(np.float64)
    else:
        difference = np.abs(received.astype(np.float64) - expected.astype(np.float64))
    scale = max(float(np.abs(expected).max(initial=0)), 1e-12)
    if name in _RELATIVE:
        difference /= scale
    agreement = None
    if name == "mask":
        agreement = 1.0 - float(difference.mean())
    elif name in _CHOICES:
        margin = 2 * (tolerance.max_difference or 0.0) * (scale if name in _RELATIVE else 1.0)
        if name == "probabilities" and threshold is not None:
            agreement = _label_agreement(expected, received, threshold=threshold, margin=margin)
        else:
            agreement = _top_agreement(expected, received, margin=margin)
    return OutputParity(
        max_difference=float(difference.max(initial=0)),
        mean_difference=float(difference.mean()) if difference.size else 0.0,
        cosine=None if name == "mask" else _least_cosine(expected, received),
        agreement=agreement,
        max_difference_allowed=tolerance.max_difference,
        cosine_required=tolerance.cosine,
        agreement_required=tolerance.agreement,
    )


def _same_top(expected: Array, received: Array) -> Array:
    """Return bool (batch,): whether the likeliest class is equal. Takes (batch, classes)."""
    same: Array = expected.argmax(1) == received.argmax(1)
    return same


def _top_agreement(expected: Array, received: Array, *, margin: float) -> float:
    items = np.arange(len(expected))
    chosen = expected[items, received.argmax(1)]
    return float(np.mean(expected.max(1) - chosen <= margin))


def _label_agreement(expected: Array, received: Array, *, threshold: float, margin: float) -> float:
    """Return the share of equal decisions about labels (batch, labels). Those within the margin are ties."""
    is_tie = np.abs(expected - threshold) <= margin
    return float(np.mean(((expected >= threshold) == (received >= threshold)) | is_tie))


def _least_cosine(expected: Array, received: Array) -> float:
    if not len(expected):
        return 1.0
    a = expected.reshape(len(expected), -1).astype(np.float64)
    b = received.reshape(len(received), -1).astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    cosines = np.where(both_zero, 1.0, (a * b).sum(1) / np.maximum(norms, 1e-30))
    return float(min(cosines.min(), 1.0))


def _value_failures(name: str, parity: OutputParity) -> list[str]:
    failures = []
    allowed = parity.max_difference_allowed
    if allowed is not None and not parity.max_difference <= allowed:
        kind = "relative difference" if name in _RELATIVE else "difference"
        failures.append(
            f"{name!r} has a largest {kind} of {parity.max_difference:.2e}, allowed is {allowed:.0e}"
        )
    for word, value, least in (
        ("cosine similarity", parity.cosine, parity.cosine_required),
        ("agreement", parity.agreement, parity.agreement_required),
    ):
        if least is not None and (value is None or not value >= least):
            failures.append(f"{name!r} has a least {word} of {value:.6f}, required is {least:g}")
    return failures


def _worst_parity(parities: Sequence[OutputParity]) -> OutputParity:
    first = parities[0]
    cosines = [p.cosine for p in parities if p.cosine is not None]
    agreements = [p.agreement for p in parities if p.agreement is not None]
    return OutputParity(
        max_difference=max(p.max_difference for p in parities),
        mean_difference=max(p.mean_difference for p in parities),
        cosine=min(cosines, default=None),
        agreement=min(agreements, default=None),
        max_difference_allowed=first.max_difference_allowed,
        cosine_required=first.cosine_required,
        agreement_required=first.agreement_required,
    )
