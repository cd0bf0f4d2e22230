"""Labelled images, and the scores of bundles on them."""
