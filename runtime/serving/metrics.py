"""Metrics for Prometheus. Names, units and labels follow https://prometheus.io/docs/practices/naming/."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from dlcv.runtime.serving.served import ServedModel, ServedModels

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@final
class Metrics:
    """What a server counts. `model` is a name that is served, or empty; never what a client made up."""

    def __init__(self, models: ServedModels) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "dlcv_requests",
            "Requests answered.",
            ("protocol", "model", "code"),
            registry=registry,
        )
        self._request_seconds = Histogram(
            "dlcv_request_duration_seconds",
            "From a request's head to the end of its answer.",
            ("protocol", "model"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._refused = Counter(
            "dlcv_refused_requests",
            "Requests that were not answered, by cause.",
            ("model", "reason"),
            registry=registry,
        )
        self._images = Counter("dlcv_images", "Images run.", ("model",), registry=registry)
        self._batch_images = Histogram(
            "dlcv_batch_images",
            "Images in one call of the engine.",
            ("model",),
            buckets=_IMAGES,
            registry=registry,
        )
        self._batch_seconds = Histogram(
            "dlcv_batch_duration_seconds",
            "One call of the engine.",
            ("model",),
            buckets=_SECONDS,
            registry=registry,
        )
        registry.register(_ModelCollector(models))
        ProcessCollector(registry=registry)

    def count_request(self, protocol: str, model: str, *, code: str, seconds: float) -> None:
        """Count a request that was answered. code: the status of HTTP or the code of gRPC."""
        self._requests.labels(protocol, model, code).inc()
        self._request_seconds.labels(protocol, model).observe(seconds)

    def count_refused(self, model: str, reason: str) -> None:
        """Count a request that was not answered."""
        self._refused.labels(model, reason).inc()

    def observe(self, model: ServedModel) -> None:
        """Count the batches of a model from now on."""
        images = self._images.labels(model.name)
        sizes = self._batch_images.labels(model.name)
        seconds = self._batch_seconds.labels(model.name)

        def on_batch(count: int, duration: float) -> None:
            images.inc(count)
            sizes.observe(count)
            seconds.observe(duration)

        model.predictor.observe(on_batch)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


@final
class _ModelCollector(Collector):
    """Reads the models when somebody asks."""

    def __init__(self, models: ServedModels) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        info = InfoMetricFamily("dlcv_model", "What runs.", labels=["model"])
        ready = GaugeMetricFamily("dlcv_model_ready", "1: it answers.", labels=["model"])
        queue = GaugeMetricFamily("dlcv_queue_images", "Images under way.", labels=["model"])
        limit = GaugeMetricFamily(
            "dlcv_queue_limit_images", "Images under way at most.", labels=["model"]
        )
        for model in self._models:
            predictor, ran = model.predictor, model.predictor.engine.info
            facts = {
                "task": model.task,
                "engine": ran.name,
                "version": ran.version,
                "device": ran.device,
                "precision": ran.precision,
                "sha256": predictor.bundle.sha256,
            }
            info.add_metric([model.name], facts)
            ready.add_metric([model.name], 1)
            queue.add_metric([model.name], predictor.under_way)
            limit.add_metric([model.name], predictor.queue_size)
        yield from (info, ready, queue, limit)
