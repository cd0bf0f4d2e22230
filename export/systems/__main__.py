"""Prints `docs/systems.md` from the rows and records in a folder: `python -m dlcv.export.systems docs > FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

from dlcv.export.systems.page import page

if __name__ == "__main__":
    sys.stdout.write(page(Path(sys.argv[1])))
