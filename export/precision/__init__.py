"""Lower precisions of a bundle's graph: fp16, bf16, int8, each behind its gates."""

from dlcv.export.precision.add import PrecisionOptions, add_precision

__all__ = ["PrecisionOptions", "add_precision"]
