"""FLOPs against input size, with LRSA and with attention at full resolution."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..config import load_cfg
from .cases import counted

SIZES = (128, 192, 256, 320, 384, 512, 768, 1024, 1536, 2048)

_OURS, _QUADRATIC, _GREY = "#1f5fa8", "#b5442e", "#666666"


def scaling(config: str | Path, opts: Sequence = (), sizes: Sequence[int] = SIZES) -> list[dict]:
    """FLOPs of a config's model at square inputs, and with quadratic attention in LRSA's place.

    Args:
        config, opts: of :func:`lrformer.load_cfg`.
        sizes: sides of the input, multiples of 32.

    Returns:
        For each size "model", "height", "width", "flops", "quadratic_flops" (see
        :class:`lrformer.analysis.Counts`) and "ratio", the second over the first.
    """
    cfg = load_cfg(config, opts)
    records = []
    for size in sizes:
        _, counts = counted(cfg, (size, size))
        records.append(
            {
                "model": str(config),
                "height": size,
                "width": size,
                "flops": int(counts.total),
                "quadratic_flops": int(counts.quadratic),
                "ratio": counts.quadratic / counts.total,
            }
        )
    return records


def side_of_ratio(records: Sequence[dict], ratio: float) -> float | None:
    """The side of the input at which quadratic attention costs ``ratio`` times as much.

    Between the sizes of ``records`` (smallest first) both curves are taken for powers of the side;
    None where they do not get there.
    """
    for low, high in zip(records, records[1:], strict=False):
        if low["ratio"] < ratio <= high["ratio"]:
            share = math.log(ratio / low["ratio"]) / math.log(high["ratio"] / low["ratio"])
            return low["height"] * (high["height"] / low["height"]) ** share
    return None


def draw_scaling(records: Sequence[dict], path: str | Path, name: str) -> None:
    """Draw :func:`scaling`'s records into an image file (the suffix says which format).

    Args:
        records: of one model, smallest size first.
        path: of the file; its folder is made where it is missing.
        name: what to call the model.
    """
    figure = Figure(figsize=(7.5, 4.8), dpi=120, layout="constrained")
    axes = figure.subplots()
    sides = [r["height"] for r in records]
    curves = {
        "quadratic_flops": (_QUADRATIC, "with attention at full resolution"),
        "flops": (_OURS, name),
    }
    for key, (color, label) in curves.items():
        values = [r[key] / 1e9 for r in records]
        axes.plot(sides, values, "o-", color=color, markersize=4.5, linewidth=2)
        axes.annotate(
            _amount(values[-1]),
            (sides[-1], values[-1]),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=color,
            fontsize=11,
        )
        _label(axes, sides, values, label, color, above=key == "quadratic_flops")
    _mark_double(axes, records)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sides, [str(side) for side in sides], fontsize=10.5)
    axes.minorticks_off()
    low, high = axes.get_ylim()
    ticks = [10**k for k in range(-2, 7) if low <= 10**k <= high]
    axes.set_yticks(ticks, [_amount(tick) for tick in ticks], fontsize=10.5)
    axes.set_xlim(sides[0] / 1.08, sides[-1] * 1.32)
    axes.set_xlabel("side of the square input, pixels", fontsize=11.5)
    axes.set_title(
        "Multiply-adds of one image (both axes logarithmic)", fontsize=12, loc="left", pad=10
    )
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _label(axes: Axes, sides: list, values: list, text: str, color: str, *, above: bool) -> None:
    """Name a curve beside it, at about two thirds of its length."""
    i = (2 * len(sides)) // 3
    axes.annotate(
        text,
        (sides[i], values[i]),
        xytext=(-12, 6) if above else (12, -10),
        textcoords="offset points",
        ha="right" if above else "left",
        va="bottom" if above else "top",
        color=color,
        fontsize=12,
        fontweight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )


def _mark_double(axes: Axes, records: Sequence[dict]) -> None:
    """Show where quadratic attention costs twice as much."""
    side = side_of_ratio(records, 2)
    if side is None:
        return
    below = max(i for i, r in enumerate(records) if r["height"] <= side)
    a, b = records[below], records[below + 1]
    share = math.log(side / a["height"]) / math.log(b["height"] / a["height"])
    ours = a["flops"] * (b["flops"] / a["flops"]) ** share / 1e9
    axes.plot([side, side], [ours, 2 * ours], color=_GREY, linewidth=1.5)
    axes.annotate(
        f"twice the FLOPs\nat {side:.0f} pixels",
        (side, ours * math.sqrt(2)),
        xytext=(-14, 22),
        textcoords="offset points",
        ha="right",
        color=_GREY,
        fontsize=11,
        arrowprops={"arrowstyle": "-", "color": _GREY, "linewidth": 0.8},
    )


def _amount(giga: float) -> str:
    return f"{giga / 1000:.3g} T" if giga >= 1000 else f"{giga:.3g} G"
