"""Loads what a server serves: bundles by name or path, with one set of options for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dlcv.runtime.bundle import Bundle, open_bundle
from dlcv.runtime.bundle.schema import Precision
from dlcv.runtime.caption.beam_search import SearchOptions
from dlcv.runtime.engines.base import EngineOptions
from dlcv.runtime.errors import InputError
from dlcv.runtime.images import DecodeOptions
from dlcv.runtime.running.predictor import Predictor, load
from dlcv.runtime.serving.options import Limits


@dataclass(frozen=True, kw_only=True)
class ModelLoader:
    """How bundles are loaded. beams: of captioners; 1: greedy. outputs: those that are computed; empty: all.

    devices: numbers of the GPUs that share each model's images; None: as `dlcv.load` has it.
    """

    engine: str = "auto"
    precision: Precision | None = None
    options: EngineOptions = field(default_factory=EngineOptions)
    outputs: tuple[str, ...] = ()
    beams: int = 1
    devices: tuple[int, ...] | None = None
    limits: Limits = field(default_factory=Limits)

    def __call__(self, bundle: str | Path | Bundle) -> Predictor:
        """Open and load a bundle. Raises as `dlcv.load`."""
        opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        is_captioner = opened.manifest.task == "caption"
        there = {spec.name for spec in opened.graph().outputs}
        wanted = [name for name in self.outputs if name in there]
        return load(
            opened,
            engine=self.engine,
            precision=self.precision,
            options=self.options,
            outputs=wanted or None,
            search=SearchOptions(beams=self.beams) if is_captioner else None,
            decode=DecodeOptions(max_pixels=self.limits.pixels),
            queue_size=self.limits.queue,
            devices=self.devices,
        )


@dataclass(frozen=True, kw_only=True)
class NamedBundle:
    """A bundle and the name that it is served under."""

    name: str
    bundle: Bundle


def named_bundles(
    texts: list[str], *, open_: Callable[[str], Bundle] = open_bundle
) -> list[NamedBundle]:
    """Open the bundles of a command line: each a folder, a ready bundle's name, or NAME=either.

    Raises:
        BundleError: one is no bundle.
        InputError: two have one name.
    """
    found: dict[str, NamedBundle] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        is_named = bool(equals) and not Path(text).exists()
        bundle = open_(path if is_named else text)
        name = name if is_named else bundle.manifest.name
        require_name(name)
        if name in found:
            raise InputError(
                f"two bundles would be served as {name!r}; give one another name: NAME=BUNDLE"
            )
        found[name] = NamedBundle(name=name, bundle=bundle)
    return list(found.values())


def require_name(name: str) -> None:
    """Check that a model's name can stand in a path.

    Raises:
        InputError: it cannot.
    """
    if not name or "/" in name or not name.isprintable() or name in (".", ".."):
        raise InputError(f"a model cannot be served as {name!r}; give another name: NAME=BUNDLE")
