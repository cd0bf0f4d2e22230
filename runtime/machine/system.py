"""Facts about this machine and its Python environment, read when asked for."""

from __future__ import annotations

import importlib.util
import math
import os
import platform
import re
import sys
from contextlib import suppress
from pathlib import Path

from dlcv.runtime.errors import InputError

_BF16_PRODUCTS = {"avx512_bf16", "amx_bf16"}
_INT8_DOT_PRODUCTS = {"avx512_vnni", "avx_vnni", "amx_int8"}  # as /proc/cpuinfo calls them


def cpu_count() -> int:
    """Return how many CPU cores this process may use, at least 1.

    Respects affinity masks and the quota of a container (cgroup version 2): half a core is 1, two and a half are 3.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, _quota() or sys.maxsize))


def _quota(file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int | None:
    """Return the CPUs that a container may use, rounded up; None where there is no limit."""
    try:
        quota, period = file.read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):  # not Linux, an older kernel, or "max"
        return None


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None.

    Read from the names of the folders that installers write
    (https://packaging.python.org/specifications/recording-installed-packages), because importing `importlib.metadata` takes 15 to
    30 ms, and every command asks.
    """
    name = re.sub(r"[-_.]+", "_", distribution)
    folder = re.compile(rf"{name}-(?P<version>\d[^-]*)(-py[\d.]+)?\.(dist|egg)-info", re.IGNORECASE)
    for path in sys.path:
        with suppress(OSError):  # not a folder, or gone
            for entry in Path(path or ".").iterdir():
                if found := folder.fullmatch(entry.name):
                    return found["version"]
    return None


def is_importable(module: str) -> bool:
    """Return whether a module is installed, without importing it. Of `a.b`, only `a` is imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the parent of a dotted name
        return False


def require_matplotlib() -> None:
    """Check that matplotlib is installed.

    Raises:
        InputError: matplotlib is missing.
    """
    if not is_importable("matplotlib"):
        raise InputError("the plot needs matplotlib; run pip install 'dlcv[plot]'")


def machine_name() -> str:
    """Return operating system, architecture and processor, for reports."""
    return f"{platform.system()} {platform.machine()}, {_processor()}, {cpu_count()} cores"


def has_bf16() -> bool:
    """Return whether this processor multiplies bfloat16 numbers, as /proc/cpuinfo says; False where it is not said."""
    return bool(_BF16_PRODUCTS.intersection(_cpu_fact("flags").split()))


def lacks_vnni() -> bool:
    """Return whether this is an x86 processor without VNNI, where sums of int8 products overflow at 16 bits.

    Where the system does not say what the processor has, False.
    """
    flags = _cpu_fact("flags").split()
    return bool(flags) and not _INT8_DOT_PRODUCTS.intersection(flags)


def _processor() -> str:
    return _cpu_fact("model name") or platform.processor() or "unknown processor"


def _cpu_fact(name: str) -> str:
    """Return a field of the first core in /proc/cpuinfo, or ""."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            values = (line.split(":", 1)[1].strip() for line in file if line.startswith(name))
            return next(values, "")
    except OSError:
        return ""
