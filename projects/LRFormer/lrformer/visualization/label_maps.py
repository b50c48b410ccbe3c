"""Predictions as files that other programs read."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from PIL import Image

from .classes import class_name, known_classes
from .segments import Prediction


class LabelMapWriter:
    """Writes predictions below a folder, in the usual format of their kind.

    ======== =====================================================================================
    semantic ``<name>.png``: class indices, 8 bits (16 for labels above 255)
    instance ``instances.json``: COCO's results, all of them, with run-length encoded masks
    panoptic ``<name>.png``: segment ids as COCO's panoptic maps have them, id = R + 256 G + 256² B;
             and ``panoptic.json``: the segments, in COCO's format
    ======== =====================================================================================

    Categories are the dataset's where its ``metadata`` has their ids, else contiguous.
    :meth:`close` writes the json files.
    """

    def __init__(self, folder: Path, task: str, metadata: Any) -> None:
        self._folder = folder
        self._task = task
        self._metadata = metadata
        self._records: list[dict] = []
        self._images: list[dict] = []
        # Contiguous to dataset ids; a dataset may have all of them in one of its lists.
        thing, stuff = (
            {i: dataset_id for dataset_id, i in (metadata.get(key) or {}).items()}
            for key in ("thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id")
        )
        self._dataset_ids = {True: stuff | thing, False: thing | stuff}

    def file_of(self, name: Path) -> Path:
        """The map of an image of this name, if the task has maps."""
        return self._folder / f"{name}.png"

    def write(self, prediction: Prediction, name: Path, image_id: int | str | None = None) -> None:
        """
        Args:
            prediction: array H x W, ``Instances``, or (array H x W, segments' infos).
            name: path of the map below the folder, without a suffix.
            image_id: the dataset's; None takes the name.
        """
        image_id = name.as_posix() if image_id is None else image_id
        if self._task == "instances":
            for result in instances_to_coco_json(prediction, image_id):
                result["category_id"] = self._category_id(result["category_id"], True)
                self._records.append(result)
            return
        if self._task == "sem_seg":
            pixels = prediction.astype(np.uint8 if prediction.max() <= 255 else np.uint16)
        else:
            ids = prediction[0]
            pixels = np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=2).astype(np.uint8)
            self._images.append({"id": image_id, "height": ids.shape[0], "width": ids.shape[1]})
            segments = [self._panoptic_segment(ids, info) for info in prediction[1]]
            record = {"image_id": image_id, "file_name": f"{name.as_posix()}.png"}
            self._records.append({**record, "segments_info": segments})
        file = self.file_of(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)

    def close(self) -> None:
        """Write the json file, if the task has one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._task == "instances":
            (self._folder / "instances.json").write_text(json.dumps(self._records))
        if self._task == "panoptic_seg":
            content = {"images": self._images, "annotations": self._records}
            content["categories"] = self._categories()
            (self._folder / "panoptic.json").write_text(json.dumps(content))

    def _panoptic_segment(self, ids: np.ndarray, info: dict) -> dict:
        mask = (ids == info["id"]).astype(np.uint8)
        return {
            "id": info["id"],
            "category_id": self._category_id(info["category_id"], info["isthing"]),
            "area": int(mask.sum()),
            "bbox": list(cv2.boundingRect(mask)),
            "iscrowd": 0,
        }

    def _categories(self) -> list[dict]:
        # A dataset may have a name for every label in both of its lists.
        things = self._metadata.get("thing_dataset_id_to_contiguous_id")
        return [
            {
                "id": self._category_id(label, thing),
                "name": class_name(self._metadata, label, thing),
                "isthing": int(thing and (things is None or label in things.values())),
            }
            for label, thing in known_classes(self._metadata, things=True, stuff=True)
        ]

    def _category_id(self, label: int, thing: bool) -> int:
        return self._dataset_ids[bool(thing)].get(label, label)
