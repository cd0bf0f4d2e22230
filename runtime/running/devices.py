"""From what was asked for to loaded engines: one, or on several GPUs one each, which share a running model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from dlcv.runtime.bundle.schema import Precision
from dlcv.runtime.engines import Choice, Engine, choose, engine_entry
from dlcv.runtime.engines.base import EngineOptions
from dlcv.runtime.engines.first_use_gpu import with_gpu_batch
from dlcv.runtime.errors import EngineError, EngineUnavailableError, InputError
from dlcv.runtime.running.tasks import LoadRequest, parts_of_task

_SETTING = "device"  # of every engine for GPUs


def devices_from_text(text: str) -> tuple[int, ...]:
    """Return the numbers of GPUs from text such as "0,1".

    Raises:
        InputError: the text is something else, or names one twice.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise InputError(f"devices are numbers of GPUs, such as 0,1, not {text!r}")
    return _each_once([int(word) for word in words])


def options_and_devices(
    options: EngineOptions, devices: Sequence[int] | None
) -> tuple[EngineOptions, tuple[int, ...]]:
    """Return options without a device, and the numbers of the devices; none where the engine's own setting names at most one.

    devices: what the caller gave; None: what the setting `device` names, such as "0,1".

    Raises:
        InputError: both are given, or the numbers do not do.
    """
    setting = options.settings.get(_SETTING, "")
    if devices is None:
        if "," not in setting:
            return options, ()
        numbers = devices_from_text(setting)
    elif setting:
        raise InputError("devices and the engine's setting device say the same; give one of them")
    else:
        numbers = _each_once(devices)
    others = {name: value for name, value in options.settings.items() if name != _SETTING}
    return replace(options, settings=others), numbers


def on_first_device(choice: Choice, devices: Sequence[int]) -> Choice:
    """Return a choice that runs on the first of the devices; where none are named, the choice as it is.

    Raises:
        InputError: its engine runs on the CPU.
    """
    if not devices:
        return choice
    if not engine_entry(choice.engine).needs_gpu:
        raise InputError(
            f"engine {choice.engine!r} runs on the CPU, and devices are numbers of GPUs; leave them out, or name an engine for GPUs"
        )
    return on_device(choice, devices[0])


def on_device(choice: Choice, number: int) -> Choice:
    """Return a choice that runs on the device of a number."""
    settings = {**choice.options.settings, _SETTING: str(number)}
    return replace(choice, options=replace(choice.options, settings=settings))


def engines_on_devices(
    request: LoadRequest, devices: Sequence[int], *, load: Callable[[LoadRequest], Engine]
) -> list[Engine]:
    """Load an engine on each device, or one where no devices are named. Raises as `load`; then none is left open."""
    if not devices:
        return [load(request)]
    with ExitStack() as stack:
        engines = [
            stack.enter_context(load(replace(request, choice=on_device(request.choice, number))))
            for number in devices
        ]
        stack.pop_all()  # they are the caller's
    return engines


def started_engines(
    asked: LoadRequest, devices: Sequence[int], *, precision: Precision | None
) -> tuple[Choice, list[Engine]]:
    """Load the engine that was asked for, on each device. Of `auto`, an engine for GPUs that does not start is passed over.

    asked: its choice's engine may be `auto`; its precision does not count. Returns what was chosen, and the engines.
    """
    bundle, name, options = asked.bundle, asked.choice.engine, asked.choice.options
    parts = parts_of_task(bundle.manifest.task)
    passed_over: list[str] = []
    while True:
        choice = choose(
            bundle,
            name,
            precision=precision,
            options=options,
            outputs=asked.outputs,
            without=passed_over,
        )
        choice = on_first_device(choice, devices)
        if parts.is_one_graph and asked.largest is not None:
            choice = with_gpu_batch(bundle, choice, outputs=asked.outputs, size=asked.largest)
        try:
            request = replace(asked, choice=choice)
            return choice, engines_on_devices(request, devices, load=parts.engine)
        except (EngineError, EngineUnavailableError) as e:
            if name != "auto" or not engine_entry(choice.engine).needs_gpu:
                raise
            passed_over.append(choice.engine)
            options.on_progress(f"auto: {choice.engine} does not start, trying the next: {e}", None)


def _each_once(devices: Sequence[int]) -> tuple[int, ...]:
    if not devices or len(set(devices)) != len(devices) or min(devices) < 0:
        named = ",".join(map(str, devices)) or "none"
        raise InputError(f"devices are numbers of GPUs, each named once, such as 0,1, not {named}")
    return tuple(devices)
