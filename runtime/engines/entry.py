"""An engine's entry in the registry."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dlcv.runtime.bundle.schema import Target
from dlcv.runtime.engines.base import Engine, EngineModel, EngineOptions


@dataclass(frozen=True, kw_only=True)
class EngineEntry:
    """Where an engine's class is, and what it requires.

    factory: "module:Class"; the class takes an `EngineModel` and `EngineOptions`. modules: what must be importable.
    distribution: the package that must be installed, where the module's name does not tell. install: the command that
    installs it. needs_gpu: an NVIDIA GPU is required, and the engine is a `DeviceTimer`. cuda: the lowest CUDA version,
    (major, minor), that the driver must support. variations: engine settings that a tuning tries. like_plain: the
    variation that does what plain ONNX Runtime does. lower_arithmetic: settings with which a fp32 graph is computed in
    bf16. keeps_state: the engine is a `KeepsState`. target: whose int8 graph the engine takes, where a bundle has several:
    cpu (zero points, uint8 activations), or tensorrt (symmetric).
    """

    summary: str
    factory: str
    modules: tuple[str, ...]
    install: str
    distribution: str | None = None
    needs_gpu: bool = False
    cuda: tuple[int, int] = (0, 0)
    variations: tuple[Mapping[str, str], ...] = ({},)
    like_plain: Mapping[str, str] | None = None
    lower_arithmetic: tuple[Mapping[str, str], ...] = ()
    target: Target = "cpu"
    keeps_state: bool = False

    def engine_class(self) -> Callable[[EngineModel, EngineOptions], Engine]:
        """Import the class."""
        module, _, name = self.factory.partition(":")
        found: Callable[[EngineModel, EngineOptions], Engine] = getattr(
            importlib.import_module(module), name
        )
        return found
