"""The bundle format: manifest, graph contract, and bundle folders."""

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
