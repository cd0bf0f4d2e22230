"""Weight files into networks: safetensors or PyTorch state dicts, strictly, with clear refusals."""

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

_NAMED_AT_MOST = 5
_UNREADABLE = (  # what the readers raise on bytes that are not theirs
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
    """Copy tensors into a module by name. Every name must be there, with the same shape.

    Counters of BatchNorm (`num_batches_tracked`) may be absent: they do not change an answer.

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


def load_backbone(spec: ModelSpec, path: str | Path) -> None:
    """Load a weights file into a model's backbone.

    Raises:
        RecipeError: see `read_weights` and `load_weights`.
    """
    state = {
        name.removeprefix(spec.weights_prefix): tensor
        for name, tensor in read_weights(path).items()
        if not name.startswith(spec.unused_weights)
    }
    load_weights(spec.backbone, state, source=str(path))


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
