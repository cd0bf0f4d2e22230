"""Training: recipes, data, models, and the training loop. Produces checkpoints."""
