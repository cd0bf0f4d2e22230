"""Optimization profiles: the range of shapes that an engine is built for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from dlcv.runtime.bundle.schema import TensorSpec
from dlcv.runtime.engines.base import DEFAULT_BATCH_SIZE, EngineModel
from dlcv.runtime.errors import BundleError, InputError

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Range:
    """The range of a dynamic dimension: the smallest size, the size to tune for, and the largest."""

    least: int
    usual: int
    most: int

    def __str__(self) -> str:
        return f"{self.least},{self.usual},{self.most}"

    def covers(self, other: Range) -> bool:
        """Return whether this range contains every size of another."""
        return self.least <= other.least and self.most >= other.most


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Ranges by symbol: "batch"; "height" and "width" of graphs of dynamic size; "classes" of a distance graph."""

    ranges: Mapping[str, Range]

    def __str__(self) -> str:
        return "; ".join(f"{symbol} {size}" for symbol, size in self.ranges.items())

    def covers(self, other: Profile) -> bool:
        """Return whether an engine built for this profile can serve the other."""
        return all(
            symbol in self.ranges and self.ranges[symbol].covers(size)
            for symbol, size in other.ranges.items()
        )

    def shapes(self, spec: TensorSpec) -> tuple[Shape, Shape, Shape]:
        """Return the smallest, typical and largest shape of an input.

        Raises:
            BundleError: a dimension has no range.
        """
        for dimension in spec.shape:
            if isinstance(dimension, str) and dimension not in self.ranges:
                raise BundleError(
                    f"input {spec} is dynamic in {dimension!r}, for which TensorRT needs a range and "
                    f"dlcv has none, only for {', '.join(self.ranges)}; export it with a fixed size"
                )
        sizes = [
            self.ranges[d] if isinstance(d, str) else Range(least=d, usual=d, most=d)
            for d in spec.shape
        ]
        return (
            tuple(size.least for size in sizes),
            tuple(size.usual for size in sizes),
            tuple(size.most for size in sizes),
        )


_FIXES = {
    "batch": "give a larger --batch, or build with another -E profile=MIN,OPT,MAX",
    "classes": "run it on --engine cuda or ort",
}
_CLASSES = Range(least=1, usual=8, most=1024)  # prototypes of few-shot bundles


def profile_for(model: EngineModel, *, batch: str, batch_size: int | None) -> Profile:
    """Return the profile to build a model for.

    batch: "min,opt,max", or "" for 1 to `batch_size`, tuned for `batch_size`; its default is
    DEFAULT_BATCH_SIZE.

    Raises:
        InputError: `batch` is something else.
    """
    usual = batch_size or DEFAULT_BATCH_SIZE
    ranges = {"batch": range_from_text(batch) if batch else Range(least=1, usual=usual, most=usual)}
    if any("classes" in spec.shape for spec in model.tensors):
        ranges["classes"] = _CLASSES
    if model.largest is not None:
        longest = max(model.largest)
        for symbol, size in zip(("height", "width"), model.largest, strict=True):
            ranges[symbol] = Range(least=min(model.multiple, size), usual=size, most=longest)
    return Profile(ranges=ranges)


def range_from_text(text: str) -> Range:
    """Return a range from text such as "1,8,32".

    Raises:
        InputError: not three whole numbers of 1 or more in rising order.
    """
    parts = [part.strip() for part in text.split(",")]
    numbers = [int(part) for part in parts if part.isdecimal()]
    if len(parts) != 3 or len(numbers) != 3 or numbers != sorted(numbers) or numbers[0] < 1:
        raise InputError(
            f"a profile is the least, the usual and the largest batch, such as 1,8,32, not {text!r}"
        )
    return Range(least=numbers[0], usual=numbers[1], most=numbers[2])


def profile_from_text(text: str) -> Profile:
    """Return a profile from the text form of a profile.

    Raises:
        InputError: the text is something else.
    """
    pairs = [part.strip().rpartition(" ") for part in text.split(";")]
    return Profile(ranges={symbol: range_from_text(size) for symbol, _, size in pairs})


def require_in_profile(
    spec: TensorSpec, shape: Sequence[int], *, least: Sequence[int], most: Sequence[int]
) -> None:
    """Check one part of a batch against the shapes that an engine was built for.

    Raises:
        InputError: a size is outside; the message has the range.
    """
    for number, (size, low, high) in enumerate(zip(shape, least, most, strict=True)):
        if not low <= size <= high:
            symbol = spec.shape[number]
            fix = _FIXES.get(str(symbol), "give --size, or build with dlcv-export engine --size")
            raise InputError(
                f"{spec.name!r} has {symbol} {size}, the engine was built for {low} to {high}; {fix}"
            )
