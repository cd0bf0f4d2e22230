"""Spans of OpenTelemetry, where the package is installed (`pip install opentelemetry-sdk`); nothing otherwise.

A span is a child of the client's, where the request has a `traceparent` (https://www.w3.org/TR/trace-context/). Names
and attributes follow https://opentelemetry.io/docs/specs/semconv/http/http-spans/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias

Attributes: TypeAlias = "dict[str, str | int | float]"
Span: TypeAlias = Callable[[Attributes], None]
"""Adds attributes to the span."""


def span(name: str, carrier: Mapping[str, str]) -> AbstractContextManager[Span]:
    """Record what is done meanwhile as a span. carrier: the request's headers or metadata, in lower case."""
    if _TRACE is None:
        return nullcontext(_ignore)
    return _recorded(name, carrier)


@contextmanager
def _recorded(name: str, carrier: Mapping[str, str]) -> Iterator[Span]:
    trace, extract = _TRACE
    with trace.get_tracer("dlcv").start_as_current_span(
        name, context=extract(carrier), kind=trace.SpanKind.SERVER
    ) as current:
        yield current.set_attributes


def _ignore(attributes: Attributes) -> None:
    """Take no attributes."""


def _opentelemetry() -> Any:
    try:
        from opentelemetry import trace
        from opentelemetry.propagate import extract
    except ModuleNotFoundError:
        return None
    return trace, extract


_TRACE = _opentelemetry()
