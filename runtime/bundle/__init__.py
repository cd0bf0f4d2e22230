"""The bundle format: the manifest, the graph contract, and bundles on disk."""

from dlcv.runtime.bundle.folder import (
    BUILTIN,
    BUILTIN_FOLDER,
    MANIFEST,
    Bundle,
    GoldenCase,
    open_bundle,
    save_bundle,
)

__all__ = [
    "BUILTIN",
    "BUILTIN_FOLDER",
    "MANIFEST",
    "Bundle",
    "GoldenCase",
    "open_bundle",
    "save_bundle",
]
