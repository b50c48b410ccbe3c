"""A dataset of six pictures and a small LRFormer that is trained on it in seconds."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

NAME = "reported_sem_seg"
CLASSES = ["red", "green", "<blue> & more", "absent"]
COLORS = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (9, 9, 9)]
_KEYS = {
    "MODEL.DEVICE": "cpu",
    "MODEL.LRFORMER.EMBED_DIMS": "[8, 16, 24, 32]",
    "MODEL.LRFORMER.DEPTHS": "[1, 1, 1, 1]",
    "MODEL.LRFORMER.NUM_HEADS": "[1, 2, 2, 4]",
    "MODEL.LRFORMER.MLP_RATIOS": "[2, 2, 2, 2]",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": "32",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": "4",
    "DATASETS.TRAIN": f"('{NAME}',)",
    "DATASETS.TEST": f"('{NAME}',)",
    "DATALOADER.NUM_WORKERS": "0",
    "INPUT.CROP.ENABLED": "False",
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MIN_SIZE_TEST": "64",
    "SOLVER.IMS_PER_BATCH": "2",
    "SOLVER.MAX_ITER": "3",
    "SOLVER.AMP.ENABLED": "False",
    "TEST.EVAL_PERIOD": "2",
}


@pytest.fixture(scope="session")
def labels(tmp_path_factory):
    """Writes and registers the dataset; its label maps, 64x96, part of them ignored."""
    folder, random = tmp_path_factory.mktemp("reported"), np.random.default_rng(0)
    records, maps = [], []
    for number in range(6):
        label = random.integers(0, 3, (4, 6)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
        label[:5] = 255
        image = np.array(COLORS)[label % 4] + random.integers(-30, 30, (64, 96, 3))
        files = {"file_name": f"{number}.jpg", "sem_seg_file_name": f"{number}_label.png"}
        records.append({key: str(folder / name) for key, name in files.items()})
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(records[-1]["file_name"])
        Image.fromarray(label).save(records[-1]["sem_seg_file_name"])
        maps.append(label)
    DatasetCatalog.register(NAME, lambda: [{**x, "height": 64, "width": 96} for x in records])
    MetadataCatalog.get(NAME).set(
        stuff_classes=CLASSES, stuff_colors=COLORS, ignore_label=255, evaluator_type="sem_seg"
    )
    yield {x["file_name"]: label for x, label in zip(records, maps, strict=True)}
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.fixture(scope="session")
def output(tmp_path_factory):
    """The folder of the training."""
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="session")
def arguments(labels, output):
    """Keys for the end of train_net.py's command line."""
    keys = _KEYS | {"OUTPUT_DIR": str(output)}
    return [text for pair in keys.items() for text in pair]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
