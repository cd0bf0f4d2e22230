"""The search keeps the worst nodes, as few as pass, and gives up at half of them."""

import pytest

from dlcv.export.precision.search import NodeNoise, search
from dlcv.runtime.errors import ParityError

NODES = [f"n{i}" for i in range(10)]


def rank(_):
    return [NodeNoise(node=name, noise=0.5, added=0.25) for name in NODES]


def searched(needed):
    """Search for a candidate that keeps `needed` nodes; return the kept ones, and all that were tried."""
    tried = []

    def gate(kept):
        tried.append(len(kept))
        if len(kept) < needed:
            raise ParityError(f"{needed} are needed")
        return "report"

    kept, report = search(tuple, gate, rank, progress=lambda _: None)
    assert report == "report"
    return kept, tried


def test_nothing_is_kept_where_all_is_well():
    assert searched(0) == ((), [0])


def test_the_worst_are_kept_in_growing_numbers():
    assert searched(3) == (("n0", "n1", "n2", "n3"), [0, 1, 2, 4])
    assert searched(5) == (tuple(NODES[:5]), [0, 1, 2, 4, 5])


def test_it_gives_up_at_half_and_names_the_worst():
    with pytest.raises(
        ParityError, match=r"(?s)^6 are needed.*worst 5 of 10.*n0 \(50.0% noise, 25"
    ):
        searched(6)
