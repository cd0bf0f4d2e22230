"""The figures of compare.py as Markdown, and as bars. `python page.py REPORT.json [PICTURE.png]`."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

SCORES = {"classify": "top-1", "segment": "pixels as the loop's", "embed": "cosine with the loop's"}
FIGURES = ("images/s", "x plain", "loop alone", "x plain", "CPU ms")
OURS, THEIRS, EDGE = "#2166ac", "#b5bcc6", "#333333"


def spread(values: list[float], digits: int = 0) -> str:
    """Return the median, with the least and the most where there are several."""
    if not values:
        return ""
    middle = f"{statistics.median(values):.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def of_rounds(report: Any, cores: str, task: str, name: str) -> list[Any]:
    """Return what each round gave for a contestant; empty where it did not take part."""
    return [r[cores].get(task, {}).get(name, {}) for r in report["rounds"]]


def column(report: Any, cores: str, task: str, name: str, figure: str) -> list[float]:
    """Return a figure of the rounds that have it."""
    return [r[figure] for r in of_rounds(report, cores, task, name) if figure in r]


def ratios(report: Any, cores: str, task: str, name: str, figure: str) -> list[float]:
    """Return a figure over the plain loop's in the same round."""
    own = of_rounds(report, cores, task, name)
    plain = of_rounds(report, cores, task, report["plain"][task])
    pairs = zip(own, plain, strict=True)
    return [a[figure] / b[figure] for a, b in pairs if figure in a and figure in b]


def named(report: Any, cores: str, task: str, name: str) -> str:
    """Return a name; of dlcv without options with the engine that it chose."""
    engines = sorted({r["engine"] for r in of_rounds(report, cores, task, name) if "engine" in r})
    words = [engine.split() for engine in engines]  # such as "openvino 2026.4.1 cpu int8"
    chosen = " or ".join(f"{w[0]} {w[-1]}" for w in words)
    return f"{name} ({chosen})" if name == "dlcv" and chosen else name


def cells(report: Any, cores: str, task: str, name: str) -> list[str]:
    """Return a contestant's figures on so many cores, as FIGURES names them."""
    key = (report, cores, task, name)
    return [
        spread(column(*key, "whole_per_second")),
        spread(ratios(*key, "whole_per_second"), 2),
        spread(column(*key, "loop_per_second")),
        spread(ratios(*key, "loop_per_second"), 2),
        spread(column(*key, "cpu_ms"), 1),
    ]


def table(report: Any, tasks: tuple[str, ...]) -> str:
    """Return the figures of tasks as Markdown."""
    of_cores = [f"{c}: {f}" for c in ("2 cores", "1 core") for f in FIGURES]
    head = ["contestant", *of_cores, " or ".join(SCORES[task] for task in tasks)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for task, name in [(c["task"], c["name"]) for c in report["contestants"]]:
        if task not in tasks:
            continue
        two, one = (named(report, cores, task, name) for cores in ("2", "1"))
        shown = two if one in (two, name) else f"{two}, on 1 core {one}"
        shown = shown if len(tasks) == 1 else f"{task}: {shown}"
        score = report["scores"].get(task, {}).get(name)
        row = [shown, *cells(report, "2", task, name), *cells(report, "1", task, name)]
        row.append(f"{score:.4f}" if score is not None else "")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def limit(report: Any, cores: int) -> str:
    """Return limit, reached and ratio as a sentence, each before and after the rounds."""
    found = [f for f in report["limits"] if f["cores"] == cores]
    shown = {
        key: " and ".join(f"{f[key]:.{digits}f}" for f in found)
        for key, digits in (
            *(("limit_per_second", 0), ("reached_per_second", 0), ("ratio", 2)),
            *(("engine_per_second", 0), ("decode_cpu_ms", 2), ("engine_cpu_ms", 2)),
        )
    }
    return (
        f"{cores} core{'s' if cores > 1 else ''}, {found[0]['engine']} {found[0]['precision']}, before and after: "
        f"limit {shown['limit_per_second']}, reached {shown['reached_per_second']}, ratio {shown['ratio']}"
        f" (CPU ms a photo: decoding {shown['decode_cpu_ms']}, engine {shown['engine_cpu_ms']};"
        f" engine alone {shown['engine_per_second']} images/s)."
    )


def other_network(report: Any) -> str:
    """Return what share of its own engine's speed Ultralytics reaches, if it ran."""
    key = (report, "2", "other network", "Ultralytics")
    loop, engine = column(*key, "loop_per_second"), column(*key, "engine_per_second")
    shares = [a / b for a, b in zip(loop, engine, strict=True)]
    return (
        f"Ultralytics, its own network, 2 cores: file to file {spread(loop)} images/s, "
        f"the bare network {spread(engine)}, ratio {spread(shares, 2)}."
    )


def text(report: Any) -> str:
    """Return everything as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    parts = [
        table(report, ("classify",)),
        table(report, ("segment", "embed")),
        *(limit(report, cores) for cores in (2, 1)),
        other_network(report),
        f"{report['machine']}; {report['created']}; {versions}. `{report['command']}`",
    ]
    return "\n\n".join(parts)


def bars(report: Any, cores: str) -> list[tuple[str, list[float]]]:
    """Return the bars of a panel, first on top: names, and the rounds' ratios. Whole processes, else the loops."""
    found = []
    for task, plain in report["plain"].items():
        for name in [c["name"] for c in report["contestants"] if c["task"] == task]:
            key = (report, cores, task, name)
            whole = ratios(*key, "whole_per_second")
            values = whole or ratios(*key, "loop_per_second")
            if values and name != plain:
                found.append((f"{task}: {named(*key)}{'' if whole else ' *'}", values))
    return found


def draw(report: Any, path: Path) -> None:
    """Draw a panel for each number of cores."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels = {cores: bars(report, cores) for cores in ("2", "1")}
    heights = [len(panel) for panel in panels.values()]
    figure, axes = plt.subplots(
        2, 1, figsize=(9, 0.34 * sum(heights) + 1.9), height_ratios=heights, sharex=True
    )
    for (cores, panel), axis in zip(panels.items(), axes, strict=True):
        middles = [statistics.median(values) for _, values in panel]
        errors = [
            [m - min(v) for m, (_, v) in zip(middles, panel, strict=True)],
            [max(v) - m for m, (_, v) in zip(middles, panel, strict=True)],
        ]
        colors = [OURS if ": dlcv" in name else THEIRS for name, _ in panel]
        axis.barh(
            range(len(panel)), middles, xerr=errors, color=colors, ecolor=EDGE, error_kw={"lw": 0.8}
        )
        axis.set_yticks(range(len(panel)), [name for name, _ in panel])
        axis.invert_yaxis()
        axis.axvline(1, color=EDGE, lw=0.8, ls="--")
        for y, (middle, (_, values)) in enumerate(zip(middles, panel, strict=True)):
            axis.annotate(
                f"{middle:.2f}",
                (max(values), y),
                (4, 0),
                textcoords="offset points",
                va="center",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )
        axis.set_title(f"{cores} core{'s' if cores == '2' else ''}", loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel(
        "images/s of the whole process, relative to a plain ONNX Runtime loop, batch 1 (dashed)\n"
        "medians of the rounds, least to most; * the loop alone, without start-up"
    )
    axes[0].set_xlim(0, 1.1 * max(max(v) for panel in panels.values() for _, v in panel))
    figure.tight_layout()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    read = json.loads(Path(sys.argv[1]).read_text())
    print(text(read))
    if len(sys.argv) > 2:
        draw(read, Path(sys.argv[2]))
