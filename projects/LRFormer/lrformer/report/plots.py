"""Plots by matplotlib, as SVG that stands in a page and takes its text's colour and font."""

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

# Of the first and the second run; they stand out on white and on black.
COLORS = ("#3b82c4", "#d9822b")
# matplotlib knows no "colour of the text around": this one is replaced in what it writes.
_TEXT = "#010203"
_STYLE = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _TEXT)
_STYLE |= {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "lrformer",  # the same plot has the same ids
    "font.size": 9,
    "axes.edgecolor": "#88888888",
    "grid.color": "#88888844",
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@matplotlib.rc_context(_STYLE)
def reliability_plot(runs: dict[str, dict]) -> str:
    """Accuracy against confidence, as an <svg> element.

    Args:
        runs: name -> what :func:`~lrformer.report.statistics.calibration` returns.
    """
    figure = Figure(figsize=(4.4, 3.6), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="#888888", linestyle=":", linewidth=1)
    for (name, calibration), color in zip(runs.items(), COLORS, strict=False):
        confidence, accuracy, pixels = (
            [x[key] for x in calibration["bins"]] for key in ("confidence", "accuracy", "pixels")
        )
        upper.plot(confidence, accuracy, "o-", markersize=4, color=color, label=name)
        shares = [100 * x / sum(pixels) for x in pixels]
        lower.bar(confidence, shares, 0.05, color=color, alpha=0.6)
    upper.set(ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    lower.set(xlabel="confidence", ylabel="pixels (%)")
    return _svg(figure, "Reliability diagram: accuracy against confidence", runs)


@matplotlib.rc_context(_STYLE)
def curves_plot(runs: dict[str, Sequence[dict]]) -> str:
    """Loss and mIoU against the iteration, as an <svg> element; "" where nothing is known.

    Args:
        runs: name -> what :func:`read_curves` of :mod:`lrformer.report.write` returns.
    """
    figure = Figure(figsize=(4.4, 3.6), layout="constrained")
    units = {"loss": "loss", "mIoU": "mIoU (%)"}
    known = [key for key in units if any(x[key] is not None for y in runs.values() for x in y)]
    if not known:
        return ""
    plots = figure.subplots(len(known), sharex=True, squeeze=False)[:, 0]
    for axes, key in zip(plots, known, strict=True):
        for color, (name, curves) in zip(COLORS, runs.items(), strict=False):
            points = [(x["iteration"], x[key]) for x in curves if x[key] is not None]
            if points:
                axes.plot(*zip(*points, strict=True), ".-", markersize=3, color=color, label=name)
        axes.set_ylabel(units[key])
    plots[-1].set_xlabel("iteration")
    return _svg(figure, "Learning curves: loss and mIoU against the iteration", runs)


def _svg(figure: Figure, title: str, runs: dict) -> str:
    if len(runs) > 1:
        figure.axes[0].legend(frameon=False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_TEXT, "currentColor")
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
