"""dlcv-train."""
