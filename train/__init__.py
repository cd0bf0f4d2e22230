"""Recipes, data, models and training: makes checkpoints."""
