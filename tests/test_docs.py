"""What the documents say is true: Python blocks run, generated pages are current."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from dlcv.cli.reference import reference
from dlcv.runtime.bundle.contract import TASKS, Tensor, main_graph
from dlcv.runtime.bundle.schema import Precision
from dlcv.runtime.images.samples import SAMPLES_FOLDER
from dlcv.runtime.measure.parity import TOLERANCES, Tolerance

REPOSITORY = Path(__file__).resolve().parents[1]


def test_the_python_blocks_of_the_readme_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(SAMPLES_FOLDER / "street_taxis.jpg", tmp_path / "street.jpg")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})  # noqa: S102  # our own README
    assert blocks
    assert "(478, 928)" in capsys.readouterr().out
    assert (tmp_path / "overlay.png").stat().st_size > 10_000


def test_the_commands_of_the_readme_print_what_it_shows() -> None:
    blocks = re.findall(r"```console\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        command, *shown = block.strip().splitlines()
        program, *arguments = shlex.split(command.removeprefix("$ "))
        module = program.removeprefix("dlcv-")
        entry = f"from dlcv.cli.{module}.app import main; main()"
        ran = subprocess.run(
            [sys.executable, "-c", entry, *arguments],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        for line, printed in zip(shown, ran.stdout.splitlines(), strict=True):
            expected, received = json.loads(line), json.loads(printed)
            assert expected["label"] == received["label"]
            assert expected["probability"] == pytest.approx(received["probability"], abs=1e-3)


def test_every_link_and_picture_of_the_documents_exists() -> None:
    for page in (
        REPOSITORY / "README.md",
        REPOSITORY / "CONTRIBUTING.md",
        *REPOSITORY.glob("docs/*.md"),
    ):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} points to {target}"


def test_the_command_reference_is_current() -> None:
    written = (REPOSITORY / "docs" / "cli.md").read_text()
    assert written == reference(), "docs/cli.md is stale: run make docs"


def section_of_the_format(title: str) -> str:
    """Return a section of docs/bundle.md, with its sub-sections."""
    page = (REPOSITORY / "docs" / "bundle.md").read_text()
    return page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def tables(text: str) -> Iterator[list[list[str]]]:
    """Yield tables as rows of cells, the head first."""
    for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        head, _, *rows = table.splitlines()
        yield [[cell.strip() for cell in row.strip("|").split("|")] for row in (head, *rows)]


def tensors_of_the_format() -> dict[tuple[str, str, str], list[str]]:
    """Return (dtype, shape, note) of the tensors in the graph tables, by (graph, "input" or "output", name)."""
    tensors: dict[tuple[str, str, str], list[str]] = {}
    main_graphs = {f"`{task}`": f"{task} {main_graph(task)}" for task in TASKS}
    graph = ""
    for head, *rows in tables(section_of_the_format("Graphs")):
        for row in rows:
            if head[0] == "task":
                graph = main_graphs[row[0]] if row[0] else graph
                tensors[graph, "output", row[1].strip("`")] = row[2:]
            else:
                kind, name = row[0].split()
                tensors[head[0].split()[-1].strip("`"), kind, name.strip("`")] = row[1:]
    return tensors


def tensors_of_the_contract() -> dict[tuple[str, str, str], Tensor]:
    """Return the same of the contract, without the image, which is described in prose."""
    return {
        (f"{task} {graph}" if graph == main_graph(task) else graph, kind, name): tensor
        for task, of in TASKS.items()
        for graph, contract in of.graphs.items()
        for kind, tensors in (("input", contract.inputs), ("output", contract.outputs))
        for name, tensor in tensors.items()
        if name != "image"
    }


def test_the_graphs_of_the_bundle_format_are_those_of_the_contract() -> None:
    described, contracted = tensors_of_the_format(), tensors_of_the_contract()
    assert described.keys() == contracted.keys()
    for key, (dtype, shape, note) in described.items():
        assert dtype == contracted[key].dtype, key
        assert shape.startswith("as ") or shape.count(",") + 1 == len(contracted[key].axes), key
        if key[1] == "output":
            assert note.startswith("required;" if contracted[key].required else "optional;"), key
    for graph in {graph for task in TASKS.values() for graph in task.graphs}:
        assert f"`{graph}`" in section_of_the_format("Graphs")
    assert "Its one input is `image`, uint8, (batch, height, width, channels)" in (
        section_of_the_format("Graphs")
    )


def test_the_tolerances_of_the_bundle_format_are_those_of_the_gate() -> None:
    stated: dict[Precision, dict[str, Tolerance]] = {p: {} for p in get_args(Precision)}
    for head, *rows in tables(section_of_the_format("Parity")):
        for row in rows if head[0] == "output" else ():
            for name in re.findall(r"`(\w+)`", row[0]):
                if head[1] == "difference":
                    limits = [float(cell.partition(",")[0]) if cell else None for cell in row[1:]]
                    stated["fp32"][name] = Tolerance(
                        max_difference=limits[0], cosine=limits[1], agreement=limits[2]
                    )
                for precision, cell in zip(head[1:], row[1:], strict=True):
                    if precision in stated:
                        words = cell.replace("difference", "max_difference")
                        found = re.findall(r"(\w+) ([\d.]+)", words)
                        stated[precision][name] = Tolerance(**{k: float(v) for k, v in found})
    assert stated == TOLERANCES
