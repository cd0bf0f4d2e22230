"""What this computer is, and what dlcv keeps on it: CPU and GPU, cache, files that are written whole."""
