"""What all scores have in common: their mean, and the file that they are written to."""

import json
from pathlib import Path

import numpy as np


def mean_of_known(scores: np.ndarray) -> float:
    """The mean of those that are not NaN; NaN where there are none."""
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if len(known) else np.nan


def write_results(file: Path, dataset: str, images: int, means: dict, classes: list[dict]) -> None:
    """Write the scores of all classes together and, with its "name", those of each class."""
    write_json(file, {"dataset": dataset, "images": images, **means, "classes": classes})


def write_json(file: Path, content: dict) -> dict:
    """Write a file, in a folder that is made, and return what it now holds.

    NaN, the score of a class that does not occur, is written as null.
    """
    content = json.loads(json.dumps(content), parse_constant=lambda _: None)
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=2, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")
    return content
