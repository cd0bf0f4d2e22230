"""The running model: images in, results out."""
