"""The rows of docs/systems.md: a report's systems and the recipes that reproduce them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import yaml

from dlcv.runtime.bundle.schema import Model
from dlcv.runtime.errors import InputError


class Row(Model, frozen=True, kw_only=True):
    """One system.

    reported: the report's figures, as text; iou: by class, for a segmenter. recipes: its settings at full size,
    the first is the row's own. reduced: smaller settings in its place. here: differences from the report.
    shown: how a row is made that is a picture or a table; such a row has no recipes.
    """

    id: str
    system: str
    reported: str
    iou: dict[str, float] = msgspec.field(default_factory=dict)
    recipes: tuple[str, ...] = ()
    reduced: tuple[str, ...] = ()
    here: str = ""
    shown: str = ""

    def __post_init__(self) -> None:
        if bool(self.recipes) == bool(self.shown):
            raise ValueError(f"row {self.id} needs either recipes or shown")


class Report(Model, frozen=True, kw_only=True):
    """One report and its rows."""

    id: str
    title: str
    rows: tuple[Row, ...]


def load_reports(path: Path) -> tuple[Report, ...]:
    """Read the rows of all reports from a YAML file.

    Raises:
        InputError: the file cannot be read, or does not say what rows say.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        return msgspec.convert(data, tuple[Report, ...])
    except (OSError, yaml.YAMLError, msgspec.ValidationError) as e:
        raise InputError(f"{path} has no rows of systems: {' '.join(str(e).split())}") from e
