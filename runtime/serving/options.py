"""How a server runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dlcv.runtime.errors import InputError
from dlcv.runtime.images import MAX_PIXELS

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """PEM files of a certificate (chain) and its private key."""

    certificate: Path
    key: Path


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a client may ask for.

    queue: images of a model under way at most; what comes on top gets 503. timeout_s: from a request's last byte to its
    answer, then 504. client_timeout_s: for a client to send a request's head, and then its body, and to read
    the answer; a body gets a second more for each 64 KiB. body_bytes: of one request, also when it is decompressed.
    all_bodies_bytes: of all requests that are held at a time. pixels: of one image, decoded. connections: open at a time.
    prototype_sets: of a model.
    """

    queue: int = 64
    timeout_s: float = 30.0
    client_timeout_s: float = 20.0
    body_bytes: int = 64 * MIB
    all_bodies_bytes: int = 512 * MIB
    pixels: int = MAX_PIXELS
    connections: int = 512
    prototype_sets: int = 64


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Where a server listens, and who may use it.

    grpc_port: None: no gRPC. api_keys: a request needs one of them, where there are any. drain_s: how long requests under
    way may take when the server is told to end. access_log: a line of JSON a request, on stdout.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    api_keys: frozenset[str] = frozenset()
    tls: TlsFiles | None = None
    drain_s: float = 20.0
    access_log: bool = True
    limits: Limits = field(default_factory=Limits)


def keys_from_file(path: Path) -> frozenset[str]:
    """Return the API keys in a file, one a line; empty lines and lines that start with # are passed over.

    Raises:
        InputError: the file cannot be read, holds no key, or a key that cannot stand in a header.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"cannot read the API keys in {path}: {e}") from e
    keys = frozenset(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not keys:
        raise InputError(f"{path} holds no API key; write one a line")
    if not all(key.isascii() and key.isprintable() and " " not in key for key in keys):
        raise InputError(f"a key in {path} has other characters than ASCII without spaces")
    return keys
