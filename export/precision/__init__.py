"""Lower precisions of a bundle's graph: fp16, bf16 and int8, each accepted only if it passes its gates."""

from dlcv.export.precision.add import PrecisionOptions, add_precision

__all__ = ["PrecisionOptions", "add_precision"]
