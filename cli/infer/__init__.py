"""dlcv-infer."""
