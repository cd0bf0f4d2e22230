"""Image captioning: an image encoder and a transformer decoder."""
