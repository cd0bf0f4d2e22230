"""Puts a bundle's resize into its graph, so that a host only decodes: photos of any size go in as they are."""

from __future__ import annotations

from dlcv.export.any_size.add import AnySizeOptions, add_any_size

__all__ = ["AnySizeOptions", "add_any_size"]
