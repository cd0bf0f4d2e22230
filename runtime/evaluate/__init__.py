"""Labelled images and the scores of a bundle on them."""
