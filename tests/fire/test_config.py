"""Every key of this project's config, with values that it was not made for.

Each is refused by a message that names it, before the first iteration, or trains and evaluates.
``python -m tests.fire.test_config docs/config_values.md`` tries all and writes what happened.
"""

import math
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from lrformer import add_lrformer_config, load_cfg
from lrformer.config import ConfigError
from lrformer.config_values import RULES, items, rule_of
from lrformer.engine import Trainer
from tests.conftest import TINY
from tests.engine.conftest import register_tiny
from tests.referring.conftest import TINY as TINY_LISA

_THEIRS = dict(items(get_cfg()))
DEFAULTS = {
    key: value
    for key, value in items(add_lrformer_config(get_cfg()))
    if key in RULES or key not in _THEIRS
}
HUGE = 10**12
_HEADING = """# What the config's keys admit

Written by `python -m tests.fire.test_config docs/config_values.md`, which gives every key of
[config.py](../projects/LRFormer/lrformer/config.py) values of a wrong type, sign, size and length.
So many were refused by a message that names the key, before the first iteration; with the others a
small model trained and was evaluated: they mean what config.py says.

"""
# What a key needs to have an effect: the model, and other keys.
MODELS = {"MODEL.MIT": "segformer_b0", "MODEL.RTFORMER": "rtformer_slim"}
PLUS = ("MASK_FORMER", "TRANSFORMER", "MASK_DIM", "PIXEL_DECODER", "DEFORM")
SWITCHES = {
    "TEST.SLIDING_WINDOW": ("TEST.SLIDING_WINDOW.ENABLED", True),
    "TEST.BOUNDARY_IOU": ("TEST.BOUNDARY_IOU.ENABLED", True),
    "SOLVER.AMP": ("SOLVER.AMP.ENABLED", True),
    "INPUT.CROP": ("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute"),
}
COMMON = {
    "MODEL.DEVICE": "cpu",
    "DATASETS.TRAIN": ("tiny_sem_seg",),
    "DATASETS.TEST": ("tiny_sem_seg",),
    "DATALOADER.NUM_WORKERS": 0,
    "DATALOADER.ASPECT_RATIO_GROUPING": False,
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.CROP.ENABLED": False,
    "INPUT.CROP.SIZE": [48, 48],
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 2,
}


def hostile(default):
    """Values of a wrong type, sign, size or length for a key with this default."""
    yield from (None, {"a": 1}, 3 if isinstance(default, str) else "text")
    if isinstance(default, bool):
        yield from (-1, 0, 0.5, "", [])
    elif isinstance(default, int):
        yield from (-1, 0, 0.5, HUGE, True, "", [])
    elif isinstance(default, float):
        yield from (-1.0, 0.0, 1, 1e30, math.inf, math.nan, "", [])
    elif isinstance(default, str):
        yield from ("", "x" * 1000, -1, 0, [], True)
    else:
        yield from ([], 3, "", list(default) * 2, list(default)[:-1], [HUGE], [[]])
        size = max(len(default), 2)
        for entry in (-1, 0, 0.5, HUGE, math.nan, "text", None, True, [0], [-1]):
            yield [entry] * size


def _register(folder):
    """Six images with label maps, and with phrases."""
    name = register_tiny(folder)
    half = {"phrase": "left half", "segmentation": [[0, 0, 8, 0, 8, 16, 0, 16]]}
    records = [{**x, "referring": [half, half]} for x in DatasetCatalog.get(name)]
    DatasetCatalog.register("tiny_phrases", lambda: records)
    MetadataCatalog.get("tiny_phrases").set(evaluator_type="referring")
    return name, "tiny_phrases"


def outcome(key, value, folder):
    """ "refused" by a message that names the key, or "runs"; fails otherwise."""
    config = "lrformer_t"
    if key.startswith("MODEL.") and any(part in key for part in PLUS):
        config = "lrformer_plus_t"
    config = next((name for start, name in MODELS.items() if key.startswith(start)), config)
    changes = {**TINY, "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 3, **COMMON, "OUTPUT_DIR": str(folder)}
    task, metric = "sem_seg", "mIoU"
    if key.startswith("MODEL.LISA") or key == "INPUT.PHRASES_PER_IMAGE":
        pytest.importorskip("transformers", "5.0")
        config, task, metric = "../demo/referring_t", "referring", "gIoU"
        changes |= {**TINY_LISA, "DATASETS.TRAIN": ("tiny_phrases",)}
        changes["DATASETS.TEST"] = ("tiny_phrases",)
    if config == "lrformer_plus_t":
        changes["INPUT.DATASET_MAPPER_NAME"] = "mask_former_semantic"
    opts = [x for pair in changes.items() for x in pair]
    opts += next((list(more) for start, more in SWITCHES.items() if key.startswith(start)), [])
    try:
        cfg = load_cfg(f"models/{config}.yaml", [*opts, key, value])
        trainer = Trainer(cfg)
    except ValueError as error:  # ConfigError is one
        assert key.rpartition(".")[2] in str(error), f"{key} {value!r}: {error}"
        return "refused"
    trainer.resume_or_load(resume=False)
    scores = trainer.train()
    assert all(x.isfinite().all() for x in trainer.model.parameters()), f"{key} {value!r}"
    assert math.isfinite(scores[task][metric]), f"{key} {value!r}"
    return "runs"


@pytest.fixture(scope="module")
def tiny_data(tmp_path_factory):
    names = _register(tmp_path_factory.mktemp("tiny"))
    yield
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def _refused(key, value):
    try:
        load_cfg(None, [key, value])
    except ConfigError as error:
        assert key in str(error), error
        return True
    return False


@pytest.mark.parametrize("key", DEFAULTS)
def test_values_that_a_key_does_not_admit_are_refused_by_name(key):
    default = DEFAULTS[key]
    for value in hostile(default):
        known = type(value) is type(default) or {type(value), type(default)} == {list, tuple}
        assert _refused(key, value) != (known and rule_of(key, default).admits(value)), value


@pytest.mark.slow
@pytest.mark.parametrize("key", DEFAULTS)
def test_hostile_values_are_refused_or_train(tiny_data, tmp_path, key):
    torch.set_num_threads(1)
    for value in hostile(DEFAULTS[key]):
        if not _refused(key, value):
            outcome(key, value, tmp_path)


def _table(folder):
    _register(folder)
    lines = ["| key | default | admits | refused | trains |", "|---|---|---|---|---|"]
    for key, default in DEFAULTS.items():
        values = {"refused": [], "runs": []}
        for value in hostile(default):
            result = "refused" if _refused(key, value) else outcome(key, value, folder / "output")
            values[result].append("'xxx…'" if value == "x" * 1000 else repr(value))
        ran = ", ".join(f"`{value}`" for value in values["runs"])
        text = rule_of(key, default).text
        lines.append(f"| `{key}` | `{default!r}` | {text} | {len(values['refused'])} | {ran} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        Path(sys.argv[1]).write_text(_HEADING + _table(Path(folder)))
