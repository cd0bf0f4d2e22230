"""What a plan depends on besides its graph, and whether a plan of a bundle can run here."""

from __future__ import annotations

import platform
from collections.abc import Mapping

import msgspec

from dlcv.runtime.engines.base import EngineModel
from dlcv.runtime.engines.tensorrt.api import (
    Flavour,
    PlanSettings,
    TensorRtRtxSettings,
    TensorRtSettings,
)
from dlcv.runtime.engines.tensorrt.optimization_profile import Profile, profile_from_text
from dlcv.runtime.errors import InputError
from dlcv.runtime.machine.gpu import Gpu

ANY = "any"
_AMPERE_OR_NEWER = "any of compute capability 8.0 or newer"
_RUN_TIME = ("device", "profile", "workspace_mib", "cuda_graphs")


def plan_fields(
    flavour: Flavour,
    version: str,
    *,
    model: EngineModel,
    settings: PlanSettings,
    profile: Profile,
    gpu: Gpu | None,
) -> dict[str, str]:
    """Return everything that a plan depends on besides its graph, as text by name.

    gpu: the GPU it is built on; None is allowed only where plans are portable.
    """
    system = ANY if flavour.portable else f"{platform.system()} {platform.machine()}"
    return {
        "engine": flavour.name,
        "version": version,
        "device": _device(settings, gpu),
        "system": system,
        "precision": model.precision,
        "profile": str(profile),
        "flags": _flags(settings),
        "workspace": f"{settings.workspace_mib} MiB" if settings.workspace_mib else "all",
    }


def misfit(fields: Mapping[str, str], wanted: Mapping[str, str], *, gpu: Gpu | None) -> str | None:
    """Return why a plan made for `fields` cannot be used here, or None if it can.

    Engine, system, precision and flags must be equal. So must the version; with the flag version_compatible, an
    older version of the same major number is accepted. The device must be equal, or one that the plan was made
    for. The profile must cover the wanted one. The workspace matters only to the build.
    """
    for name in ("engine", "system", "precision", "flags"):
        if fields.get(name) != wanted[name]:
            return _different(name, fields, wanted)
    if not _version_fits(fields.get("version", ""), wanted):
        return _different("version", fields, wanted)
    if not _device_fits(fields.get("device", ""), wanted["device"], gpu=gpu):
        return _different("device", fields, wanted)
    try:
        covers = profile_from_text(fields.get("profile", "")).covers(
            profile_from_text(wanted["profile"])
        )
    except InputError:
        covers = False
    return None if covers else _different("profile", fields, wanted)


def _device(settings: PlanSettings, gpu: Gpu | None) -> str:
    if isinstance(settings, TensorRtRtxSettings):
        numbers = compute_capabilities(settings)
        names = ", ".join(f"{n[:-1]}.{n[-1]}" for n in numbers)
        return f"compute capability {names}" if names else ANY
    if isinstance(settings, TensorRtSettings) and settings.hardware_compatible:
        return _AMPERE_OR_NEWER
    if gpu is None:
        return "none"
    return name_of_gpu(gpu)


def name_of_gpu(gpu: Gpu) -> str:
    """Return a GPU's model and compute capability, which plans depend on."""
    major, minor = gpu.compute_capability
    return f"{gpu.name}, compute capability {major}.{minor}"


def compute_capabilities(settings: TensorRtRtxSettings) -> list[str]:
    """Return the compute capabilities that the setting lists, such as "86", in order.

    Raises:
        InputError: it lists something else.
    """
    numbers = [part.strip() for part in settings.compute_capabilities.split(",") if part.strip()]
    for number in numbers:
        if not number.isdecimal() or len(number) < 2:
            raise InputError(
                f"compute_capabilities are numbers such as 86,89 for 8.6 and 8.9, not {number!r}"
            )
    return sorted(set(numbers), key=int)


def _flags(settings: PlanSettings) -> str:
    values = msgspec.structs.asdict(settings)
    kept = {k: v for k, v in values.items() if k not in _RUN_TIME and isinstance(v, bool)}
    return ", ".join(f"{name}={str(value).lower()}" for name, value in sorted(kept.items()))


def _version_fits(version: str, wanted: Mapping[str, str]) -> bool:
    if version == wanted["version"]:
        return True
    if "version_compatible=true" not in wanted["flags"]:
        return False
    made, here = (
        [int(n) for n in v.split(".") if n.isdecimal()] for v in (version, wanted["version"])
    )
    return made[:1] == here[:1] and made <= here


def _device_fits(device: str, wanted: str, *, gpu: Gpu | None) -> bool:
    if device in (wanted, ANY):
        return True
    if gpu is None:
        return False
    if device == _AMPERE_OR_NEWER:
        return gpu.compute_capability >= (8, 0)
    listed = device.removeprefix("compute capability ").split(", ")
    major, minor = gpu.compute_capability
    return device.startswith("compute capability ") and f"{major}.{minor}" in listed


def _different(name: str, fields: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    return f"its {name} is {fields.get(name, 'unset')}, not {wanted[name]}"
