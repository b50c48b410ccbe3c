"""FLOPs against input size, with LRSA and with attention at full resolution."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from .counting import counted
from .report import Record, Table

SIZES = (128, 192, 256, 320, 384, 512, 768, 1024, 1536, 2048)


def scaling_table(config: str, opts: tuple, picture: Path, sizes: Sequence[int] = SIZES) -> Table:
    """FLOPs of a config's model at square inputs, and with quadratic attention in LRSA's place.

    Args:
        config, opts: of :func:`lrformer.load_cfg`.
        picture: file to draw the two curves into.
        sizes: sides of the input, multiples of 32, smallest first.
    """
    counts = {size: counted(config, (size, size), opts) for size in sizes}
    records = [
        {
            "model": config,
            "height": size,
            "width": size,
            "flops": int(found.total),
            "quadratic_flops": int(found.quadratic),
            "quadratic_ratio": found.quadratic / found.total,
        }
        for size, found in counts.items()
    ]
    _draw(records, picture)
    remarks = [
        "Quadratic: queries, keys and values are all positions of each map, in the encoder and in "
        "the plain head; everything else is the same."
    ]
    if double := side_of_ratio(records, 2):
        remarks.append(f"Quadratic attention costs twice as much at about {double:.0f} pixels.")
    remarks.append(f"Drawn: ![FLOPs against input size]({picture.name})")
    return Table(records, "FLOPs against input size, and with quadratic attention", remarks)


def side_of_ratio(records: Sequence[Record], ratio: float) -> float | None:
    """The side of the input at which quadratic attention costs ``ratio`` times as much.

    Between the sizes of ``records`` (smallest first) both curves are taken for powers of the side;
    None where they do not get there.
    """
    ratios, sides = (np.log([r[key] for r in records]) for key in ("quadratic_ratio", "height"))
    found = np.interp(math.log(ratio), ratios, sides, math.nan, math.nan)
    return None if math.isnan(found) else math.exp(found)


def _draw(records: Sequence[Record], path: Path) -> None:
    """Both curves, with their last values."""
    figure = Figure(figsize=(7.5, 4.8), dpi=120, layout="constrained")
    axes = figure.subplots()
    sides = [record["height"] for record in records]
    curves = (
        ("quadratic_flops", "#b5442e", "with attention at full resolution"),
        ("flops", "#1f5fa8", Path(records[0]["model"]).stem),
    )
    for key, color, label in curves:
        values = [record[key] / 1e9 for record in records]
        axes.plot(sides, values, "o-", color=color, label=label, markersize=4.5, linewidth=2)
        end = (sides[-1], values[-1])
        style = {"textcoords": "offset points", "va": "center", "color": color}
        axes.annotate(f"{values[-1]:,.0f}", end, (8, 0), **style)
    axes.set(xscale="log", yscale="log", xlabel="side of the square input, pixels")
    axes.set_title("Multiply-adds of one image, G (both axes logarithmic)", loc="left")
    axes.set_xticks(sides, [str(side) for side in sides])
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()
    axes.set_xlim(sides[0] / 1.08, sides[-1] * 1.4)
    axes.grid(axis="y", color="#dddddd")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=12, labelcolor="linecolor")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
