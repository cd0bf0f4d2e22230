"""Networks in the user's own Python file: `py:FILE.py:FUNCTION`."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from dlcv.export.sources.base import ExportSource, SourceOptions
from dlcv.export.sources.module import ModuleFacts, facts_from_options, source_from_module
from dlcv.export.sources.pretrained import origin_of, seeded, take_weights
from dlcv.runtime.errors import InputError


def source_from_python_file(spec: str, options: SourceOptions) -> ExportSource:
    """Build a network by a function, or class, of a Python file, which is run for it.

    spec: FILE.py:FUNCTION. The function takes what `--set` gives, and returns an `nn.Module`.

    Raises:
        InputError: there is no such file or function, it fails, or it returns no module; options that do not fit.
        RecipeError: the weights file does not fit.
    """
    file, colon, name = spec.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise InputError(f"py: takes FILE.py:FUNCTION, such as py:unet.py:UNet, not {spec!r}")
    if options.weights is None and not options.random:
        raise InputError(
            f"py:{spec} needs --weights FILE with its trained weights, or --random for random ones"
        )
    build = _function(Path(file), name)
    with seeded():
        module = _built(build, options.settings, what=f"{name} in {file}")
    module = take_weights(module, options)
    return source_from_module(
        module,
        ModuleFacts(
            name=name,
            description=f"{name} of {Path(file).name}.",
            origin=origin_of(f"py:{Path(file).name}:{name}", options),
            remake=(f"dlcv-export bundle py:{Path(file).name}:{name}{options.command_line}",),
            **facts_from_options(options),
        ),
    )


def _function(path: Path, name: str) -> Callable[..., Any]:
    if not path.is_file():
        raise InputError(f"no Python file {path}")
    spec = importlib.util.spec_from_file_location(f"_dlcv_source_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _importing_from(path.resolve().parent):
        try:
            spec.loader.exec_module(module)
        except Exception as e:  # anything can come from the user's file
            raise InputError(f"{path} fails when it is run: {_words(e)}") from e
    found = getattr(module, name, None)
    if not callable(found):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        there = f"; there are {', '.join(sorted(names))}" if names else ""
        raise InputError(f"{path} has no function or class {name!r}{there}")
    function: Callable[..., Any] = found
    return function


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Let a file import its neighbours, as if it were run by `python FILE`."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _built(build: Callable[..., Any], settings: Mapping[str, str], *, what: str) -> nn.Module:
    try:
        module = build(**{name: value_from_text(text) for name, text in settings.items()})
    except TypeError as e:
        raise InputError(
            f"{what} cannot be called ({_words(e)}); give arguments with --set NAME=VALUE"
        ) from e
    except Exception as e:  # anything can come from the user's function
        raise InputError(f"{what} fails: {_words(e)}") from e
    if not isinstance(module, nn.Module):
        raise InputError(f"{what} returns {type(module).__name__}, not an nn.Module")
    return module


def value_from_text(text: str) -> Any:
    """Return a Python literal such as 3, 0.5, True or (1, 2); anything else is the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
