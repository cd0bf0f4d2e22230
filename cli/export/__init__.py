"""The command-line program `dlcv-export`."""
