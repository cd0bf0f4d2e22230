"""The application without dlcv's own server: for another ASGI server, another application, or Ray Serve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from dlcv.runtime.bundle.schema import Precision
from dlcv.runtime.engines.base import EngineOptions
from dlcv.runtime.errors import InputError
from dlcv.runtime.serving.app import app_of
from dlcv.runtime.serving.edge import App
from dlcv.runtime.serving.loading import ModelLoader, named_bundles
from dlcv.runtime.serving.options import Limits, ServeOptions
from dlcv.runtime.serving.served import ServedModel
from dlcv.runtime.serving.state import Serving

if TYPE_CHECKING:
    from ray.serve import Application

_SPARE_REQUESTS = 32  # for health and metrics, beside those that have a place in a queue


class AppSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `asgi_app` and `ray_app` take; as the options of `dlcv-infer serve`.

    bundles: folders, names of ready bundles, or NAME=either. engine_options: the engine's own settings, as text. replicas,
    cpus, gpus: of Ray Serve alone: copies, and what each of them takes of its machine.
    """

    bundles: tuple[str, ...]
    engine: str = "auto"
    precision: Precision | None = None
    engine_options: dict[str, str] = msgspec.field(default_factory=dict)
    batch: int | None = None
    threads: int | None = None
    queue: int = 64
    timeout: float = 30.0
    api_keys: tuple[str, ...] = ()
    replicas: int = 1
    cpus: float = 1.0
    gpus: float = 0.0


def asgi_app(*bundles: str, **settings: Any) -> App:
    """Load bundles and return an ASGI application that serves them; the settings are those of `AppSettings`.

    Any ASGI server runs it, in one process: each process has its own models. It may be mounted in another application.

    Raises:
        DlcvError: a bundle cannot be loaded, or a setting does not fit.
    """
    return _app(settings_from({"bundles": bundles, **settings}))


def ray_app(arguments: Mapping[str, Any]) -> Application:
    """Return an application for Ray Serve: `import_path: dlcv.serving:ray_app`, its `args` those of `AppSettings`.

    Each replica loads the bundles itself, so their folders must be there on each machine; names of ready bundles are.

    Raises:
        InputError: an argument does not fit.
    """
    settings = settings_from(arguments)
    from ray import serve

    def app() -> App:
        return _app(settings)

    deployment: Any = serve.deployment(serve.ingress(app)())
    configured = deployment.options(
        name="dlcv",
        num_replicas=settings.replicas,
        max_ongoing_requests=settings.queue * len(settings.bundles) + _SPARE_REQUESTS,
        ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
    )
    bound: Application = configured.bind()
    return bound


def settings_from(values: Mapping[str, Any]) -> AppSettings:
    """Return settings, checked.

    Raises:
        InputError: one is unknown or does not fit.
    """
    try:
        settings = msgspec.convert(dict(values), AppSettings)
    except msgspec.ValidationError as e:
        raise InputError(f"a setting of the application does not fit: {e}") from e
    if not settings.bundles:
        raise InputError("the application needs a bundle: give bundles, such as imagenet-lite0")
    return settings


def _app(settings: AppSettings) -> App:
    limits = Limits(queue=settings.queue, timeout_s=settings.timeout)
    loader = ModelLoader(
        engine=settings.engine,
        precision=settings.precision,
        options=EngineOptions(
            threads=settings.threads, batch_size=settings.batch, settings=settings.engine_options
        ),
        limits=limits,
    )
    serving = Serving(options=ServeOptions(api_keys=frozenset(settings.api_keys), limits=limits))
    for item in named_bundles(list(settings.bundles)):
        serving.serve(ServedModel(item.name, loader(item.bundle)))
    return app_of(serving)
