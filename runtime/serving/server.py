"""Runs a server: HTTP by uvicorn and gRPC by grpcio on one event loop, until it is told to end."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import uvicorn

from dlcv.runtime.errors import InputError
from dlcv.runtime.fewshot.prototypes import Prototypes
from dlcv.runtime.machine.system import is_importable
from dlcv.runtime.running.predictor import Predictor
from dlcv.runtime.serving.app import app_of
from dlcv.runtime.serving.http_protocol import http_protocol
from dlcv.runtime.serving.lines import LineWriter
from dlcv.runtime.serving.loading import ModelLoader, NamedBundle
from dlcv.runtime.serving.options import ServeOptions, TlsFiles
from dlcv.runtime.serving.prototype_sets import put_prototypes
from dlcv.runtime.serving.served import ServedModel
from dlcv.runtime.serving.state import Serving
from dlcv.runtime.serving.watching import ModelFolder

Say = Callable[[str], object]
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_CLOSE_S = 1.0  # for models whose requests did not end in time
_KEEP_ALIVE_S = 75  # longer than the 60 s of usual proxies, which otherwise meet closed connections
_STOPS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, kw_only=True)
class ServeRequest:
    """What is to be served.

    folder: of bundles that come and go, looked at every `poll_s` seconds. prototypes: set of few-shot classes, model, file.
    """

    bundles: Sequence[NamedBundle]
    loader: ModelLoader
    options: ServeOptions
    folder: Path | None = None
    poll_s: float = 2.0
    prototypes: Sequence[tuple[str, str, Path]] = ()


def serve(request: ServeRequest, *, say: Say) -> None:
    """Load the bundles and serve them until SIGTERM or SIGINT; requests under way are answered first.

    say: told what happens, a line each.

    Raises:
        DlcvError: a bundle cannot be loaded, a port is in use, a file cannot be read.
    """
    with _bound(request.options) as listener, ExitStack() as stack:
        models = [
            (item.name, stack.enter_context(request.loader(item.bundle)))
            for item in request.bundles
        ]
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(request, models, listener, say=say))


async def _serve(
    request: ServeRequest,
    models: Sequence[tuple[str, Predictor]],
    listener: socket.socket,
    *,
    say: Say,
) -> None:
    options = request.options
    serving = Serving(options=options, log=LineWriter(sys.stdout) if options.access_log else None)
    try:
        await _load(request, models, serving, say=say)
        async with _watching(request, serving, say=say), _grpc(serving):
            http = http_server(serving)
            with _stopping(serving, http, say=say):
                gc.collect()
                gc.freeze()  # what is loaded stays; the collector need not look through it again
                _say_where(options, listener, say=say)
                await http.serve(sockets=[listener])
    finally:
        await serving.models.close(seconds=_CLOSE_S)
        if serving.log is not None:
            serving.log.close()


async def _load(
    request: ServeRequest,
    models: Sequence[tuple[str, Predictor]],
    serving: Serving,
    *,
    say: Say,
) -> None:
    """Serve what was loaded, with its few-shot classes."""
    for name, predictor in models:
        serving.serve(ServedModel(name, predictor))
        say(f"serving {name} ({predictor.bundle.manifest.task}) on {predictor.engine.info}")
        if predictor.why:
            say(f"{name}: {predictor.why}")
    for set_name, model, file in request.prototypes:
        await put_prototypes(serving.models.get(model), set_name, Prototypes.load(file))


@final
class _HttpServer(uvicorn.Server):
    """uvicorn without its own signals: it would end the process by them."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def http_server(serving: Serving) -> _HttpServer:
    options, limits = serving.options, serving.options.limits
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what fails is said by `Edge`
    tls: dict[str, Any] = {}
    if options.tls is not None:
        tls = {"ssl_certfile": options.tls.certificate, "ssl_keyfile": options.tls.key}
    config = uvicorn.Config(
        app_of(serving),
        http=http_protocol(
            client_timeout_s=limits.client_timeout_s, connections=limits.connections
        ),
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(options.drain_s)),
        **tls,
    )
    try:
        config.load()
    except OSError as e:
        raise InputError(f"the TLS files cannot be used: {e}") from e
    return _HttpServer(config)


@contextmanager
def _bound(options: ServeOptions) -> Iterator[socket.socket]:
    """Take the port before anything is loaded.

    Raises:
        InputError: it is in use, or no such address is this machine's.
    """
    try:
        family = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family)
    except OSError as e:
        raise InputError(f"--host {options.host!r} is no address of this machine: {e}") from e
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((options.host, options.port))
            listener.listen(1024)  # a second server is refused now, not after it has loaded
        except OSError as e:
            raise InputError(
                f"cannot listen on {options.host}:{options.port} ({e.strerror}); choose another with --port or --host"
            ) from e
        yield listener


@asynccontextmanager
async def _watching(request: ServeRequest, serving: Serving, *, say: Say) -> AsyncIterator[None]:
    """Serve the folder's bundles too, and look after them meanwhile."""
    if request.folder is None:
        yield
        return
    folder = ModelFolder(request.folder, serving, request.loader, say=say)
    await folder.look(at_once=True)
    task = asyncio.create_task(folder.watch(every_s=request.poll_s))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def _grpc(serving: Serving) -> AsyncIterator[None]:
    """Serve gRPC meanwhile, where a port was given; at the end requests under way are answered."""
    options = serving.options
    if options.grpc_port is None:
        yield
        return
    from dlcv.runtime.serving.grpc_protocol import grpc_server

    server = grpc_server(serving)
    await server.start()
    try:
        yield
    finally:
        await server.stop(options.drain_s)


@contextmanager
def _stopping(serving: Serving, http: _HttpServer, *, say: Say) -> Iterator[None]:
    """Let SIGTERM and SIGINT end the server: the first when all is answered, the second at once."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if serving.is_draining:
            http.force_exit = True
            return
        say(f"ending: requests under way are answered, for {serving.options.drain_s:g} s at most")
        serving.is_draining = True
        http.should_exit = True

    for number in _STOPS:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in _STOPS:
            loop.remove_signal_handler(number)


def _say_where(options: ServeOptions, listener: socket.socket, *, say: Say) -> None:
    port = listener.getsockname()[1]
    scheme = "https" if options.tls else "http"
    say(
        f"listening on {scheme}://{options.host}:{port}  (a page to try it: {scheme}://{_shown(options.host)}:{port}/)"
    )
    if options.grpc_port is not None:
        say(f"listening on grpc://{options.host}:{options.grpc_port}")
    if options.host not in _LOOPBACK and not options.api_keys:
        say(
            f"anybody who reaches {options.host}:{port} can use these models: no key is needed; give --api-key-file FILE"
        )


def _shown(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104  # what to open, not what to bind


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if not is_importable("uvloop"):
        return None
    import uvloop

    return uvloop.new_event_loop


def tls_files(certificate: Path | None, key: Path | None) -> TlsFiles | None:
    """Return the TLS files of two options; None where neither is given.

    Raises:
        InputError: one is missing.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise InputError("TLS needs both files: --tls-cert and --tls-key")
    for path in (certificate, key):
        if not path.is_file():
            raise InputError(f"there is no file {path}")
    return TlsFiles(certificate=certificate, key=key)
