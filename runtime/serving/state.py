"""What the parts of a server share."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from dlcv.runtime.serving.body import BodyBudget
from dlcv.runtime.serving.errors import NotReadyError, UnauthorizedError
from dlcv.runtime.serving.lines import LineWriter
from dlcv.runtime.serving.metrics import Metrics
from dlcv.runtime.serving.options import ServeOptions
from dlcv.runtime.serving.served import ServedModel, ServedModels


@dataclass(kw_only=True)
class Serving:
    """A server's models, limits and counts. is_draining: it was told to end, and answers what it has. log: None: no access log."""

    options: ServeOptions
    models: ServedModels = field(default_factory=ServedModels)
    log: LineWriter | None = None
    is_draining: bool = False

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.models)
        self.budget = BodyBudget(self.options.limits.all_bodies_bytes)

    @property
    def is_ready(self) -> bool:
        """Whether requests are welcome."""
        return not self.is_draining and len(self.models) > 0

    def serve(self, model: ServedModel) -> None:
        """Serve a model under its name, in the place of one that had it."""
        self.metrics.observe(model)
        self.models.put(model)

    def require_ready(self) -> None:
        """Check that requests are welcome.

        Raises:
            NotReadyError: they are not.
        """
        if not self.is_ready:
            raise NotReadyError("the server ends" if self.is_draining else "no model is loaded")

    def require_key(self, authorization: str, key: str) -> None:
        """Check a request's `authorization` (Bearer) or `x-api-key`, where keys are needed.

        Raises:
            UnauthorizedError: it has none of the keys.
        """
        keys = self.options.api_keys
        if not keys:
            return
        scheme, _, token = authorization.partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else key
        matches = [hmac.compare_digest(given.encode(), known.encode()) for known in keys]
        if not any(matches):
            raise UnauthorizedError(
                "a key is needed: send the header 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
            )
