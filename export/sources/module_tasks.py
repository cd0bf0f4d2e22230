"""What a module of each task returns, in one visible dict: the shape of its answers, their activation, their classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from dlcv.runtime.bundle.schema import Activation
from dlcv.runtime.errors import InputError

ModuleTask: TypeAlias = Literal["classify", "segment", "embed"]


@dataclass(frozen=True, kw_only=True)
class ModuleKind:
    """What the modules of a task return.

    axes: of their answers; None: without a name. activation: from the one that the user wants, if any, and the number of
    columns or channels, to the one there is. It raises InputError. class_names: of so many columns or channels, where
    nobody names them. is_dense: whether there is an answer for each place of an image.
    """

    axes: tuple[str, ...]
    activation: Callable[[Activation | None, int], Activation]
    class_names: Callable[[int], list[str]]
    is_dense: bool = False


def _of_classifier(wanted: Activation | None, _: int) -> Activation:
    return wanted or "softmax"


def _of_segmenter(wanted: Activation | None, channels: int) -> Activation:
    own: Activation = "sigmoid" if channels == 1 else "softmax"
    return _only(own, wanted, what=f"a segmenter with {channels} channels")


def _of_embedder(wanted: Activation | None, _: int) -> Activation:
    return _only("softmax", wanted, what="an embedder")


def _only(own: Activation, wanted: Activation | None, *, what: str) -> Activation:
    if wanted not in (None, own):
        raise InputError(
            f"{what} is not exported with activation {wanted}; leave it out, it is for classifiers"
        )
    return own


def _numbered(count: int) -> list[str]:
    return [f"class {number}" for number in range(count)]


def _of_pixels(channels: int) -> list[str]:
    return ["background", "foreground"] if channels <= 2 else _numbered(channels)


MODULE_KINDS: dict[ModuleTask, ModuleKind] = {
    "classify": ModuleKind(
        axes=("batch", "classes"), activation=_of_classifier, class_names=_numbered
    ),
    "segment": ModuleKind(
        axes=("batch", "classes", "H", "W"),
        activation=_of_segmenter,
        class_names=_of_pixels,
        is_dense=True,
    ),
    "embed": ModuleKind(axes=("batch", "D"), activation=_of_embedder, class_names=lambda _: []),
}
