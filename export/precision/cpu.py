"""int8 quantisation for CPUs, by NNCF (https://github.com/openvinotoolkit/nncf): activations with zero points, biases corrected.

What differs from NNCF's own choices, and why:

- Weights have 7 bits (`OverflowFix.ENABLE`): on CPUs without VNNI two products are summed in 16 bits, which weights of 8 bits
  overflow, so that answers are wrong. So one graph gives the same answers on old and new CPUs.
- Activations have one scale a tensor and are uint8. NNCF would give those in front of depthwise convolutions a scale a channel, and
  use int8 where values are negative; ONNX Runtime has fast kernels for neither. The change to uint8 moves the zero point by
  128 and changes no value.
- Biases are corrected layer after layer (`fast_bias_correction=False`), each on what the layers before it really give: 2 to 3 times the time,
  and half the largest error of EfficientNet-lite0's embedding. Where NNCF fails at that, by its fast way.
- What is in front of the first convolution or matrix product with weights, and behind the last, stays in fp32: the image's
  normalisation, softmax, class activation maps, rollouts. So do products of two activations, whose factors both have 8 bits.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from dlcv.export.precision.intermediates import Pixels
from dlcv.export.precision.nodes import (
    COMPUTE,
    checked_bytes,
    constants_of,
    drop_unused_constants,
    producers_of,
)
from dlcv.runtime.errors import BundleError, InputError
from dlcv.runtime.machine.system import is_importable

_LARGEST_WEIGHT = 64  # the sum 2 * 255 * 64 fits into 16 bits


def require_nncf() -> None:
    """Check that NNCF is installed.

    Raises:
        InputError: it is not.
    """
    if not is_importable("nncf"):
        raise InputError("int8 for CPUs is made by NNCF; get it with pip install 'dlcv[int8]'")


def cpu_model(
    model: onnx.ModelProto, images: Sequence[Pixels], *, keep: Collection[str] = ()
) -> bytes:
    """Return the graph in int8 for CPUs, except the nodes in `keep`. The same arguments give the same bytes.

    model: from `prepared_model`. images: uint8 (H, W, 3), to calibrate on.

    Raises:
        InputError: NNCF is not installed, or there is nothing to quantise.
        BundleError: NNCF cannot quantise the graph.
    """
    body = _body(model)
    if not body:
        raise InputError("the graph has no convolution or matrix product to quantise")
    ignored = [node.name for node in model.graph.node if node.name not in body or node.name in keep]
    quantised = _quantised(model, images, ignored=ignored)
    _use_uint8(quantised)
    _narrow_weights(quantised)
    drop_unused_constants(quantised)
    return checked_bytes(quantised)


def converted_nodes(model: onnx.ModelProto, data: bytes) -> list[str]:
    """Return the nodes of a graph that read int8 tensors in `data`, which was made of it, in the graph's order."""
    quantised = onnx.load_from_string(data).graph.node
    copies = {name for n in quantised if n.op_type == "DequantizeLinear" for name in n.output}
    reading = {node.name for node in quantised if not copies.isdisjoint(node.input)}
    return [node.name for node in model.graph.node if node.name in reading]


def has_attention(model: onnx.ModelProto) -> bool:
    """Return whether a softmax between two products of activations is in the graph, as attention has it."""
    constants = constants_of(model)
    after_product: set[str] = set()
    after_softmax: set[str] = set()
    for node in model.graph.node:
        inputs = set(node.input)
        if node.op_type == "MatMul" and inputs.isdisjoint(constants):
            if inputs & after_softmax:
                return True
            after_product.update(node.output)
        elif node.op_type == "Softmax" and inputs & after_product:
            after_softmax.update(node.output)
        elif node.op_type not in COMPUTE:
            for tensors in (after_product, after_softmax):
                if inputs & tensors:
                    tensors.update(node.output)
    return False


def _body(model: onnx.ModelProto) -> set[str]:
    """Return the nodes that may be in int8: from the first convolution or matrix product with weights to the last."""
    constants = constants_of(model)
    nodes = list(model.graph.node)
    weighted = {
        n.name
        for n in nodes
        if n.op_type in COMPUTE and n.input[1] in constants and n.input[0] not in constants
    }
    products = {n.name for n in nodes if n.op_type in COMPUTE} - weighted
    after: set[str] = set()  # tensors
    before: set[str] = set()
    found: set[str] = set()
    for node in nodes:
        if node.name in weighted or not after.isdisjoint(node.input):
            after.update(node.output)
            found.add(node.name)
    for node in reversed(nodes):
        if node.name in weighted or not before.isdisjoint(node.output):
            before.update(node.input)
        else:
            found.discard(node.name)
    return found - products


def _quantised(
    model: onnx.ModelProto, images: Sequence[Pixels], *, ignored: list[str]
) -> onnx.ModelProto:
    require_nncf()
    try:
        with _quietly():
            try:
                return _quantised_by_nncf(model, images, ignored=ignored, fast=False)
            except KeyError:  # NNCF 3.4 does not find some nodes of graphs with several ends
                return _quantised_by_nncf(model, images, ignored=ignored, fast=True)
    except Exception as e:  # NNCF raises errors of its own, of onnx, of ONNX Runtime and Python's
        reason = " ".join(f"{type(e).__name__}: {e}".split())
        raise BundleError(
            f"NNCF cannot quantise the graph ({reason}); --for tensorrt needs no NNCF, and runs on CPUs too"
        ) from e


def _quantised_by_nncf(
    model: onnx.ModelProto, images: Sequence[Pixels], *, ignored: list[str], fast: bool
) -> onnx.ModelProto:
    import nncf
    from nncf.quantization.advanced_parameters import QuantizationParameters

    nncf.set_log_level(logging.CRITICAL)
    quantised: onnx.ModelProto = nncf.quantize(
        model,
        nncf.Dataset([{"image": image[None]} for image in images]),
        subset_size=len(images),
        preset=nncf.QuantizationPreset.MIXED,
        fast_bias_correction=fast,
        model_type=nncf.ModelType.TRANSFORMER if has_attention(model) else None,
        ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.ENABLE,
            activations_quantization_params=QuantizationParameters(per_channel=False),
        ),
    )
    return quantised


@contextmanager
def _quietly() -> Iterator[None]:
    """Run NNCF without telemetry, without PyTorch (seconds, and a warning), and without what it writes to stdout.

    An import of a module that is None fails, and NNCF does without it.
    """
    absent = [name for name in ("openvino_telemetry", "torch") if name not in sys.modules]
    usual = logging.getLoggerClass()  # NNCF sets its own, for everybody
    modules: dict[str, Any] = sys.modules
    modules.update(dict.fromkeys(absent))
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.setLoggerClass(usual)
        for name in absent:
            modules.pop(name, None)


def _use_uint8(model: onnx.ModelProto) -> None:
    """Turn int8 activations into uint8, by zero points that are larger by 128. Their values stay the same."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    zeros = {n.input[2] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    for name in zeros:
        zero = numpy_helper.to_array(constants[name])
        if zero.dtype == np.int8:
            moved = (zero.astype(np.int16) + 128).astype(np.uint8)
            constants[name].CopyFrom(numpy_helper.from_array(moved, name))


def _narrow_weights(model: onnx.ModelProto) -> None:
    """Bring int8 weights that are still of 8 bits into -64..64, by scales twice as large.

    NNCF leaves those of grouped convolutions. Depthwise ones may stay: they have no two products to be summed in 16 bits.
    """
    constants, producers = constants_of(model), producers_of(model)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        source = producers.get(node.input[1]) if node.op_type in COMPUTE else None
        if source is None or source.op_type != "DequantizeLinear" or source.input[0] not in tensors:
            continue
        name, scale = source.input[:2]
        weights = constants[name].astype(np.float32)
        is_depthwise = node.op_type == "Conv" and weights.shape[1] == 1
        if is_depthwise or np.abs(weights).max(initial=0) <= _LARGEST_WEIGHT:
            continue
        halved = np.round(weights / 2).astype(np.int8)
        tensors[name].CopyFrom(numpy_helper.from_array(halved, name))
        tensors[scale].CopyFrom(numpy_helper.from_array(constants[scale] * 2, scale))
