"""Image captioning: a network that looks and a transformer that tells."""
