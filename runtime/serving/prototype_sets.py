"""Few-shot classes of a served model: made of posted images, or of a file that `dlcv-infer fewshot` wrote."""

from __future__ import annotations

import asyncio
from typing import Any, final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dlcv.runtime.fewshot.prototypes import PrototypeClassifier, Prototypes
from dlcv.runtime.serving.body import FormImage, body_of, form_images
from dlcv.runtime.serving.edge import json_response, record_of
from dlcv.runtime.serving.errors import RequestError
from dlcv.runtime.serving.options import Limits
from dlcv.runtime.serving.served import ServedModel, ServedPrototypes
from dlcv.runtime.serving.state import Serving

_MAX_NAME = 80


@final
class PrototypeSets:
    """The routes /prototypes/SET?model=NAME."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def routes(self) -> list[Route]:
        """Return all routes."""
        path = "/prototypes/{set}"
        return [
            Route(path, self._show, methods=["GET"]),
            Route(path, self._put, methods=["PUT"]),
            Route(path, self._delete, methods=["DELETE"]),
        ]

    async def _show(self, request: Request) -> Response:
        name = request.path_params["set"]
        found = self._model(request).prototypes(name)
        return json_response(description(name, found.prototypes))

    async def _put(self, request: Request) -> Response:
        name, model = request.path_params["set"], self._model(request)
        limits = self._serving.options.limits
        require_room(model, name, limits)
        left_out: list[str] = []
        with model.in_use():
            async with body_of(request, self._serving.budget, limits) as body:
                if request.headers.get("content-type", "").startswith("multipart/form-data"):
                    images = await form_images(body, request.headers)
                    prototypes = await asyncio.to_thread(fitted, model, images, left_out)
                else:
                    prototypes = await asyncio.to_thread(Prototypes.load, body)
            await put_prototypes(model, name, prototypes)
        return json_response(description(name, prototypes) | {"left_out": left_out}, status=201)

    async def _delete(self, request: Request) -> Response:
        name, model = request.path_params["set"], self._model(request)
        forgotten = model.prototypes(name)
        del model.sets[name]
        await forgotten.close()
        return Response(status_code=204)

    def _model(self, request: Request) -> ServedModel:
        name = request.query_params.get("model")
        if name is None:
            raise RequestError("say which model: /prototypes/SET?model=NAME")
        model = self._serving.models.get(name)
        record_of(request).model = model.name
        return model


def description(name: str, prototypes: Prototypes) -> dict[str, Any]:
    """Return a set's classes, and how many examples each had."""
    classes = zip(prototypes.names, prototypes.counts, strict=True)
    return {"name": name, "classes": [{"name": n, "examples": count} for n, count in classes]}


def require_room(model: ServedModel, name: str, limits: Limits) -> None:
    """Check that a model can have another set.

    Raises:
        RequestError: the name does not fit, or there are too many sets.
    """
    if not name.isprintable() or len(name) > _MAX_NAME:
        raise RequestError(f"the name of a set is printable and has at most {_MAX_NAME} characters")
    if name not in model.sets and len(model.sets) >= limits.prototype_sets:
        raise RequestError(
            f"model {model.name!r} has {limits.prototype_sets} sets of prototypes, which is all it may have; delete one"
        )


def fitted(model: ServedModel, images: list[FormImage], left_out: list[str]) -> Prototypes:
    """Make prototypes of images, whose fields are the names of their classes. left_out: gets those that cannot be read."""
    support: dict[str, list[bytes]] = {}
    for image in images:
        support.setdefault(image.field, []).append(image.data)
    return Prototypes.fit(model.predictor, support, on_refused=left_out.append)


async def put_prototypes(model: ServedModel, name: str, prototypes: Prototypes) -> None:
    """Let a model classify by prototypes; a set that had the name is replaced.

    Raises:
        InputError: they are of another bundle.
    """
    classifier = await asyncio.to_thread(PrototypeClassifier, model.predictor, prototypes)
    old = model.sets.get(name)
    model.sets[name] = ServedPrototypes(classifier)
    if old is not None:
        await old.close()
