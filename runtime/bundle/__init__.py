"""The bundle format: manifest, graph contract, and bundle folders."""

from dlcv.runtime.bundle.folder import (
    MANIFEST,
    Bundle,
    GoldenCase,
    open_bundle,
    save_bundle,
)
from dlcv.runtime.bundle.ready import BUILTIN, BUILTIN_FOLDER

__all__ = [
    "BUILTIN",
    "BUILTIN_FOLDER",
    "MANIFEST",
    "Bundle",
    "GoldenCase",
    "open_bundle",
    "save_bundle",
]
