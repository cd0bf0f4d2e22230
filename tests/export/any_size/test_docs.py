"""What docs/bundle.md says of the gate is what the gate does."""

import re
from pathlib import Path

from dlcv.export.any_size.gate import TOLERANCES
from dlcv.runtime.measure.parity import Tolerance

PAGE = Path(__file__).resolve().parents[3] / "docs" / "bundle.md"


def test_the_tolerances_of_the_format_are_those_of_the_gate() -> None:
    section = PAGE.read_text().partition("\n## Photos of any size\n")[2].partition("\n## ")[0]
    stated = {}
    for names, *cells in re.findall(
        r"^\| (`.*?) \| ([\d.]*) ?\| ([\d.]*) ?\| ([\d.]*) ?\|$", section, re.MULTILINE
    ):
        difference, cosine, agreement = (float(cell) if cell else None for cell in cells)
        for name in re.findall(r"`(\w+)`", names):
            stated[name] = Tolerance(max_difference=difference, cosine=cosine, agreement=agreement)
    assert stated == TOLERANCES
