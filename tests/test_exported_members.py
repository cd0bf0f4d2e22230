"""The public surface is what `__all__` says."""

import dlcv
import dlcv.runtime


def test_what_is_exported_is_the_public_surface() -> None:
    assert dlcv.__all__ == ["EngineOptions", "Predictor", "__version__", "load"]
    assert dlcv.load is dlcv.runtime.load
    assert all(hasattr(dlcv.runtime, name) for name in dlcv.runtime.__all__)
