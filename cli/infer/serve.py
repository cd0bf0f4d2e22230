"""`dlcv-infer serve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlcv.cli.infer import options
from dlcv.cli.infer.task import loading, say

if TYPE_CHECKING:
    from dlcv.runtime.serving.loading import NamedBundle

_GRPC_PORT = 8001


def serve(
    bundles: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[BUNDLE]...",
            help="Bundle folders or built-ins' names, or NAME=BUNDLE; without any, the built-in ones.",
            show_default=False,
        ),
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(help="Serve every bundle in this folder; new and changed ones are taken up."),
    ] = None,
    poll: Annotated[
        float, typer.Option(min=0.05, help="Seconds between two looks at --models.")
    ] = 2.0,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is every one of this machine's.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="For HTTP; 0: any that is free.")
    ] = 8000,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help=f"For gRPC; {_GRPC_PORT} where dlcv[grpc] is installed, 0: no gRPC.",
            show_default=False,
        ),
    ] = None,
    engine: options.EngineName = "auto",
    precision: options.PrecisionName = None,
    engine_option: options.EngineSetting = None,
    batch: options.Batch = None,
    devices: options.Devices = None,
    threads: options.Threads = None,
    outputs: Annotated[
        str | None,
        typer.Option(help="Outputs that are computed, such as mask; all by default."),
    ] = None,
    beams: Annotated[int, typer.Option(min=1, help="Of captioners; 1 is greedy.")] = 1,
    prototypes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SET=MODEL:FILE",
            help="Few-shot classes of a model, as fewshot --save-prototypes wrote; again for more.",
        ),
    ] = None,
    queue: Annotated[
        int, typer.Option(min=1, help="Images of a model under way at most; then 503.")
    ] = 64,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for an answer; then 504.")
    ] = 30.0,
    client_timeout: Annotated[
        float,
        typer.Option(min=0.1, help="Seconds for a client to send its request, or take its answer."),
    ] = 20.0,
    max_body: Annotated[int, typer.Option(min=1, help="MiB of one request; then 413.")] = 64,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Of one image; then 413, before it is decoded.")
    ] = 89_478_485,
    connections: Annotated[int, typer.Option(min=1, help="Open at a time.")] = 512,
    drain: Annotated[
        float, typer.Option(min=0.0, help="Seconds for requests under way, after SIGTERM.")
    ] = 20.0,
    api_key_file: Annotated[
        Path | None, typer.Option(help="Keys, one a line; a request then needs one of them.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    access_log: Annotated[
        bool,
        typer.Option("--access-log/--no-access-log", help="A line of JSON a request, on stdout."),
    ] = True,
) -> None:
    """Serve bundles over HTTP and gRPC.

    The Open Inference Protocol (v2) at /v2, image files at /predict/NAME, a page to try it at /, metrics at /metrics, a
    description at /openapi.json. Ctrl-C or SIGTERM ends it when the requests under way are answered. See docs/serving.md.

    \b
    Examples:
      dlcv-infer serve                                      # the built-in bundles, on this machine only
      curl --data-binary @photo.jpg localhost:8000/predict/imagenet-lite0
      curl --data-binary @photo.jpg 'localhost:8000/predict/voc-deeplab?mask=png' -o mask.png
      dlcv-infer serve pets=bundles/pets-vit --engine openvino --batch 16
      dlcv-infer serve --models /srv/models --host 0.0.0.0 --api-key-file keys.txt
    """
    _require_extra()
    from dlcv.cli.text import words_from_text
    from dlcv.runtime.running.devices import devices_from_text
    from dlcv.runtime.serving.loading import ModelLoader
    from dlcv.runtime.serving.options import MIB, Limits, ServeOptions, keys_from_file
    from dlcv.runtime.serving.server import ServeRequest, tls_files
    from dlcv.runtime.serving.server import serve as run

    limits = Limits(
        queue=queue,
        timeout_s=timeout,
        client_timeout_s=client_timeout,
        body_bytes=max_body * MIB,
        all_bodies_bytes=max(512, 2 * max_body) * MIB,
        pixels=max_pixels,
        connections=connections,
    )
    with loading(engine_option, threads=threads, batch=batch) as engine_options:
        run(
            ServeRequest(
                bundles=_bundles(bundles, folder=models),
                loader=ModelLoader(
                    engine=engine,
                    precision=precision,
                    options=engine_options,
                    outputs=words_from_text(outputs) or (),
                    beams=beams,
                    devices=None if devices is None else devices_from_text(devices),
                    limits=limits,
                ),
                options=ServeOptions(
                    host=host,
                    port=port,
                    grpc_port=_grpc_port(grpc_port),
                    api_keys=keys_from_file(api_key_file) if api_key_file else frozenset(),
                    tls=tls_files(tls_cert, tls_key),
                    drain_s=drain,
                    access_log=access_log,
                    limits=limits,
                ),
                folder=models,
                poll_s=poll,
                prototypes=[_prototypes(text) for text in prototypes or ()],
            ),
            say=say,
        )


def _require_extra() -> None:
    from dlcv.runtime.errors import InputError
    from dlcv.runtime.machine.system import is_importable

    needed = ("starlette", "uvicorn", "httptools", "python_multipart", "prometheus_client")
    if missing := [name for name in needed if not is_importable(name)]:
        raise InputError(f"serving needs {missing[0]}: pip install 'dlcv[serve]'")


def _bundles(texts: list[str] | None, *, folder: Path | None) -> list[NamedBundle]:
    from dlcv.runtime.bundle.ready import ready_names
    from dlcv.runtime.serving.loading import named_bundles

    if not texts and folder is None:
        texts = list(ready_names())
        say(f"no bundle given: serving those that are ready: {', '.join(texts)}")
    return named_bundles(texts or [])


def _grpc_port(port: int | None) -> int | None:
    """Return the port for gRPC; None for no gRPC."""
    from dlcv.runtime.errors import InputError
    from dlcv.runtime.machine.system import is_importable

    is_installed = is_importable("grpc") and is_importable("tritonclient.grpc")
    if port is None:
        return _GRPC_PORT if is_installed else None
    if port and not is_installed:
        raise InputError("gRPC needs its packages: pip install 'dlcv[grpc]'")
    return port or None


def _prototypes(text: str) -> tuple[str, str, Path]:
    """Return set, model and file of SET=MODEL:FILE."""
    from dlcv.runtime.errors import InputError

    name, equals, rest = text.partition("=")
    model, colon, file = rest.partition(":")
    if not (name and equals and model and colon and file):
        raise InputError(
            f"--prototypes takes SET=MODEL:FILE, such as pets=imagenet-lite0:pets.npz, not {text!r}"
        )
    return name, model, Path(file)
