"""`dlcv-infer info`."""

from __future__ import annotations

from typing import Annotated

import typer

from dlcv.cli.infer import options


def info(
    bundle: options.BundlePath,
    json: Annotated[bool, typer.Option("--json", help="Print the whole manifest as JSON.")] = False,
) -> None:
    """Verify a bundle and say what it is.

    Prints task, classes, tensors, sizes, metrics, parity and origin.

    \b
    Examples:
      dlcv-infer info camvid-lraspp
      dlcv-infer info runs/pets-vit-bundle --json | jq .metrics
    """
    from dlcv.runtime.bundle import open_bundle
    from dlcv.runtime.bundle.manifest import json_from_manifest
    from dlcv.runtime.bundle.report import text_from_bundle

    opened = open_bundle(bundle)
    print(
        json_from_manifest(opened.manifest).decode() if json else text_from_bundle(opened), end=""
    )
