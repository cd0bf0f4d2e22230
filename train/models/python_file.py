"""Networks in the user's own Python file: `py:FILE.py:FUNCTION`. The file is run to build them.

A checkpoint keeps a copy of the file, and of what it imports from its own folder: see `source_files`.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from dlcv.runtime.errors import InputError, RecipeError
from dlcv.train.models.spec import ModelSpec

_CLASS_ARGUMENTS = ("num_classes", "classes")
_NEVER_ASIDE = sys.stdlib_module_names | {"dlcv", "torch", "numpy"}  # whatever lies in a folder
_IN_A_RECIPE = "with --set NAME=VALUE, in a recipe as model.options"


def python_network(num_classes: int, *, name: str, **options: Any) -> ModelSpec:
    """Build a network by a function, or class, of a Python file.

    name: FILE.py:FUNCTION. The function gets the options, and the number of classes where it takes `num_classes` or
    `classes`. The network takes float32 (B, 3, H, W).

    Raises:
        RecipeError: there is no such file or function, it fails, or it returns no module.
    """
    try:
        file, function_name = file_and_function(name)
        build = load_function(file, function_name)
        arguments = {**_class_argument(build, num_classes), **options}
        network = call_builder(
            build, arguments, what=f"{function_name} in {file}", give=_IN_A_RECIPE
        )
        files = source_files(file)
    except InputError as e:
        raise RecipeError(str(e)) from e.__cause__
    return ModelSpec(
        network=network, backbone=network, head=_head(network, num_classes), files=files
    )


def file_and_function(spec: str) -> tuple[Path, str]:
    """Return the two parts of FILE.py:FUNCTION.

    Raises:
        InputError: it is something else.
    """
    file, colon, name = spec.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise InputError(f"py: takes FILE.py:FUNCTION, such as py:unet.py:UNet, not {spec!r}")
    return Path(file), name


def load_function(path: Path, name: str) -> Callable[..., Any]:
    """Run a Python file and return a function or class of it.

    Raises:
        InputError: there is no such file, it fails, or it has no such function.
    """
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


def call_builder(
    build: Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    what: str,
    give: str = "with --set NAME=VALUE",
) -> nn.Module:
    """Return the module that a function builds. what, give: the function, and how it gets arguments, for messages.

    Raises:
        InputError: it fails, or returns something else.
    """
    try:
        module = build(**arguments)
    except TypeError as e:
        raise InputError(f"{what} cannot be called ({_words(e)}); give arguments {give}") from e
    except Exception as e:  # anything can come from the user's function
        raise InputError(f"{what} fails: {_words(e)}") from e
    if not isinstance(module, nn.Module):
        raise InputError(f"{what} returns {type(module).__name__}, not an nn.Module")
    return module


def source_files(path: Path) -> dict[str, bytes]:
    """Return a Python file and what it imports from its own folder, by path in that folder.

    Of a package in the folder, all Python files.
    """
    folder, found, waiting = path.parent, dict[str, bytes](), [path]
    while waiting:
        file = waiting.pop()
        name = file.relative_to(folder).as_posix()
        if name not in found:
            found[name] = file.read_bytes()
            waiting += _neighbours(found[name], folder)
    return found


def _neighbours(source: bytes, folder: Path) -> list[Path]:
    """Return the files in a folder that a program imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    modules = [folder / f"{name}.py" for name in names]
    packages = [file for name in names for file in (folder / name).rglob("*.py")]
    return [file for file in (*modules, *packages) if file.is_file()]


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Let a file import its neighbours, as if it were run by `python FILE`.

    Modules of the same names that were imported from other folders step aside meanwhile, so that the copies in two
    checkpoints do not mix.
    """
    aside = {
        name: sys.modules.pop(name)
        for name in list(sys.modules)
        if _is_shadowed(name, sys.modules[name], folder)
    }
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.modules.update(aside)


def _is_shadowed(name: str, module: ModuleType, folder: Path) -> bool:
    """Return whether a folder holds a module that Python would find under this name, were another not imported."""
    top = name.partition(".")[0]
    if top in _NEVER_ASIDE:
        return False
    if not ((folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file()):
        return False
    file = getattr(module, "__file__", None)
    return file is not None and not Path(file).is_relative_to(folder)


def _class_argument(build: Callable[..., Any], num_classes: int) -> dict[str, int]:
    """Return the number of classes under the name by which a function takes it, if it does."""
    try:
        taken = inspect.signature(build).parameters
    except (TypeError, ValueError):  # it is not written in Python
        return {}
    named = [name for name in _CLASS_ARGUMENTS if name in taken]
    return {named[0]: num_classes} if named else {}


def _head(network: nn.Module, num_classes: int) -> tuple[str, ...]:
    """Return the prefix of the last layer, if it has an output for each class."""
    layers = [
        (name, layer)
        for name, layer in network.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    ]
    if not layers or not layers[-1][0]:
        return ()
    name, last = layers[-1]
    outputs = last.out_features if isinstance(last, nn.Linear) else last.out_channels
    return (f"{name}.",) if outputs == num_classes else ()


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
