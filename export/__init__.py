"""Exports checkpoints as bundles: ONNX graphs, lower precisions, and the parity gate."""
