"""dlcv: vision checkpoints to bundles that run anywhere, fast, without PyTorch."""

__version__ = "0.1.0"
