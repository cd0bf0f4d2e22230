"""dlcv: vision checkpoints to production. `dlcv.load(...)` opens a bundle and runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlcv.runtime import EngineOptions, Predictor, load

__version__ = "0.1.0"
__all__ = ["EngineOptions", "Predictor", "__version__", "load"]


def __getattr__(name: str) -> Any:  # `import dlcv` stays light: numpy comes with the first use
    if name in ("EngineOptions", "Predictor", "load"):
        import dlcv.runtime

        return getattr(dlcv.runtime, name)
    raise AttributeError(f"module 'dlcv' has no attribute {name!r}")
