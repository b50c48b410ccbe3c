"""Plots by matplotlib, as SVG that stands in a page and takes its text's colour and font."""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

# Of the first and the second run; they stand out on white and on black.
COLORS = ("#3b82c4", "#d9822b")
# matplotlib knows no "colour of the text around": this one is replaced in what it writes.
_TEXT = "#010203"
_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "lrformer",  # the same plot has the same ids
    "font.size": 9,
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "axes.edgecolor": "#88888888",
    "grid.color": "#88888844",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def reliability_plot(runs: dict[str, dict]) -> str:
    """Accuracy against confidence.

    Args:
        runs: name -> what :func:`~lrformer.report.statistics.calibration` returns.

    Returns:
        An <svg> element.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.4, 3.6), layout="constrained")
        upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
        upper.plot([0, 1], [0, 1], color="#888888", linestyle=":", linewidth=1)
        width = 0.8 / len(runs[next(iter(runs))]["bins"] or [0]) / len(runs)
        for number, (name, calibration) in enumerate(runs.items()):
            bins = calibration["bins"]
            confidence = [x["confidence"] for x in bins]
            options = {"color": COLORS[number], "label": name}
            upper.plot(confidence, [x["accuracy"] for x in bins], "o-", markersize=4, **options)
            total = sum(x["pixels"] for x in bins)
            shares = [100 * x["pixels"] / total for x in bins]
            places = [x + number * width for x in confidence]
            lower.bar(places, shares, width, color=COLORS[number])
        upper.set(ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
        lower.set(xlabel="confidence", ylabel="pixels (%)")
        if len(runs) > 1:
            upper.legend(loc="upper left")
        return _svg(figure, "Reliability diagram: accuracy against confidence")


def curves_plot(runs: dict[str, Sequence[dict]]) -> str:
    """Loss and mIoU against the iteration.

    Args:
        runs: name -> what :func:`read_curves` of :mod:`lrformer.report.write` returns.

    Returns:
        An <svg> element; "" where nothing is known.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.4, 3.6), layout="constrained")
        units = {"loss": "loss", "mIoU": "mIoU (%)"}
        known = [key for key in units if any(x[key] is not None for y in runs.values() for x in y)]
        if not known:
            return ""
        plots = figure.subplots(len(known), sharex=True, squeeze=False)[:, 0]
        for axes, key in zip(plots, known, strict=True):
            for color, (name, curves) in zip(COLORS, runs.items(), strict=False):
                points = [(x["iteration"], x[key]) for x in curves if x[key] is not None]
                marker = "o" if len(points) < 30 else ""
                options = {"marker": marker, "markersize": 3, "linewidth": 1.5, "label": name}
                axes.plot(*np.array(points).reshape(-1, 2).T, color=color, **options)
            axes.set_ylabel(units[key])
        plots[-1].set_xlabel("iteration")
        if len(runs) > 1:
            plots[0].legend()
        return _svg(figure, "Learning curves: loss and mIoU against the iteration")


def _svg(figure: Figure, title: str) -> str:
    buffer = io.StringIO()
    metadata = {"Date": None, "Creator": None}
    figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_TEXT, "currentColor")
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
