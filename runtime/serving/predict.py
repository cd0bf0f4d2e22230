"""`POST /predict/NAME`: image files in, the lines of `dlcv-infer` or pictures out."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, final

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dlcv.runtime.caption.result import Caption
from dlcv.runtime.errors import ImageError
from dlcv.runtime.images import Refused
from dlcv.runtime.results import Classification, Result, Segmentation, WriteOptions
from dlcv.runtime.results.base import Record
from dlcv.runtime.results.draw import save_png
from dlcv.runtime.results.lines import line_from_record, record_from_result
from dlcv.runtime.serving.body import FormImage, body_of, form_images
from dlcv.runtime.serving.edge import json_response, record_of
from dlcv.runtime.serving.errors import RequestError
from dlcv.runtime.serving.served import ServedPrototypes
from dlcv.runtime.serving.state import Serving
from dlcv.runtime.serving.waiting import outcomes, while_connected

if TYPE_CHECKING:
    from PIL import Image

INCLUDABLE = ("attention", "confidence", "embedding", "explanation", "mask")
_PICTURES = ("mask", "overlay", "confidence")
_PARAMETERS = ("top", "name", "prototypes", "include", *_PICTURES)
_DECIMALS = 4  # of the values of maps
Answer: TypeAlias = "Result | Refused"


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What a request asks for.

    top: classes in a line. name: of the one image, for its line. prototypes: a set of few-shot classes. picture: of
    `_PICTURES`, in the place of lines. include: arrays in the line, of `INCLUDABLE`.
    """

    top: int = 5
    name: str = ""
    prototypes: str = ""
    picture: str = ""
    include: tuple[str, ...] = ()


def options_from_query(query: QueryParams) -> PredictOptions:
    """Return the options of a query string.

    Raises:
        RequestError: a parameter is unknown, or its value does not fit.
    """
    for key in query:
        if key not in _PARAMETERS:
            raise RequestError(
                f"there is no parameter {key[:40]!r}; there are {', '.join(_PARAMETERS)}"
            )
    top = query.get("top", "5")
    if not (top.isascii() and top.isdecimal()) or not 0 < len(top) < 7 or int(top) < 1:
        raise RequestError(f"'top' is a number of classes, such as 5, not {top[:20]!r}")
    pictures = [key for key in _PICTURES if key in query]
    for key in pictures:
        if query[key] != "png":
            raise RequestError(f"{key!r} can be png, not {query[key][:20]!r}")
    if len(pictures) > 1:
        raise RequestError(f"one picture a request: {' or '.join(pictures)}, not both")
    include = tuple(word for word in query.get("include", "").split(",") if word)
    if unknown := [word for word in include if word not in INCLUDABLE]:
        raise RequestError(f"'include' takes {', '.join(INCLUDABLE)}, not {unknown[0][:40]!r}")
    return PredictOptions(
        top=int(top),
        name=query.get("name", ""),
        prototypes=query.get("prototypes", ""),
        picture="".join(pictures),
        include=include,
    )


@final
class Predict:
    """The route /predict/NAME."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def routes(self) -> list[Route]:
        """Return the route."""
        return [Route("/predict/{name}", self._predict, methods=["POST"])]

    async def _predict(self, request: Request) -> Response:
        model, record = self._serving.models.get(request.path_params["name"]), record_of(request)
        record.model = model.name
        options = options_from_query(request.query_params)
        prototypes = model.prototypes(options.prototypes) if options.prototypes else None
        model.require_room()
        limits = self._serving.options.limits
        with model.in_use(), prototypes.in_use() if prototypes else nullcontext():
            async with body_of(request, self._serving.budget, limits) as body:
                images = await images_from_body(body, request, options)
                if options.picture and len(images) > 1:
                    raise RequestError(
                        f"{options.picture}=png is for one image a request; received {len(images)}"
                    )
                futures = model.predictor.submit_many([i.data for i in images], wait=False)
                async with while_connected(request.receive):
                    answers = await _answers(futures, prototypes, seconds=limits.timeout_s)
                record.images = len(images)
                return await _response(images, answers, options)


async def images_from_body(
    body: bytes, request: Request, options: PredictOptions
) -> list[FormImage]:
    """Return the images of a body: those of a form, or the body itself.

    Raises:
        RequestError: there is none.
    """
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return await form_images(body, request.headers)
    if not body:
        raise RequestError(
            "the body is empty: send an image file, as curl --data-binary @photo.jpg does"
        )
    return [FormImage(field="", name=options.name or f"<{len(body)} bytes>", data=body)]


async def _answers(
    futures: Sequence[Future[Result]], prototypes: ServedPrototypes | None, *, seconds: float
) -> list[Answer]:
    """Return the results; what cannot be read is refused, and the first refusal raised where there is nothing else."""
    found = await outcomes(futures, seconds=seconds)
    errors = [item for item in found if isinstance(item, BaseException)]
    for error in errors:
        if not isinstance(error, ImageError) or len(errors) == len(found):
            raise error
    results = [item for item in found if not isinstance(item, BaseException)]
    if prototypes is not None:
        results = list(await asyncio.to_thread(prototypes.classifier.answers, results))
    rest = iter(results)
    return [
        Refused(source=b"", reason=str(item)) if isinstance(item, BaseException) else next(rest)
        for item in found
    ]


async def _response(
    images: Sequence[FormImage], answers: Sequence[Answer], options: PredictOptions
) -> Response:
    if options.picture:
        picture = picture_of(answers[0], options.picture)
        data = await asyncio.to_thread(lambda: png_bytes(picture()))
        return Response(data, media_type="image/png")
    named = list(zip(images, answers, strict=True))
    if len(answers) == 1 and isinstance(answers[0], Classification) and not options.include:
        return json_response(_record(*named[0], options))  # a thread would take longer
    records = await asyncio.to_thread(lambda: [_record(*pair, options) for pair in named])
    if len(records) == 1:
        return json_response(records[0])
    lines = "".join(map(line_from_record, records))
    return Response(lines.encode(), media_type="application/jsonl")


def picture_of(answer: Answer, kind: str) -> Callable[[], Image.Image]:
    """Return the function that draws a picture of a result.

    Raises:
        RequestError: there is no such picture of it.
    """
    if isinstance(answer, Segmentation) and (
        kind != "confidence" or answer.graph_confidence is not None
    ):
        pictures = {
            "mask": answer.mask_image,
            "overlay": answer.overlay,
            "confidence": answer.confidence_image,
        }
        return pictures[kind]
    if kind == "overlay" and isinstance(answer, (Classification, Caption)):
        return answer.overlay
    raise RequestError(f"of this model's answers there is no {kind}=png")


def png_bytes(image: Image.Image) -> bytes:
    """Return an image as a PNG file."""
    file = io.BytesIO()
    save_png(image, file)
    return file.getvalue()


def _record(image: FormImage, answer: Answer, options: PredictOptions) -> Record:
    if isinstance(answer, Segmentation) and "confidence" not in options.include:
        answer = replace(answer, graph_confidence=None)  # as a line of `dlcv-infer segment`
    record = record_from_result(answer, WriteOptions(top=options.top)) | {"image": image.name}
    if isinstance(answer, Refused) or not options.include:
        return record
    return record | {"box_xyxy": list(answer.frame.box)} | _included(answer, options.include)


def _included(result: Result, names: Collection[str]) -> Record:
    """Return those of the named values that a result has, ready for JSON."""
    match result:
        case Classification():
            arrays = {name: getattr(result, name, None) for name in names}
            return {name: _rounded(array) for name, array in arrays.items() if array is not None}
        case Segmentation():
            found = {"mask": _data_url(result.mask_image())} if "mask" in names else {}
            if "confidence" in names and result.graph_confidence is not None:
                found["confidence"] = _data_url(result.confidence_image())
            return found
        case Caption(attention=attention) if attention is not None and "attention" in names:
            pairs = zip(result.words, attention, strict=True)
            return {"attention": [{"word": w, "values": _rounded(values)} for w, values in pairs]}
        case _:
            return {}


def _rounded(array: Any) -> Any:
    return array.astype("float64").round(_DECIMALS).tolist()


def _data_url(image: Image.Image) -> str:
    return f"data:image/png;base64,{base64.b64encode(png_bytes(image)).decode()}"
