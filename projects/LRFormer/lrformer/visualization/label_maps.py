"""Predictions as files that other programs read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from PIL import Image

from .classes import class_name, known_classes
from .segments import to_array


class LabelMapWriter:
    """Writes predictions below a folder, in the usual format of their kind.

    ======== =====================================================================================
    semantic ``<name>.png``: class indices, 8 bits (16 for labels above 255)
    instance ``instances.json``: COCO's results, all of them, with run-length encoded masks
    panoptic ``<name>.png``: segment ids as COCO's panoptic maps have them, id = R + 256 G + 256² B;
             and ``panoptic.json``: the segments, in COCO's format
    ======== =====================================================================================

    Categories are the dataset's where the metadata has its ids, else contiguous. The json files are
    complete when :meth:`close` has been called.

    Args:
        folder: to write to; made where it does not exist.
        task: "sem_seg", "instances" or "panoptic_seg".
        metadata: detectron2 metadata of the dataset.
    """

    def __init__(self, folder: Path, task: str, metadata: Any) -> None:
        self._folder = folder
        self._task = task
        self._metadata = metadata
        self._records: list[dict] = []
        self._images: list[dict] = []

    def files_of(self, name: Path) -> list[Path]:
        """The files that :meth:`write` makes for an image of this name."""
        return [] if self._task == "instances" else [self._folder / f"{name}.png"]

    def write(self, prediction: Any, name: Path, image_id: int | str | None = None) -> None:
        """
        Args:
            prediction: H x W class map, ``Instances``, or (panoptic map, segments' infos).
            name: path of the map below the folder, without a suffix.
            image_id: the dataset's; None takes the name.
        """
        image_id = name.as_posix() if image_id is None else image_id
        if self._task == "sem_seg":
            dtype = np.uint8 if prediction.max() <= 255 else np.uint16
            _save(prediction.astype(dtype), self._folder / f"{name}.png")
        elif self._task == "instances":
            self._add_instances(prediction, image_id)
        else:
            self._write_panoptic(*prediction, name, image_id)

    def close(self) -> None:
        """Write the json file, if the kind has one."""
        if self._task == "instances":
            self._write_json("instances.json", self._records)
        elif self._task == "panoptic_seg":
            content = {
                "images": self._images,
                "annotations": self._records,
                "categories": self._categories(),
            }
            self._write_json("panoptic.json", content)

    def _add_instances(self, instances: Instances, image_id: int | str) -> None:
        for result in instances_to_coco_json(instances.to("cpu"), image_id):
            result["category_id"] = self._category_id(result["category_id"], thing=True)
            self._records.append(result)

    def _write_panoptic(
        self, panoptic_seg: Any, segments_info: Sequence[dict], name: Path, image_id: int | str
    ) -> None:
        ids = to_array(panoptic_seg)
        file = self._folder / f"{name}.png"
        _save(np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=2).astype(np.uint8), file)
        height, width = ids.shape
        self._images.append({"id": image_id, "height": height, "width": width})
        segments = []
        for info in segments_info:
            mask = (ids == info["id"]).astype(np.uint8)
            segments.append(
                {
                    "id": info["id"],
                    "category_id": self._category_id(info["category_id"], info["isthing"]),
                    "area": int(mask.sum()),
                    "bbox": list(cv2.boundingRect(mask)),
                    "iscrowd": 0,
                }
            )
        file_name = f"{name.as_posix()}.png"
        self._records.append(
            {"image_id": image_id, "file_name": file_name, "segments_info": segments}
        )

    def _categories(self) -> list[dict]:
        # A dataset may have a name for every label in both of its lists.
        things = self._metadata.get("thing_dataset_id_to_contiguous_id")
        categories = []
        for label, thing in known_classes(self._metadata, things=True, stuff=True):
            is_thing = thing if things is None else thing and label in things.values()
            category = {
                "id": self._category_id(label, thing),
                "name": class_name(self._metadata, label, thing),
                "isthing": int(is_thing),
            }
            categories.append(category)
        return categories

    def _category_id(self, label: int, thing: bool) -> int:
        for kind in ("thing", "stuff") if thing else ("stuff", "thing"):
            ids = self._metadata.get(f"{kind}_dataset_id_to_contiguous_id") or {}
            for dataset_id, contiguous in ids.items():
                if contiguous == label:
                    return dataset_id
        return label

    def _write_json(self, name: str, content: Any) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / name).write_text(json.dumps(content), encoding="utf-8")


def _save(array: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)
