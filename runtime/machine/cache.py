"""A cache folder for derived data: compiled engines, timings and tunings.

An entry is one file: a line of JSON (the fields of its key and the SHA-256 of the payload), then the payload.
Files are written under a temporary name and renamed, so that readers never see a partial entry. An entry is
used only if its fields and its hash match.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dlcv.runtime.errors import OutputError

_MAX_HEADER_BYTES = 2**16


@dataclass(frozen=True, kw_only=True)
class CacheKey:
    """Identifies a cache entry.

    kind: a folder of the cache, such as "engines". subject: SHA-256 of what the entry was derived from, such as
    a graph. fields: everything else that it depends on, by name: versions, device, precision, shapes, flags.
    """

    kind: str
    subject: str
    fields: Mapping[str, str]

    @property
    def path(self) -> Path:
        """The path of the entry's file."""
        text = json.dumps([self.subject, dict(self.fields)], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return cache_folder() / self.kind / self.subject[:16] / f"{digest[:32]}.bin"


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """The result of a lookup: the bytes, or why there are none (words after "because").

    damaged: a file was found but could not be used, and was deleted.
    """

    data: bytes | None
    reason: str = ""
    damaged: bool = False


def cache_folder() -> Path:
    """Return the cache folder: DLCV_CACHE, or dlcv in the user's cache folder. It may not exist yet."""
    if chosen := os.environ.get("DLCV_CACHE"):
        return Path(chosen).absolute()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "dlcv/Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/dlcv"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dlcv"


def lookup(key: CacheKey) -> Lookup:
    """Return the entry of a key. A damaged entry is deleted and reported as such."""
    try:
        raw = key.path.read_bytes()
    except OSError:
        return Lookup(data=None, reason=_why_missing(key))
    header, _, data = raw.partition(b"\n")
    fault = _fault(key, header, data)
    if fault:
        key.path.unlink(missing_ok=True)
        reason = f"the cached file {key.path} {fault}, and was deleted"
        return Lookup(data=None, reason=reason, damaged=True)
    return Lookup(data=data)


def store(key: CacheKey, data: bytes) -> None:
    """Write an entry atomically, replacing an existing one.

    Raises:
        OutputError: the cache folder cannot be written.
    """
    header = {
        "subject": key.subject,
        "fields": dict(key.fields),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    path = key.path
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with temporary.open("wb") as file:
                file.write(json.dumps(header, sort_keys=True).encode() + b"\n")
                file.write(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as e:
        raise OutputError(
            f"cannot write to the cache {path.parent} ({e.strerror or e}); free some space, or set "
            "DLCV_CACHE to another folder"
        ) from e


@contextmanager
def locked(key: CacheKey) -> Iterator[None]:
    """Hold an inter-process lock on a key, where the system supports it.

    If two processes need the same entry, the second waits and then finds what the first stored. The system
    releases the lock when the process ends.
    """
    path = key.path.with_suffix(".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = path.open("wb")
    except OSError:  # an unwritable cache must not stop the run
        yield
        return
    with file:
        try:
            import fcntl
        except ImportError:  # Windows: both build; the later file wins
            pass
        else:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
        yield


def _fault(key: CacheKey, header: bytes, data: bytes) -> str | None:
    try:
        if len(header) > _MAX_HEADER_BYTES:
            raise ValueError("the first line is too long")
        found = json.loads(header)
        subject, fields, sha256 = found["subject"], found["fields"], found["sha256"]
    except (ValueError, KeyError, TypeError):
        return "is not a cache entry"
    if (subject, fields) != (key.subject, dict(key.fields)):
        return "was made for something else"
    if sha256 != hashlib.sha256(data).hexdigest():
        return "is damaged (its SHA-256 is another)"
    return None


def _why_missing(key: CacheKey) -> str:
    """Return which fields differ in the nearest entry of the same subject."""
    nearest: list[str] | None = None
    for path in sorted(key.path.parent.glob("*.bin")):
        try:
            with path.open("rb") as file:
                fields = json.loads(file.readline(_MAX_HEADER_BYTES))["fields"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        names = sorted(set(fields) | set(key.fields))
        different = [
            f"{name} {fields.get(name, 'unset')}, not {key.fields.get(name, 'unset')}"
            for name in names
            if fields.get(name) != key.fields.get(name)
        ]
        if nearest is None or len(different) < len(nearest):
            nearest = different
    return f"the cached one has {'; '.join(nearest)}" if nearest else "none is cached"
