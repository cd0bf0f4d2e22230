"""One request of the Open Inference Protocol: the same for REST and gRPC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlcv.runtime.bundle.schema import TensorSpec
from dlcv.runtime.caption.engine import vocabulary_of
from dlcv.runtime.caption.result import Caption
from dlcv.runtime.images import DecodedImage, Frame
from dlcv.runtime.running.tasks import Answered
from dlcv.runtime.serving.errors import RequestError
from dlcv.runtime.serving.served import VERSION, ServedModel
from dlcv.runtime.serving.tensors import DATATYPES, Array, datatype_of, wire_shape
from dlcv.runtime.serving.waiting import values

_CAPTION = "caption"
_RAGGED = "words"  # the one axis whose length differs between images


@dataclass(frozen=True, kw_only=True)
class WantedOutput:
    """An output that a request names. is_binary: sent as bytes. classes: the likeliest so many as text, instead of all values."""

    name: str
    is_binary: bool = False
    classes: int = 0


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """A request, decoded. images: uint8 pixels (N, H, W, C), or an object array (N,) or (N, 1) of files.

    outputs: empty: all of them. is_binary: how those are sent.
    """

    images: Array
    outputs: tuple[WantedOutput, ...] = ()
    is_binary: bool = False
    id: str = ""


def require_one_image(names: Sequence[str]) -> None:
    """Check that a request's one input is `image`.

    Raises:
        RequestError: there is another, or none, or it is there twice.
    """
    if list(names) != ["image"]:
        given = ", ".join(repr(name[:40]) for name in [*dict.fromkeys(names)][:4]) or "none"
        twice = " twice" if len(set(names)) < len(names) else ""
        raise RequestError(f"a model takes the one input 'image'; received {given}{twice}")


@dataclass(frozen=True, kw_only=True)
class NamedTensor:
    """An output as it is answered. array: objects are BYTES."""

    name: str
    array: Array
    is_binary: bool

    @property
    def datatype(self) -> str:
        """The protocol's word for the dtype."""
        return datatype_of(self.array)


def submit(
    model: ServedModel, request: InferRequest
) -> Callable[[float], Awaitable[list[NamedTensor]]]:
    """Give a request's images to the model; return a function of seconds that waits for the tensors.

    Raises:
        RequestError: the request does not fit the model.
        QueueFullError: the model has no places for its images now.
    """
    wanted = _wanted(model, request)
    images = _images(request.images)
    futures: Sequence[Future[Answered]] = model.predictor.submit_for_outputs(images, wait=False)

    async def tensors(seconds: float) -> list[NamedTensor]:
        rows = [_outputs(model, answered) for answered in await values(futures, seconds=seconds)]
        return [_tensor(model, want, [row[want.name] for row in rows]) for want in wanted]

    return tensors


def output_specs(model: ServedModel) -> list[dict[str, Any]]:
    """Return name, datatype and shape of every output."""
    specs = [
        {"name": s.name, "datatype": DATATYPES[s.dtype], "shape": wire_shape(s)}
        for s in model.predictor.engine.outputs
    ]
    if model.task == _CAPTION:
        specs.append({"name": _CAPTION, "datatype": "BYTES", "shape": [-1]})
    return specs


def input_spec(model: ServedModel) -> TensorSpec:
    """Return the spec of `image`."""
    return model.predictor.engine.inputs[0]


def metadata(model: ServedModel) -> dict[str, Any]:
    """Return a model's metadata, as both protocols give it."""
    spec = input_spec(model)
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": f"dlcv_{model.predictor.engine.info.name}",
        "inputs": [{"name": spec.name, "datatype": "UINT8", "shape": wire_shape(spec)}],
        "outputs": output_specs(model),
    }


def configuration(model: ServedModel) -> dict[str, Any]:
    """Return what Triton's configuration extension asks for, as far as it has a meaning here."""

    def tensor(spec: Mapping[str, Any]) -> dict[str, Any]:
        kind = "TYPE_STRING" if spec["datatype"] == "BYTES" else f"TYPE_{spec['datatype']}"
        return {"name": spec["name"], "data_type": kind, "dims": spec["shape"][1:] or [1]}

    described = metadata(model)
    return {
        "name": model.name,
        "platform": described["platform"],
        "backend": "dlcv",
        "max_batch_size": model.predictor.queue_size,
        "input": [tensor(spec) for spec in described["inputs"]],
        "output": [tensor(spec) for spec in described["outputs"]],
        "dynamic_batching": {"max_queue_delay_microseconds": 0},
    }


def _wanted(model: ServedModel, request: InferRequest) -> tuple[WantedOutput, ...]:
    names = [spec["name"] for spec in output_specs(model)]
    for want in request.outputs:
        if want.name not in names:
            raise RequestError(
                f"model {model.name!r} has no output {want.name[:40]!r}; it has {', '.join(names)}"
            )
        if want.classes < 0:
            raise RequestError(f"'classification' is a number of classes, not {want.classes}")
        if want.classes and want.name != "probabilities":
            raise RequestError(f"'classification' is for 'probabilities', not for {want.name!r}")
    if request.outputs:
        return request.outputs
    return tuple(WantedOutput(name=name, is_binary=request.is_binary) for name in names)


def _images(array: Array) -> list[bytes | DecodedImage]:
    """Return the images of a tensor: pixels as they are, or files."""
    if array.size == 0:
        raise RequestError(f"'image' holds no image: its shape is {list(array.shape)}")
    if array.dtype == object:
        if array.ndim != 1 and array.shape[1:] != (1,):
            raise RequestError(
                f"'image' of files (BYTES) has shape [N] or [N, 1], not {list(array.shape)}"
            )
        return list(array.ravel())
    if array.ndim != 4:
        raise RequestError(
            f"'image' of pixels (UINT8) has shape [N, height, width, channels], not {list(array.shape)}"
        )
    height, width = array.shape[1:3]
    frame = Frame(size=(height, width), box=(0, 0, width, height))
    return [DecodedImage(pixels=pixels, frame=frame) for pixels in array]


def _outputs(model: ServedModel, answered: Answered) -> Mapping[str, Array]:
    if model.task != _CAPTION:
        return answered.outputs
    result = model.predictor.result_of(answered)
    assert isinstance(result, Caption)
    return {**answered.outputs, _CAPTION: np.array(result.text, object)}


def _tensor(model: ServedModel, want: WantedOutput, rows: list[Array]) -> NamedTensor:
    if len({row.shape for row in rows}) > 1:
        rows = _padded(model, want.name, rows)
    array = np.stack(rows)
    if want.classes:
        classes = model.predictor.bundle.manifest.classes
        array = _classified(array, [info.name for info in classes], count=want.classes)
    return NamedTensor(name=want.name, array=array, is_binary=want.is_binary)


def _padded(model: ServedModel, name: str, rows: list[Array]) -> list[Array]:
    """Fill captions up to the longest one's words.

    Raises:
        RequestError: it is not words that differ.
    """
    spec = next(spec for spec in model.predictor.engine.outputs if spec.name == name)
    if _RAGGED not in spec.shape:
        shapes = ", ".join(str(list(row.shape)) for row in rows[:3])
        raise RequestError(
            f"the images have different sizes, and so has {name!r} ({shapes}); send them in requests of their own"
        )
    longest = max(len(row) for row in rows)
    fill = vocabulary_of(model.predictor.bundle).pad if name == "tokens" else 0
    return [
        np.pad(row, [(0, longest - len(row)), *[(0, 0)] * (row.ndim - 1)], constant_values=fill)
        for row in rows
    ]


def _classified(probabilities: Array, names: Sequence[str], *, count: int) -> Array:
    """Return the classification extension's texts, object (N, count): `value:index:label`, likeliest first."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    texts = [
        [f"{probabilities[row, index]:f}:{index}:{names[index]}".encode() for index in indices]
        for row, indices in enumerate(order)
    ]
    return np.array(texts, object)
