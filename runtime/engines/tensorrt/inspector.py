"""Reads back the precision in which a network or a built engine computes."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from dlcv.runtime.bundle.schema import Precision
from dlcv.runtime.errors import BundleError

_LOWEST_FIRST: tuple[Precision, ...] = ("int8", "fp16", "bf16", "fp32")
_COMPUTE_TYPES = (
    "CONVOLUTION",
    "DECONVOLUTION",
    "MATRIX_MULTIPLY",
    "EINSUM",
    "ATTENTION_INPUT",
)
_COMPUTE_WORDS = re.compile(
    r"conv|gemm|matmul|matrix|correlation|einsum|attention|mha|fullyconnected", re.IGNORECASE
)
_WORDS: dict[str, Precision] = {
    "int8": "int8",
    "half": "fp16",
    "fp16": "fp16",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "float": "fp32",
    "fp32": "fp32",
}
_DATATYPE = re.compile(rf"\b({'|'.join(_WORDS)})\b", re.IGNORECASE)


def shares_of_network(trt: Any, network: Any) -> dict[Precision, float]:
    """Return the share of compute layers (convolutions, matrix products) by precision, before the build.

    The network is strongly typed, so the engine has the same types. A layer computes in INT8 if its input comes
    from a dequantisation, which the builder fuses into it.
    """
    names: dict[Any, Precision] = {
        trt.DataType.HALF: "fp16",
        trt.DataType.BF16: "bf16",
        trt.DataType.FLOAT: "fp32",
    }
    layers = [network.get_layer(number) for number in range(network.num_layers)]
    dequantised = {
        layer.get_output(0).name for layer in layers if layer.type == trt.LayerType.DEQUANTIZE
    }
    found: list[Precision] = []
    for layer in layers:
        if layer.type.name in _COMPUTE_TYPES:
            tensor = layer.get_input(0)
            found.append("int8" if tensor.name in dequantised else names.get(tensor.dtype, "fp32"))
    return _shares(found)


def shares_from_inspector(text: str) -> dict[Precision, float]:
    """Return the share of compute layers by precision from the engine inspector's JSON.

    Compute layers are recognised by type or tactic; their precision is the lowest type among inputs and
    weights. A plan of less than DETAILED verbosity lists only names; then the result is empty, as it is of text that is no
    JSON, which some releases write (https://github.com/NVIDIA/TensorRT/issues/2779).
    """
    found: list[Precision] = []
    for entry in _layers(text):
        if not isinstance(entry, dict):
            continue
        words = (entry.get(key, "") for key in ("LayerType", "ParameterType", "TacticName"))
        if any(_COMPUTE_WORDS.search(str(word)) for word in words):
            kinds = _kinds(entry)
            if kinds:
                found.append(min(kinds, key=_LOWEST_FIRST.index))
    return _shares(found)


def _layers(text: str) -> list[Any]:
    try:
        described = json.loads(text, strict=False)  # line ends within strings
    except ValueError:
        return []
    layers = described.get("Layers") if isinstance(described, dict) else None
    return layers if isinstance(layers, list) else []


def _kinds(entry: Mapping[str, Any]) -> set[Precision]:
    texts = [
        str(described.get(key, ""))
        for part in ("Inputs", "Constants")
        for described in entry.get(part, [])
        for key in ("Format/Datatype", "Datatype")
    ]
    weights = entry.get("Weights")
    if isinstance(weights, dict):
        texts.append(str(weights.get("Type", "")))
    return {_WORDS[word.lower()] for text in texts for word in _DATATYPE.findall(text)}


def realised_precision(
    asked: Precision, shares: Mapping[Precision, float], *, source: str
) -> Precision:
    """Return the precision that runs: the requested one, if any compute layer has it.

    For a graph without compute layers, the requested precision is returned.

    Raises:
        BundleError: a lower precision was asked for, and no compute layer has it.
    """
    if not shares or shares.get(asked):
        return asked
    real = max(shares, key=lambda precision: shares[precision])
    if asked == "fp32":
        return real
    raise BundleError(
        f"{source}: asked for {asked}, but none of its convolutions and matrix products computes in it "
        f"({words_from_shares(shares)}); export that variant again with dlcv-export precision"
    )


def words_from_shares(shares: Mapping[Precision, float]) -> str:
    """Return shares as text, such as "fp16 96 %, fp32 4 %"."""
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items()) or "no compute layers"


def _shares(found: Iterable[Precision]) -> dict[Precision, float]:
    counts = Counter(found)
    return {name: count / counts.total() for name, count in counts.most_common()}
