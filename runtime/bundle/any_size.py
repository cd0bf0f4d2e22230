"""The tensors of a graph that resizes by itself: one photo of any size goes in, as it was decoded and oriented.

`dlcv-export any-size` makes it; docs/any-size.md says what it is for.
"""

from __future__ import annotations

from dlcv.runtime.bundle.schema import Dimension, Graph, TensorSpec

LARGEST_PHOTO = (4096, 4096)
"""(height, width) that engines which are compiled for shapes expect at most, where nothing else is said."""


def any_size_tensors(graph: Graph) -> Graph:
    """Return a graph's tensors as its any-size file has them, without variants.

    Its input is uint8 (1, "height", "width", channels). The batch of its outputs is 1, and what was "height" and "width" of
    the network's input is "input_height" and "input_width" now.
    """
    image = graph.inputs[0]
    photo = TensorSpec(
        name=image.name, dtype=image.dtype, shape=(1, "height", "width", image.shape[3])
    )
    outputs = tuple(
        TensorSpec(name=spec.name, dtype=spec.dtype, shape=tuple(map(_dimension, spec.shape)))
        for spec in graph.outputs
    )
    return Graph(inputs=(photo,), outputs=outputs, variants={})


_OF_ONE_PHOTO: dict[Dimension, Dimension] = {
    "batch": 1,
    "height": "input_height",
    "width": "input_width",
}


def _dimension(size: Dimension) -> Dimension:
    return _OF_ONE_PHOTO.get(size, size)
