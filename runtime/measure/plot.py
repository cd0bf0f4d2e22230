"""Plots benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlcv.runtime.measure.bench import Report

_TITLES = {
    "engine": "Engine only: arrays to arrays",
    "host": "Host to host: pixels to results",
    "file": "File to file: photos to result files",
}


def save_plot(report: Report, path: Path) -> None:
    """Plot latency against throughput and write a PNG.

    Each figure is a panel, each engine a line, each batch size a point.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    canvas = FigureCanvasAgg(Figure(figsize=(15, 5.2), layout="constrained"))
    figure = canvas.figure
    panels: Any = figure.subplots(1, len(_TITLES))
    for axes, (name, title) in zip(panels, _TITLES.items(), strict=True):
        _draw(axes, report, name)
        axes.set(title=title, xscale="log", xlabel="ms a batch (median; numbers are batch sizes)")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
        axes.margins(0.12)
        axes.set_ylim(bottom=0)
    panels[0].set_ylabel("images/s")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(f"{report.bundle}, {report.machine}, {report.created[:10]}")
    figure.savefig(path, dpi=110)


def _draw(axes: Any, report: Report, name: str) -> None:
    for number, label in enumerate(report.contestants):
        points = [f for f in report.figures if (f.figure, f.label) == (name, label)]
        x = [f.p50_ms * f.batch / f.images for f in points]  # a job has many batches
        y = [f.images_per_second for f in points]
        axes.plot(x, y, marker="o", markersize=4, color=f"C{number}", label=label)
        for point, *at in zip(points, x, y, strict=True):
            axes.annotate(
                str(point.batch),
                at,
                xytext=(0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=f"C{number}",
            )
