"""Two reports side by side."""

import json
from pathlib import Path

import numpy as np

from lrformer.evaluation.results import write_json

from .page import write_page
from .statistics import interval, resampled
from .write import JSON


def compare(first: str | Path, second: str | Path, file: Path) -> dict:
    """Write a page about two reports, and the differences as JSON beside it.

    Args:
        first, second: folders of ``--report``, or report.json files.
        file: the page, ``*.html``.

    Returns:
        The JSON file's content: "runs", the reports' files; "difference", second minus first of
        "mIoU", "fwIoU", "mACC", "pACC" and of "classes", each a "value", and with the same images
        also its 95 % interval, "low" and "high".

    Raises:
        ValueError: a file is no report, both are one, or they are about different classes.
        OSError: a file is not there.
    """
    files = [_find(Path(path)) for path in (first, second)]
    if files[0].samefile(files[1]):
        raise ValueError(f"both are {files[0]}: name two reports")
    runs = [_read(path) for path in files]
    names = [[row["name"] for row in run["classes"]] for run in runs]
    if names[0] != names[1]:
        raise ValueError(
            f"{files[0]} and {files[1]} are about different classes: {len(names[0])} and "
            f"{len(names[1])}, or in another order"
        )
    content = {"runs": [str(path) for path in files], "difference": _difference(*runs)}
    content = write_json(file.with_suffix(".json"), content)
    labelled = dict(zip((str(first), str(second)), runs, strict=True))
    write_page(file, f"{first} and {second}", labelled, difference=content["difference"])
    return content


def _find(path: Path) -> Path:
    file = path / JSON if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no {file}: tools/train_net.py … --report {path} writes it"
        )
    return file


def _read(file: Path) -> dict:
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        run = {}
    if "per_image" not in run:
        raise ValueError(f"{file} is no report of tools/train_net.py --report")
    return run


def _difference(*runs: dict) -> dict:
    """Second minus first; with intervals where both have the same images."""
    values = [{k: x["value"] for k, x in run["scores"].items()} for run in runs]
    result = {k: {"value": values[1][k] - values[0][k]} for k in values[0]}
    ious = [[np.nan if x["IoU"] is None else x["IoU"] for x in run["classes"]] for run in runs]
    classes = [{"value": x} for x in np.subtract(ious[1], ious[0]).tolist()]
    files = sorted(runs[0]["per_image"])
    if files == sorted(runs[1]["per_image"]):
        # The same seed: both are drawn the same images, and what is hard for both cancels out.
        drawn = [resampled(_pixels(run, files)) for run in runs]
        ends = {k: interval(drawn[1][k] - drawn[0][k]) for k in drawn[0]}
        for i, (low, high) in enumerate(zip(*ends.pop("IoU"), strict=True)):
            classes[i] |= {"low": float(low), "high": float(high)}
        for k, (low, high) in ends.items():
            result[k] |= {"low": float(low), "high": float(high)}
    return result | {"classes": classes}


def _pixels(run: dict, files: list[str]) -> np.ndarray:
    pixels = np.zeros((len(files), 3, len(run["classes"])), np.int64)
    for of_image, name in zip(pixels, files, strict=True):
        for label, counts in run["per_image"][name]["pixels"].items():
            of_image[:, int(label)] = counts
    return pixels
