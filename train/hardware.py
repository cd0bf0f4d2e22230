"""The hardware of a training run: devices, machines, threads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Hardware settings, in Lightning's terms.

    devices: GPUs, or processes on a CPU, per machine. Each takes batches of the recipe's size; together they
        see every image once per epoch.
    nodes: machines; start the command on each.
    strategy: how devices work together: `auto`, `ddp`, `fsdp`, or another of Lightning's names.
    threads: of PyTorch on the CPU; None lets PyTorch decide.
    """

    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    threads: int | None = None
