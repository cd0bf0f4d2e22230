"""Figures of a training run. Each file has one function from data to figure."""
