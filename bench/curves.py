"""Scores of trainings against the time that they took and the images that they saw."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import yaml
from matplotlib.figure import Figure

from lrformer.report.write import read_curves

from .report import Record, Report, Table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="+", metavar="NAME=DIR", help="a training's name and its OUTPUT_DIR"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        help="that each training had, on a machine of its own (default: as its log has it)",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw both curves of each")


def report(args: argparse.Namespace) -> Report:
    """Raises ValueError for a folder without scores, OSError for one without a training."""
    records = [record for run in args.runs for record in scores(run, args.minutes)]
    remarks = []
    if args.plot:
        _draw(records, args.plot)
        remarks = [f"Drawn: ![mIoU against time and against images]({args.plot.name})"]
    return Report([Table(records, remarks=remarks)])


def scores(run: str, minutes: float | None = None) -> list[Record]:
    """The evaluations of a training, from its ``metrics.json`` and ``config.yaml``.

    Args:
        run: NAME=DIR.
        minutes: of the whole training, spread evenly; None: the log's times of its iterations.
    """
    name, _, folder = run.partition("=") if "=" in run else (run, "", run)
    solver = yaml.safe_load(Path(folder, "config.yaml").read_text(encoding="utf-8"))["SOLVER"]
    records, seconds, done = [], 0.0, 0
    for point in read_curves(Path(folder, "metrics.json"), "sem_seg/mIoU"):
        seconds += (point["time"] or 0) * (point["iteration"] + 1 - done)
        done = point["iteration"] + 1
        if minutes is not None:
            seconds = minutes * 60 * done / solver["MAX_ITER"]
        if point["mIoU"] is not None:
            found = {"training": name, "minutes": seconds / 60}
            images = done * solver["IMS_PER_BATCH"]
            records.append(found | {"images_seen": images, "miou": point["mIoU"]})
    if not records:
        raise ValueError(f"{folder}/metrics.json has no sem_seg/mIoU: was TEST.EVAL_PERIOD 0?")
    return records


def _draw(records: Sequence[Record], path: Path) -> None:
    figure = Figure(figsize=(9.5, 4.2), dpi=110, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, key in zip(panels, ("minutes", "images_seen"), strict=True):
        for name in dict.fromkeys(record["training"] for record in records):
            of_run = [record for record in records if record["training"] == name]
            x, y = ([record[k] for record in of_run] for k in (key, "miou"))
            axes.plot(x, y, "o-", label=name, markersize=3.5)
        axes.set(xlabel=key.replace("_", " "), ylim=(0, None))
        axes.grid(axis="y", color="#dddddd")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_title("mIoU", loc="left")
    panels[1].set_xscale("log")
    panels[1].xaxis.set_minor_formatter("")
    panels[0].legend(frameon=False, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
