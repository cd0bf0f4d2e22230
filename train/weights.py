"""Loads weight files into networks: safetensors or PyTorch state dicts, strictly, with clear errors."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dlcv.runtime.errors import RecipeError

if TYPE_CHECKING:
    from dlcv.train.models import ModelSpec

HEAD = "head"  # stands for the model's head in `allow_missing`
_NAMED_AT_MOST = 5
_UNREADABLE = (  # what the readers raise on foreign bytes
    SafetensorError,
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a `.safetensors` file, or a state dict saved by PyTorch, onto the CPU.

    Pickled files are read with `weights_only=True`: tensors only, no code.

    Raises:
        RecipeError: the file is missing, damaged, or holds something else.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as e:
        raise RecipeError(f"no weights file {path}") from e
    except _UNREADABLE as e:
        raise RecipeError(
            f"{path} is not a weights file: give .safetensors, or a .pth that holds tensors and no other "
            "objects, as torch.save(model.state_dict(), path) writes it"
        ) from e
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise RecipeError(f"{path} does not hold a state dict (a mapping of names to tensors)")
    return state


def load_weights(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Copy tensors into a module by name. Every name must be present, with the same shape.

    Counters of BatchNorm (`num_batches_tracked`) may be absent: they do not affect the output.

    Raises:
        RecipeError: missing, unexpected or wrongly shaped tensors, all of them counted.
    """
    own = module.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    reshaped = [
        f"{k} ({_shape(tensor)} instead of {_shape(own[k])})"
        for k, tensor in state.items()
        if k in own and tensor.shape != own[k].shape
    ]
    problems = [
        f"{len(names)} {what}: {_some(names)}"
        for what, names in (
            ("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped)
        )
        if names
    ]  # fmt: skip
    if problems:
        raise RecipeError(f"{source} does not fit {type(module).__name__}; {'; '.join(problems)}")
    module.load_state_dict(dict(state), strict=False)


def load_backbone(
    spec: ModelSpec, path: str | Path, *, allow_missing: tuple[str, ...] = ()
) -> list[str]:
    """Load a weights file into a model's backbone. Return the tensors that keep their values.

    allow_missing: prefixes of tensors that are skipped, whether the file has them or not; `head` stands for the
    model's own head.

    Raises:
        RecipeError: see `read_weights` and `load_weights`; or the model names no head of its own.
    """
    return load_start(spec, read_weights(path), source=str(path), allow_missing=allow_missing)


def load_pretrained(spec: ModelSpec, *, name: str) -> list[str]:
    """Download published weights into a model's backbone, without its head. Return what keeps its values.

    Raises:
        RecipeError: nothing is published for this model, the download failed, or it does not fit.
    """
    if spec.pretrained is None:
        raise RecipeError(f"nobody publishes weights of {name}; set pretrained to false")
    return load_without_head(spec, spec.pretrained(), source=f"the published weights of {name}")


def load_without_head(spec: ModelSpec, state: Mapping[str, Tensor], *, source: str) -> list[str]:
    """Load tensors into a model's backbone, except its head's. Return the tensors that keep their values.

    Raises:
        RecipeError: see `load_weights`.
    """
    return load_start(spec, state, source=source, allow_missing=(HEAD,) if spec.head else ())


def load_start(
    spec: ModelSpec, state: Mapping[str, Tensor], *, source: str, allow_missing: tuple[str, ...]
) -> list[str]:
    """Load tensors into a model's backbone, as `load_backbone` does from a file."""
    left_out = tuple(p for p in allow_missing if p != HEAD)
    if HEAD in allow_missing:
        if not spec.head:
            raise RecipeError(
                "allow_missing head: the backbone of this model has no head; leave it out"
            )
        left_out += spec.head
    # An empty prefix tuple matches no name.
    renamed = {
        name.removeprefix(spec.weights_prefix): tensor
        for name, tensor in state.items()
        if not name.startswith(spec.unused_weights)
    }
    own = spec.backbone.state_dict()
    kept = {k: v for k, v in renamed.items() if not k.startswith(left_out)}
    staying = [k for k in own if k.startswith(left_out)]
    load_weights(spec.backbone, kept | {k: own[k] for k in staying}, source=source)
    return staying


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
