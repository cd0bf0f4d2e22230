"""Opens a bundle and runs it: engines, pipeline, results, server. Never needs PyTorch."""
