"""Folders of tiny datasets as users have them."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from lrformer.data import load_dataset
from lrformer.data.own import find, load_spec, register


class Folder:
    """A dataset's folder, with ``images/a.jpg`` and ``images/b.jpg``, and its yaml."""

    def __init__(self, root: Path):
        self.root = root
        for name in "ab":
            self.image(f"images/{name}.jpg", np.zeros((6, 8, 3), np.uint8))

    def image(self, name, array, **options) -> Path:
        return self._write(name, lambda file: Image.fromarray(array).save(file, **options))

    def json(self, name, content) -> Path:
        return self._write(name, lambda file: file.write_text(json.dumps(content)))

    def text(self, name, content) -> Path:
        return self._write(name, lambda file: file.write_text(content))

    def _write(self, name, write) -> Path:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file)
        return file

    def yaml(self, labels="labels", images="images", **keys) -> Path:
        """Write ``mine.yaml``; without other splits both images are in "train"."""
        if "splits" not in keys and "split" not in keys:
            keys["splits"] = {"train": {"images": images, "labels": labels}}
        return self.text("mine.yaml", yaml.safe_dump(keys, sort_keys=False))

    def register(self, task="semantic", **keys):
        """Names of the registered splits, and what was found."""
        found = find(load_spec(self.yaml(**keys)))
        return register(found, task), found

    def maps(self, **keys):
        """The label maps of "train", by image, as the mappers read them; and the metadata."""
        names, _ = self.register(**keys)
        records = load_dataset(names["train"])
        maps = {Path(r["file_name"]).stem: Image.open(r["sem_seg_file_name"]) for r in records}
        return {k: np.asarray(v) for k, v in maps.items()}, MetadataCatalog.get(names["train"])


@pytest.fixture
def folder(tmp_path):
    yield Folder(tmp_path)
    for name in [name for name in DatasetCatalog.list() if name.startswith("mine_")]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
