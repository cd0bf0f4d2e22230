"""Machine facts (CPU, GPU, packages), the cache folder, and atomic file writes."""
