"""The HTTP application: an ASGI app over running models. `server.py` runs it; so can any other ASGI server."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from dlcv.runtime.errors import DlcvError
from dlcv.runtime.results.draw import palette
from dlcv.runtime.serving.edge import App, Edge, json_response, on_bug, on_dlcv_error, on_http_error
from dlcv.runtime.serving.metrics import CONTENT_TYPE
from dlcv.runtime.serving.openapi import description
from dlcv.runtime.serving.predict import Predict
from dlcv.runtime.serving.prototype_sets import PrototypeSets
from dlcv.runtime.serving.rest import RestProtocol
from dlcv.runtime.serving.served import ServedModel
from dlcv.runtime.serving.state import Serving

_PAGE = Path(__file__).parent / "page"
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def app_of(serving: Serving) -> App:
    """Return the application of a server's models."""
    pages = _Pages(serving)
    routes = [
        *RestProtocol(serving).routes(),
        *Predict(serving).routes(),
        *PrototypeSets(serving).routes(),
        *pages.routes(),
    ]
    inner = Starlette(
        routes=routes,
        exception_handlers={
            DlcvError: on_dlcv_error,
            HTTPException: on_http_error,
            Exception: on_bug,
        },
    )
    inner.router.redirect_slashes = False
    return Edge(inner, serving)


@final
class _Pages:
    """What is looked at: the page, the models, the metrics, the description."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def routes(self) -> list[Route]:
        return [
            Route("/", self._page),
            Route("/page/{file}", self._page),
            Route("/models", self._models),
            Route("/metrics", self._metrics),
            Route("/openapi.json", self._openapi),
        ]

    async def _page(self, request: Request) -> Response:
        name = request.path_params.get("file", "index.html")
        if name not in {path.name for path in _PAGE.iterdir()}:
            raise HTTPException(404)
        return FileResponse(_PAGE / name, headers=_PAGE_HEADERS)

    async def _models(self, request: Request) -> Response:
        return json_response({"models": [model_description(m) for m in self._serving.models]})

    async def _metrics(self, request: Request) -> Response:
        return Response(self._serving.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def _openapi(self, request: Request) -> Response:
        return json_response(description(self._serving))


def model_description(model: ServedModel) -> dict[str, Any]:
    """Return what a program or a person wants to know of a model before asking it."""
    predictor = model.predictor
    manifest = predictor.bundle.manifest
    colors = palette(manifest.classes).tolist() if model.task == "segment" else None
    return {
        "name": model.name,
        "task": model.task,
        "engine": str(predictor.engine.info),
        "size": list(predictor.preprocessing.size),
        "classes": [
            {"name": info.name, "color": colors[number] if colors else info.color}
            for number, info in enumerate(manifest.classes)
        ],
        "threshold": manifest.threshold,
        "outputs": [spec.name for spec in predictor.engine.outputs],
        "prototypes": sorted(model.sets),
    }
