"""Few-shot classification without PyTorch: examples, prototypes, and what they score on episodes."""
