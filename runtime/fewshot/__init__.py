"""Few-shot classification without PyTorch: support images, prototypes, and accuracy on episodes."""
