"""dlcv-export."""
