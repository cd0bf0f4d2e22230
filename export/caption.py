"""The second graph of a captioner: one decoder step, with a key/value cache of fixed size.

The cache has room for every position from the start, and `position` is the next one. A growing cache would
start empty, and engines disagree about tensors without elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from dlcv.export.gate import Run
from dlcv.export.onnx_export import graph_from_module
from dlcv.export.writing import ExportedGraph
from dlcv.runtime.bundle.schema import TensorSpec
from dlcv.train.caption.network import CaptionDecoder

_EXAMPLES = 2  # torch would make a size of 1 a constant
_START = 1  # any token will do
_POSITIONS = (0, 3)
_BATCHES = 3  # number of photos


class DecoderStep(nn.Module):
    """`CaptionDecoder.step` as a forward pass."""

    def __init__(self, decoder: CaptionDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, token: Tensor, position: Tensor, cache: Tensor, memory: Tensor
    ) -> tuple[Tensor, ...]:
        """Return logits, next_cache and attention; see `CaptionDecoder.step`. token, position: int32 (B,)."""
        return self.decoder.step(token.long(), position.long(), cache, memory)


def graph_from_decoder(decoder: CaptionDecoder) -> ExportedGraph:
    """Export one step of a decoder, for any number of captions at once."""
    random = torch.Generator().manual_seed(0)
    layers, _, heads, _, width = decoder.cache_shape
    places = decoder.grid[0] * decoder.grid[1]
    # The same tensor for both would become one input.
    token, position = (torch.full((_EXAMPLES,), n, dtype=torch.int32) for n in (_START, 2))
    shapes: dict[str, tuple[int, ...]] = {
        "cache": decoder.cache_shape,
        "memory": (layers, 2, heads, places, width),
    }
    floats = [torch.randn(_EXAMPLES, *shape, generator=random) for shape in shapes.values()]
    outputs = {
        "logits": (decoder.logits.out_features,),
        "next_cache": decoder.cache_shape,
        "attention": decoder.grid,
    }
    return graph_from_module(
        DecoderStep(decoder).eval(),
        (token, position, *floats),
        inputs=(
            *(
                TensorSpec(name=name, dtype="int32", shape=("batch",))
                for name in ("token", "position")
            ),
            *_specs(shapes),
        ),
        outputs=_specs(outputs),
        dimensions=({0: torch.export.Dim("batch")},) * 4,
    )


@final
@dataclass(frozen=True)
class DecoderGraph:
    """The graph `decoder` of a captioner's bundle; a `FurtherGraph`."""

    decoder: CaptionDecoder
    name: str = "decoder"

    def graph(self, _: Sequence[Run]) -> ExportedGraph:
        """Export it."""
        return graph_from_decoder(self.decoder)

    def runs(self, image_runs: Sequence[Run]) -> list[Run]:
        """Return test cases; see `decoder_runs`."""
        return decoder_runs(self.decoder, image_runs)

    def golden(self, image_runs: Sequence[Run]) -> list[Run]:
        """Return those of the last batch only, because caches are large."""
        return decoder_runs(self.decoder, image_runs[-1:])


def decoder_runs(decoder: CaptionDecoder, image_runs: Sequence[Run]) -> list[Run]:
    """Return decoder steps at two positions of the photos' captions, with the earlier steps in their caches.

    The expected logits come from the whole caption at once, without a cache, so that a wrong cache is detected.
    """
    return [
        _run(decoder, run, position) for run in image_runs[:_BATCHES] for position in _POSITIONS
    ]


def _run(decoder: CaptionDecoder, image_run: Run, position: int) -> Run:
    memory = torch.tensor(image_run.expected["memory"])
    said = torch.full((len(memory), 1), _START)
    cache = torch.zeros(len(memory), *decoder.cache_shape)
    with torch.inference_mode():
        for before in range(position):
            _, cache, _ = decoder.step(
                said[:, -1], torch.full((len(memory),), before), cache, memory
            )
            following = decoder(said, memory)[:, -1].argmax(dim=1, keepdim=True)
            said = torch.cat([said, following], dim=1)
        where = torch.full((len(memory),), position)
        _, next_cache, attention = decoder.step(said[:, -1], where, cache, memory)
        logits = decoder(said, memory)[:, -1]
    feeds = {"token": said[:, -1].int(), "position": where.int(), "cache": cache, "memory": memory}
    expected = {"logits": logits, "next_cache": next_cache, "attention": attention}
    return Run(
        name=f"{image_run.name}, position {position}",
        feeds={name: np.ascontiguousarray(tensor.numpy()) for name, tensor in feeds.items()},
        expected={name: np.ascontiguousarray(tensor.numpy()) for name, tensor in expected.items()},
    )


def _specs(shapes: dict[str, tuple[int, ...]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=name, dtype="float32", shape=("batch", *shape))
        for name, shape in shapes.items()
    )
