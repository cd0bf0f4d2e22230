"""Loads weight files into networks: safetensors or PyTorch state dicts, strictly, with clear errors."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dlcv.runtime.errors import RecipeError

if TYPE_CHECKING:
    from dlcv.train.models import ModelSpec

HEAD = "head"  # stands for the model's head in `allow_missing`
_NAMED_AT_MOST = 5
_COUNTER = "num_batches_tracked"  # of BatchNorm; it does not affect the output
_COMPILED = "_orig_mod."  # of torch.compile
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


def read_weights(path: str | Path, *, key: str | None = None) -> dict[str, Tensor]:
    """Read a `.safetensors` file, or a state dict saved by PyTorch, onto the CPU.

    A checkpoint may hold it deeper, beside an optimizer, arguments and counters; see `state_dicts_in`. key: of the one
    wanted, such as "model_ema"; None: there must be one only.

    Raises:
        RecipeError: the file is missing, damaged, holds something else, or several state dicts and no `key`.
    """
    found = state_dicts_in(path)
    if key is not None:
        if key not in found:
            raise RecipeError(f"{path} has no weights {key!r}, only {', '.join(map(repr, found))}")
        return found[key]
    if len(found) > 1:
        raise RecipeError(
            f"{path} holds several sets of weights: {', '.join(found)}; save the one you want alone, as "
            "torch.save(checkpoint[KEY], path)"
        )
    return next(iter(found.values()))


def state_dicts_in(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """Return every state dict in a file by its key, such as `state_dict` or `model_ema`; the file's own is "".

    Pickled files are read by PyTorch's `weights_only` reader, which runs no code. What it does not know, such as the
    arguments of a training script, is passed over.

    Raises:
        RecipeError: the file is missing, damaged, or holds no state dict.
    """
    path = Path(path)
    try:
        whole = load_file(path) if path.suffix == ".safetensors" else _load_inert(path)
    except FileNotFoundError as e:
        raise RecipeError(f"no weights file {path}") from e
    except _UNREADABLE as e:
        raise RecipeError(
            f"{path} is not a weights file: give .safetensors, or a .pth that holds tensors and no other "
            "objects, as torch.save(model.state_dict(), path) writes it"
        ) from e
    if isinstance(whole, _Inert):
        raise RecipeError(
            f"{path} is a whole pickled module, which would run code when it is read; where its code is at hand, save "
            "its weights: torch.save(torch.load(path, weights_only=False).state_dict(), 'weights.pth')"
        )
    found = dict(_state_dicts(whole))
    if not found:
        raise RecipeError(f"{path} does not hold a state dict (a mapping of names to tensors)")
    return found


@dataclass(frozen=True, kw_only=True)
class FittedWeights:
    """Weights for one module. note: what was taken of the file and what was left, in a sentence, or "" for all."""

    state: dict[str, Tensor]
    note: str


def fitted_weights(
    module: nn.Module, path: str | Path, *, key: str | None = None, unused: tuple[str, ...] = ()
) -> FittedWeights:
    """Find a module's weights in a file as training scripts write them.

    Prefixes that wrappers put before names are taken away: `module.` of DistributedDataParallel, `model.` of
    Lightning, `_orig_mod.` of torch.compile. key: see `read_weights`. unused: prefixes of tensors that the module
    may lack.

    Raises:
        RecipeError: nothing in the file fits, or two sets of weights do and no `key` chooses.
    """
    return _fitted(path, _without_counters(module.state_dict()), key=key, unused=unused)


def _without_counters(names: Iterable[str]) -> set[str]:
    return {name for name in names if not name.endswith(_COUNTER)}


def _fitted(
    path: str | Path, wanted: set[str], *, key: str | None, unused: tuple[str, ...] = ()
) -> FittedWeights:
    """Return the set of weights in a file that holds most of the wanted names, without prefixes."""
    found = {key: read_weights(path, key=key)} if key is not None else state_dicts_in(path)
    fitted = {name: _without_prefix(state, wanted, unused) for name, state in found.items()}
    fitting = [name for name, fit in fitted.items() if wanted <= fit.state.keys()]
    if len(fitting) > 1:
        raise RecipeError(
            f"{path} holds {len(fitting)} sets of weights that fit: {', '.join(fitting)}; "
            f"choose one with --weights-key (in a recipe, weights_key), such as --weights-key {fitting[-1]}"
        )
    name = (
        fitting[0] if fitting else max(fitted, key=lambda n: len(wanted & fitted[n].state.keys()))
    )
    taken = f"took {name!r} of {Path(path).name}" if name else ""
    note = "; ".join(part for part in (taken, fitted[name].note) if part)
    return FittedWeights(state=fitted[name].state, note=note)


class _Inert(dict[Any, Any]):
    """Stands for an object of any class in a pickle; none of its code runs."""

    def __init__(self, *_: object) -> None:
        super().__init__()

    def __new__(cls, *_: object) -> Self:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        self.state = state


def _load_inert(path: Path) -> Any:
    """Read a pickle with PyTorch's `weights_only` reader; classes that it does not know are inert."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        stands_in: list[Any] = [(_Inert, name) for name in names]
        with torch.serialization.safe_globals(stands_in):
            return torch.load(path, map_location="cpu", weights_only=True)


def _state_dicts(value: Any, key: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the state dicts in nested mappings, with their keys."""
    if not isinstance(value, Mapping) or isinstance(value, _Inert):
        return
    if value and all(isinstance(k, str) for k in value):
        tensors = {name: v for name, v in value.items() if isinstance(v, Tensor)}
        if len(tensors) == len(value):
            yield key, tensors
            return
        for name, inner in value.items():
            yield from _state_dicts(inner, f"{key}.{name}" if key else name)


def _without_prefix(
    state: Mapping[str, Tensor], wanted: set[str], unused: tuple[str, ...]
) -> FittedWeights:
    """Return the tensors under the prefix that makes most names wanted ones, without the prefix."""
    plain = {name.replace(_COMPILED, ""): tensor for name, tensor in state.items()}
    prefixes = {""} | {
        name.removesuffix(end) for end in wanted for name in plain if name.endswith(f".{end}")
    }
    prefix = max(sorted(prefixes), key=lambda p: sum(f"{p}{name}" in plain for name in wanted))
    inside = {n.removeprefix(prefix): t for n, t in plain.items() if n.startswith(prefix)}
    left = [name for name in plain if not name.startswith(prefix)]
    if unused:
        inside = {name: tensor for name, tensor in inside.items() if not name.startswith(unused)}
    stripped = [
        p for p, was in ((_COMPILED, plain.keys() != state.keys()), (prefix, prefix)) if was
    ]
    parts = [f"stripped {' and '.join(map(repr, stripped))}"] if stripped else []
    parts += [f"left {len(left)} other tensors: {_some(left)}"] if left else []
    return FittedWeights(state=inside, note="; ".join(parts))


def load_weights(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Copy tensors into a module by name. Every name must be present, with the same shape.

    Counters of BatchNorm (`num_batches_tracked`) may be absent: they do not affect the output.

    Raises:
        RecipeError: missing, unexpected or wrongly shaped tensors, all of them counted.
    """
    own = module.state_dict()
    missing = [k for k in own if k not in state and not k.endswith(_COUNTER)]
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
    spec: ModelSpec,
    path: str | Path,
    *,
    allow_missing: tuple[str, ...] = (),
    key: str | None = None,
    on_note: Callable[[str], object] = lambda _: None,
) -> list[str]:
    """Load a weights file into a model's backbone. Return the tensors that keep their values.

    The file is read as `fitted_weights` reads it: state dicts inside checkpoints, and under prefixes. Of a model with
    `network_head`, a file of the whole network is loaded whole. allow_missing: prefixes of tensors that are skipped,
    whether the file has them or not; `head` stands for the model's own head. on_note: told what was taken.

    Raises:
        RecipeError: see `fitted_weights` and `load_weights`; or the model names no head of its own.
    """
    if spec.network_head:
        whole = replace(spec, backbone=spec.network, head=spec.network_head, network_head=())
        fitted = _fitted(path, _wanted(whole, allow_missing), key=key)
        if _wanted(whole, allow_missing) <= fitted.state.keys():
            spec = whole
        else:
            allow_missing = tuple(prefix for prefix in allow_missing if prefix != HEAD)
    fitted = _fitted(path, _wanted(spec, allow_missing), key=key)
    if fitted.note:
        on_note(fitted.note)
    return load_start(spec, fitted.state, source=str(path), allow_missing=allow_missing)


def _wanted(spec: ModelSpec, allow_missing: tuple[str, ...]) -> set[str]:
    """Return the names that a weights file for a model's backbone must have."""
    left_out = _left_out(spec, allow_missing)
    own = _without_counters(spec.backbone.state_dict())
    return {f"{spec.weights_prefix}{name}" for name in own if not name.startswith(left_out)}


def _left_out(spec: ModelSpec, allow_missing: tuple[str, ...]) -> tuple[str, ...]:
    """Return prefixes of tensors that may be missing, with those of the head in place of `head`."""
    if HEAD in allow_missing and not spec.head:
        raise RecipeError(
            "allow_missing head: the backbone of this model has no head; leave it out"
        )
    named = tuple(prefix for prefix in allow_missing if prefix != HEAD)
    return named + (spec.head if HEAD in allow_missing else ())


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
    left_out = _left_out(spec, allow_missing)
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
