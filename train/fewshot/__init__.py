"""Few-shot classification with prototypical networks: recipe, episodes, network, training."""
