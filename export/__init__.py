"""Checkpoint to bundle: ONNX graphs, precisions and the parity gate."""
