"""The demo recipes of the three tasks, end to end, with a tiny model: train, resume, evaluate."""

import re
from itertools import chain
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from demo import write_demo_scenes
from lrformer.data import builtin
from lrformer.engine import run

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = {
    "lrformer_plus_t.yaml": ("demo_scenes_sem_seg", "mIoU"),
    "lrformer_plus_t_instance.yaml": ("demo_scenes_instance", "AP"),
    "lrformer_plus_t_panoptic.yaml": ("demo_scenes_panoptic", "PQ"),
}
SMALL = {
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "INPUT.CROP.SIZE": [64, 64],
    "INPUT.SIZE_DIVISIBILITY": 64,
    "INPUT.MIN_SIZE_TEST": 64,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.MAX_ITER": 4,
    "DATALOADER.NUM_WORKERS": 0,
}


@pytest.fixture
def scenes(tmp_path):
    """Six demo scenes where the registered names look for them."""
    write_demo_scenes(tmp_path, num_train=4, num_val=2, height=64, width=80, workers=1)

    def register(root):
        for name in [name for name in DatasetCatalog.list() if name.startswith("demo_scenes_")]:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        builtin.register_all(str(root))

    register(tmp_path)
    yield
    register(builtin.default_root())


@pytest.mark.parametrize("recipe", RECIPES)
def test_train_resume_and_evaluate(scenes, recipe, tiny_opts, tmp_path, capsys):
    dataset, metric = RECIPES[recipe]
    output = tmp_path / "output"
    del tiny_opts["MODEL.SEM_SEG_HEAD.NUM_CLASSES"]  # the recipe's

    def score(*options, **keys):
        keys = {**tiny_opts, **SMALL, "OUTPUT_DIR": output, **keys}
        argv = ["--config-file", str(CONFIGS / "demo" / recipe), *options]
        assert run.main([*argv, *map(str, chain(*keys.items()))]) == 0
        printed = capsys.readouterr().out
        return re.search(rf"{dataset}_val: {metric} (\S+)", printed)[1], printed

    score()
    (output / "last_checkpoint").write_text("model_0000001.pth")
    resumed, printed = score("--resume")
    assert "Starting training from iteration 2" in printed
    evaluated, _ = score("--eval-only", **{"MODEL.WEIGHTS": output / "model_final.pth"})
    assert evaluated == resumed


def test_an_unsuitable_mapper_is_told_before_the_first_iteration(scenes, tmp_path, capsys):
    argv = ["--config-file", str(CONFIGS / "demo" / "lrformer_plus_t_instance.yaml")]
    argv += ["OUTPUT_DIR", str(tmp_path / "output"), "INPUT.DATASET_MAPPER_NAME", "sem_seg"]
    assert run.main(argv) == 2
    error = capsys.readouterr().err
    assert "INPUT.DATASET_MAPPER_NAME is sem_seg" in error
    assert "mask_former_instance" in error


def test_a_dataset_of_another_task_is_told_before_the_first_iteration(scenes, tmp_path, capsys):
    argv = ["--config-file", str(CONFIGS / "demo" / "lrformer_plus_t.yaml")]
    argv += ["OUTPUT_DIR", str(tmp_path / "output")]
    assert run.main([*argv, "DATASETS.TEST", "('demo_scenes_instance_val',)"]) == 2
    assert "demo_scenes_instance_val" in capsys.readouterr().err
