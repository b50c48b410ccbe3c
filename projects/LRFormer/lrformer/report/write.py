"""From an evaluation to a report: a page, and the same as JSON."""

import hashlib
import json
import platform
import shlex
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import detectron2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

import lrformer
from lrformer.checkpoint.reading import find_file
from lrformer.data.metadata import SIZES
from lrformer.evaluation import evaluated_tasks
from lrformer.evaluation.build import build_sem_seg_evaluator
from lrformer.evaluation.results import write_json
from lrformer.evaluation.sem_seg import summary_of

from .collect import ReportEvaluator
from .page import write_page
from .pictures import class_names, example_layers, short_name, suspect_picture
from .statistics import calibration, interval, resampled

PAGE, JSON = "report.html", "report.json"


class Report:
    """The report of an evaluation on ``DATASETS.TEST``.

    Args:
        cfg: of the evaluation.
        folder: for ``report.html`` and ``report.json``; of several datasets, in a folder each.

    Raises:
        ValueError: there is no page for what is evaluated.
        OSError: the folder cannot be made.
    """

    def __init__(self, cfg: CfgNode, folder: str | Path):
        if not cfg.DATASETS.TEST:
            raise ValueError("--report: DATASETS.TEST is empty, there is nothing to report on")
        for name in cfg.DATASETS.TEST:
            tasks = evaluated_tasks(cfg, name)
            if tasks != ["sem_seg"]:
                raise ValueError(
                    f"--report: there is a page for semantic segmentation only, but {name} is "
                    f"evaluated for {' and '.join(tasks)}; leave --report away, or let model and "
                    "dataset be semantic (MODEL.MASK_FORMER.TEST, DATASETS.TEST)"
                )
        self.cfg, self.folder = cfg, Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._evaluators: dict[str, ReportEvaluator] = {}

    def build_evaluators(self) -> list[ReportEvaluator]:
        """For the evaluation: :meth:`lrformer.engine.Trainer.test` takes them."""
        self._evaluators = {
            name: build_sem_seg_evaluator(self.cfg, name, ReportEvaluator)
            for name in self.cfg.DATASETS.TEST
        }
        return list(self._evaluators.values())

    def write(self, config_file: str, weights: str) -> list[Path]:
        """Write the pages of the evaluation that has been; in the main process.

        Args:
            config_file: that the config came from.
            weights: that were evaluated, a path or URL.

        Returns:
            The pages' files.
        """
        file = find_file(weights)
        card = _model_card(self.cfg, config_file, file)
        return [self._write(name, file, card) for name in self._evaluators]

    def _write(self, name: str, weights: Path, card: dict[str, str]) -> Path:
        evaluator, metadata = self._evaluators[name], MetadataCatalog.get(name)
        several = len(self._evaluators) > 1
        folder = self.folder / name if several else self.folder
        content = report_content(evaluator, metadata.stuff_classes)
        prefix = f"{name}/" if several else ""
        metrics = [x / "metrics.json" for x in (weights.parent, Path(self.cfg.OUTPUT_DIR))]
        found = [read_curves(x, f"{prefix}sem_seg/mIoU") for x in metrics if x.is_file()]
        content["curves"] = found[0] if found else []
        content |= {"dataset": name, "card": card, "config": self.cfg.dump()}
        content = write_json(folder / JSON, content)
        findings, labels = evaluator.findings, evaluator.input_file_to_gt_file
        suspects = map(suspect_picture, findings.suspects)
        worst = [x.file_name for x in findings.worst]
        best = [x for x in findings.best if x.file_name not in worst]
        write_page(
            folder / PAGE,
            f"Report: {name}",
            {"": content},
            colors=dict(class_names(metadata, range(len(metadata.stuff_classes)))),
            suspects=list(zip(content["suspects"], suspects, strict=True)),
            galleries={
                title: [example_layers(x, labels[x.file_name], metadata) for x in examples]
                for title, examples in (("The worst", findings.worst), ("The best", best))
            },
        )
        return folder / PAGE


def report_content(evaluator: ReportEvaluator, classes: list[str]) -> dict:
    """What the JSON file says of an evaluation that has been; unknown scores are NaN."""
    found, results = evaluator.findings, evaluator.results
    images = np.stack(list(found.images.values()))
    drawn = {metric: interval(values) for metric, values in resampled(images).items()}
    low, high = drawn.pop("IoU")
    labelled = found.confusion.sum(1).tolist()
    return {
        "images": len(images),
        "scores": {
            metric: {"value": results[metric], "low": float(ends[0]), "high": float(ends[1])}
            for metric, ends in drawn.items()
        },
        "classes": [
            {
                "name": name,
                "IoU": results[f"IoU-{name}"],
                "low": float(low[i]),
                "high": float(high[i]),
                "ACC": results[f"ACC-{name}"],
                "pixels": labelled[i],
            }
            for i, name in enumerate(classes)
        ],
        "sizes": {
            name: {metric: results[f"{metric}-{name}"] for metric in ("mIoU", "mACC")}
            for kind in ("segments", "classes")
            for name in (f"{size} {kind}" for size in SIZES)
            if f"mIoU-{name}" in results
        },
        "confusion": found.confusion.tolist(),
        "calibration": calibration(found.bins),
        "speed": {
            "model": 1 / float(np.median(found.model_seconds)),
            "evaluation": len(images) / found.seconds,
        },
        "suspects": [
            asdict(x)
            | {"file_name": short_name(x.file_name)}
            | {"labelled": classes[x.labelled], "predicted": classes[x.predicted]}
            for x in found.suspects
        ],
        # Of the classes that are there: label -> pixels labelled as it, predicted as it, and both.
        "per_image": {
            short_name(file_name): {
                "mIoU": summary_of(pixels)["mIoU"],
                "pixels": {int(i): pixels[:, i].tolist() for i in np.flatnonzero(pixels.any(0))},
            }
            for file_name, pixels in found.images.items()
        },
    }


def read_curves(file: Path, metric: str) -> list[dict]:
    """The "loss", seconds ("time") and, as "mIoU", ``metric`` of iterations, from metrics.json.

    Of iterations that a resumed or restarted training did again, the last ones count.
    """
    curves: list[dict] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # a training was killed while it wrote
            continue
        if "iteration" not in row:
            continue
        while curves and curves[-1]["iteration"] > row["iteration"]:
            curves.pop()
        point = {"iteration": row["iteration"], "loss": row.get("total_loss")}
        curves.append(point | {"mIoU": row.get(metric), "time": row.get("time")})
    return curves


def _model_card(cfg: CfgNode, config_file: str, weights: Path) -> dict[str, str]:
    device = cfg.MODEL.DEVICE
    if device.startswith("cuda"):
        where = torch.cuda.get_device_name(device)
    else:
        where = f"{platform.machine()}, {torch.get_num_threads()} threads"
    return {
        "config": config_file,
        "weights": str(weights),
        "weights' SHA-256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "command": shlex.join(sys.argv),
        "device": f"{device} ({where})",
        "versions": f"lrformer {lrformer.__version__}, detectron2 {detectron2.__version__}, "
        f"PyTorch {torch.__version__}, Python {platform.python_version()}",
        "made": datetime.now().astimezone().isoformat(" ", "seconds"),
    }
