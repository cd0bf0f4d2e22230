"""Prints the JSON Schema of manifests: `python -m dlcv.export.schema > FILE`."""

from __future__ import annotations

import json
import sys

from dlcv.runtime.bundle.manifest import json_schema


def schema_text() -> str:
    """Return the contents of `docs/bundle.schema.json`."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
