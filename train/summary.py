"""A table of a network's layers with output shapes and numbers of parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_summary.model_summary import ModelSummary

from dlcv.runtime.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One leaf layer. output: its shape, (1, ...), or "" if it is not a single tensor."""

    name: str
    kind: str
    output: str
    parameters: int


def layer_rows(network: nn.Module, size: tuple[int, int]) -> list[LayerRow]:
    """Run a network on one black image of `size` (height, width) and return its layers in order.

    Raises:
        RecipeError: the network does not take images of this size.
    """
    try:
        summary = ModelSummary(_Probe(network.eval(), size), max_depth=-1)
    except (RuntimeError, AssertionError, ValueError) as e:
        reason = " ".join(str(e).split())
        raise RecipeError(
            f"the network does not take images of {size[0]}x{size[1]} ({reason}); give another --size"
        ) from e
    inner = {name.rpartition(".")[0] for name in summary.layer_names}
    columns = zip(
        summary.layer_names, summary.layer_types, summary.out_sizes, summary.param_nums, strict=True
    )
    return [
        LayerRow(
            name=name.removeprefix("network."), kind=kind, output=_shape(output), parameters=count
        )
        for name, kind, output, count in columns
        if name not in inner
    ]


class _Probe(LightningModule):
    """A LightningModule with an example input, as Lightning's summary requires."""

    def __init__(self, network: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.network = network
        self.example_input_array = torch.zeros(1, 3, *size)

    def forward(self, x: Tensor) -> Any:
        return self.network(x)


def _shape(output: Any) -> str:
    whole = isinstance(output, list) and all(isinstance(side, int) for side in output)
    return f"({', '.join(map(str, output))})" if whole else ""
