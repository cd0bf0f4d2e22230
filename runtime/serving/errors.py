"""What a server answers when it cannot do what was asked: an HTTP status, a gRPC code, a reason for the metrics.

Every error is a `DlcvError`; the sentence of each is the answer's `{"error": ...}`.
"""

from __future__ import annotations

from dlcv.runtime.errors import (
    AnswerError,
    DlcvError,
    EngineError,
    ImageError,
    ImageTooLargeError,
    ModelClosedError,
    QueueFullError,
    UserError,
)


class RequestError(UserError):
    """A request cannot be answered. status: of HTTP. reason: for the metrics."""

    status = 400
    reason = "bad_request"


class UnauthorizedError(RequestError):
    """The request has no key, or another one."""

    status, reason = 401, "unauthorized"


class UnknownError(RequestError):
    """There is no such model, version or set of prototypes."""

    status, reason = 404, "unknown"


class SlowClientError(RequestError):
    """The request did not come in time."""

    status, reason = 408, "slow_client"


class BodyTooLargeError(RequestError):
    """The request has more bytes than the server takes."""

    status, reason = 413, "body_too_large"


class ClientGoneError(RequestError):
    """The client went away before it was answered; nobody reads the answer."""

    status, reason = 499, "client_gone"


class BusyError(RequestError):
    """The server has no room for this request now."""

    status, reason = 503, "busy"


class NotReadyError(RequestError):
    """The server ends, or a model is not loaded yet."""

    status, reason = 503, "not_ready"


class DeadlineError(RequestError):
    """The request was not answered in time."""

    status, reason = 504, "deadline"


_KINDS: tuple[tuple[type[DlcvError], int, str], ...] = (  # the first that fits
    (QueueFullError, 503, "queue_full"),
    (ModelClosedError, 503, "not_ready"),
    (ImageTooLargeError, 413, "image_too_large"),
    (AnswerError, 500, "engine"),
    (ImageError, 400, "bad_image"),
    (UserError, 400, "bad_request"),
    (EngineError, 500, "engine"),
    (DlcvError, 500, "internal"),
)


def status_of(error: DlcvError) -> int:
    """Return the HTTP status of an error."""
    return error.status if isinstance(error, RequestError) else _kind(error)[0]


def reason_of(error: DlcvError) -> str:
    """Return the reason of an error, for the metrics: one word of a fixed list."""
    return error.reason if isinstance(error, RequestError) else _kind(error)[1]


def _kind(error: DlcvError) -> tuple[int, str]:
    return next((status, reason) for kind, status, reason in _KINDS if isinstance(error, kind))
