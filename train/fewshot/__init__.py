"""Few-shot classification by prototypes: recipe, episodes, network, training."""
