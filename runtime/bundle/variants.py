"""Which variant of a graph an engine takes.

An int8 graph for CPUs has zero points and weights of 7 bits; one for TensorRT is symmetric, with other nodes in int8. So a
graph may have both, `int8-cpu` and `int8-tensorrt`, and each engine says which it wants. Plain `int8`, of imported files
and older bundles, says nothing and stands for both.
"""

from __future__ import annotations

from collections.abc import Collection

from dlcv.runtime.bundle.schema import Precision, Target, VariantName

_INT8: dict[Target, tuple[VariantName, ...]] = {  # best first
    "cpu": ("int8-cpu", "int8", "int8-tensorrt"),  # the last runs there too, slower and less exact
    "tensorrt": ("int8-tensorrt", "int8"),  # it refuses zero points
}
MADE_FOR: dict[VariantName, str] = {"int8-cpu": "for CPUs", "int8-tensorrt": "for TensorRT"}
"""What a variant is made for, in words, where it is not made for all engines."""


def variant_for(
    names: Collection[VariantName], precision: Precision, *, target: Target
) -> VariantName | None:
    """Return the best variant of a precision for a target, of those that a graph has; None if none runs there."""
    wanted = _INT8[target] if precision == "int8" else (precision,)
    return next((name for name in wanted if name in names), None)


def is_narrow(name: VariantName) -> bool:
    """Return whether the int8 weights lie in -64..64, so that two products fit into 16 bits.

    Their sums do not overflow then on a CPU without VNNI.
    """
    return name == "int8-cpu"
