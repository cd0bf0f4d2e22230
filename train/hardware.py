"""What a run uses of one machine or several."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Lightning's words for it.

    devices: GPUs, or processes on a CPU, of each machine. Each takes batches of the recipe's size, all of them
        together every image once an epoch. nodes: machines; start the command on each.
    strategy: how they work together: `auto`, `ddp`, `fsdp`, or another name that Lightning knows.
    threads: of PyTorch on the CPU; None lets PyTorch decide.
    """

    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    threads: int | None = None
