"""The configuration of a model in a Triton model repository: `config.pbtxt`, in protobuf's text format.

Written without the protobuf package. The fields are those of Triton's `model_config.proto`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from dlcv.runtime.bundle.schema import TensorSpec
from dlcv.runtime.serving.tensors import DATATYPES

Backend: TypeAlias = Literal["onnxruntime", "tensorrt"]
Device: TypeAlias = Literal["cpu", "gpu"]

CONFIG_FILE = "config.pbtxt"
_FILES_KEY = "dlcv.files"  # the parameter by which dlcv knows a model that it wrote
_FILES = re.compile(
    rf'parameters {{ key: "{re.escape(_FILES_KEY)}" value {{ string_value: "(.*)" }} }}'
)
_BACKENDS: dict[Backend, str] = {
    "onnxruntime": 'backend: "onnxruntime"',
    "tensorrt": 'platform: "tensorrt_plan"\nbackend: "tensorrt"',
}
_KINDS: dict[Device | None, str] = {"cpu": "KIND_CPU", "gpu": "KIND_GPU", None: "KIND_AUTO"}


@dataclass(frozen=True, kw_only=True)
class TritonConfig:
    """What Triton must know about a model.

    max_batch: images in one call at most; 0 if not all tensors begin with the batch, whose shapes are given whole
    then. preferred_batch: the batch that a plan was tuned for; left out where it is larger. device: None lets Triton choose. labels:
    files of class names, by output. parameters: text by name, which a client can ask the server for.
    """

    name: str
    backend: Backend
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int
    preferred_batch: int | None = None
    queue_delay_us: int = 0
    device: Device | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)


def can_batch(specs: tuple[TensorSpec, ...]) -> bool:
    """Return whether Triton can make batches: all tensors have the batch as their first axis."""
    return all(spec.shape[:1] == ("batch",) for spec in specs)


def text_from_config(config: TritonConfig, *, files: frozenset[str]) -> str:
    """Return the text of `config.pbtxt`. files: those that dlcv wrote into the model's folder, by their paths in it."""
    parameters = {**config.parameters, _FILES_KEY: ",".join(sorted(files))}
    lines = [
        "# Written by dlcv-export triton; see docs/triton.md.",
        f"name: {_quoted(config.name)}",
        _BACKENDS[config.backend],
        f"max_batch_size: {config.max_batch}",
        *(f"input {_tensor(spec, config)}" for spec in config.inputs),
        *(f"output {_tensor(spec, config)}" for spec in config.outputs),
        f"instance_group {{ kind: {_KINDS[config.device]} }}",
        *_batching(config),
        *(_parameter(name, text) for name, text in parameters.items()),
    ]
    return "\n".join(lines) + "\n"


def files_of_dlcv(model: Path) -> frozenset[str] | None:
    """Return which files in a model's folder dlcv wrote, by their paths in it; None if the model is not dlcv's."""
    path = model / CONFIG_FILE
    if model.is_symlink() or path.is_symlink() or not path.is_file():
        return None
    found = _FILES.search(path.read_text(encoding="utf-8", errors="replace"))
    return frozenset(found[1].split(",")) if found else None


def _tensor(spec: TensorSpec, config: TritonConfig) -> str:
    shape = spec.shape[1:] if config.max_batch else spec.shape
    numbers = [str(size) if isinstance(size, int) else "-1" for size in shape]
    # Triton wants an axis besides the batch: such a tensor travels as (batch, 1).
    dims = f"dims: [ {', '.join(numbers or ['1'])} ]" + (
        "" if numbers else " reshape { shape: [ ] }"
    )
    label = config.labels.get(spec.name)
    file = f" label_filename: {_quoted(label)}" if label else ""
    return f"{{ name: {_quoted(spec.name)} data_type: TYPE_{DATATYPES[spec.dtype]} {dims}{file} }}"


def _batching(config: TritonConfig) -> list[str]:
    if config.max_batch < 2:
        return []
    usual = config.preferred_batch or 0
    preferred = f"preferred_batch_size: [ {usual} ] " if 1 < usual <= config.max_batch else ""
    delay = f"max_queue_delay_microseconds: {config.queue_delay_us}"
    return [f"dynamic_batching {{ {preferred}{delay} }}"]


def _parameter(name: str, text: str) -> str:
    return f"parameters {{ key: {_quoted(name)} value {{ string_value: {_quoted(text)} }} }}"


def _quoted(text: str) -> str:
    """Return a string of protobuf's text format. All that is not printable ASCII becomes octal escapes of its UTF-8 bytes."""
    return '"' + "".join(map(_escaped, text.encode())) + '"'


def _escaped(byte: int) -> str:
    if byte in b'"\\':
        return "\\" + chr(byte)
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}"
