"""The edge of every command: which there are, exit codes, and errors as one line instead of a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from keyword import iskeyword
from typing import Any, cast

import typer
from typer.core import TyperGroup
from typer.main import get_command

EXIT_FAILED = 1
EXIT_SOME_REFUSED = 3
EXIT_INTERRUPTED = 130


class _Commands(Mapping[str, Any]):
    """Commands by name, each imported and built when it is asked for: all of them would take longer than one runs.

    A command is the function of its name in the module of its name; `import` is `import_` in both, and `any-size` `any_size`.
    """

    def __init__(self, package: str, names: Sequence[str]) -> None:
        self._package = package
        self._names = names
        self._built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._built:
            self._built[name] = self._build(name)
        return self._built[name]

    def _build(self, name: str) -> Any:
        word = f"{name}_" if iskeyword(name) else name.replace("-", "_")
        function = getattr(import_module(f"{self._package}.{word}"), word)
        alone = typer.Typer(
            add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
        )
        alone.command(name)(function)
        return get_command(alone)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def new_app(
    name: str, help: str, *, epilog: str, package: str, commands: Sequence[str]
) -> typer.Typer:
    """Return a command-line app with the settings that all of ours share.

    package: in which each of the commands has its module.
    """

    class Group(TyperGroup):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            self.commands = cast("dict[str, Any]", _Commands(package, commands))

    app = typer.Typer(
        name=name,
        cls=Group,
        help=help,
        epilog=epilog,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )

    @app.callback()
    def prepare() -> None:
        """Run before every command."""
        from dlcv.cli.quiet import quiet_decoders

        quiet_decoders()

    return app


def run_app(app: typer.Typer, *, name: str) -> None:
    """Run a command-line app: a `DlcvError` becomes one line on stderr and exit code 1.

    Anything else is a bug of ours and keeps its traceback.
    """
    try:
        app(prog_name=name)
    except Exception as e:  # the edge; `--help` must not wait for numpy
        from dlcv.runtime.errors import DlcvError

        if not isinstance(e, DlcvError):
            raise
        print(f"{name}: {e}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
