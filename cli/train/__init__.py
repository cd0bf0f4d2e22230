"""The command-line program `dlcv-train`."""
