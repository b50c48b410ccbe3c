"""Evaluation with the keys of TEST.RUNTIME: the same scores, an undisturbed training."""

import gc
from copy import deepcopy

import pytest
import torch
from detectron2.evaluation import SemSegEvaluator
from detectron2.modeling import SemanticSegmentor
from torch import nn

from lrformer import load_cfg
from lrformer.engine import Trainer
from lrformer.engine.run import main
from lrformer.inference.network import PlainSegmentor
from lrformer.modeling.backbone import LRFormer

_LRFORMER = {
    "MODEL.DEVICE": "cpu",
    "MODEL.LRFORMER.EMBED_DIMS": "[8, 16, 24, 32]",
    "MODEL.LRFORMER.DEPTHS": "[1, 1, 1, 1]",
    "MODEL.LRFORMER.NUM_HEADS": "[1, 2, 2, 4]",
    "MODEL.LRFORMER.MLP_RATIOS": "[2, 2, 2, 2]",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": "32",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": "3",
    "DATASETS.TRAIN": "('tiny_sem_seg',)",
    "DATASETS.TEST": "('tiny_sem_seg',)",
    "DATALOADER.NUM_WORKERS": "0",
    "INPUT.MIN_SIZE_TEST": "96",
    "INPUT.MAX_SIZE_TEST": "96",
}


@pytest.fixture
def overrides(tiny_dataset, tmp_path):
    keys = _LRFORMER | {"OUTPUT_DIR": str(tmp_path / "output")}
    return [text for pair in keys.items() for text in pair]


@pytest.fixture
def cfg(overrides):
    return load_cfg("models/lrformer_t.yaml", overrides)


@pytest.fixture
def model(cfg):
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).train()
    nn.init.normal_(model.sem_seg_head.predictor.weight)
    return model


def _live(kind):
    gc.collect()
    return sum(isinstance(x, kind) for x in gc.get_objects())


def test_an_evaluation_within_a_training_leaves_nothing_behind(cfg, model):
    before, modes = deepcopy(model.state_dict()), [x.training for x in model.modules()]
    children, backbones = dict(model.named_children()), _live(LRFormer)
    Trainer.test(cfg, model)
    assert dict(model.named_children()) == children
    assert [x.training for x in model.modules()] == modes
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())
    assert _live(LRFormer) == backbones
    assert _live(PlainSegmentor) == 0


def test_a_failed_evaluation_leaves_the_model_in_training(cfg, model, monkeypatch):
    monkeypatch.setattr(SemanticSegmentor, "device", property(lambda self: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        Trainer.test(cfg, model)
    assert model.training and model.backbone.training


def test_class_maps_score_as_the_scores_of_all_classes_do(cfg, model):
    ours = Trainer.test(cfg, model)["sem_seg"]
    theirs = Trainer.test(
        cfg, model, [SemSegEvaluator("tiny_sem_seg", False, cfg.OUTPUT_DIR + "/theirs")]
    )["sem_seg"]
    # With three classes that all occur, detectron2's definitions are ours.
    for metric in ("mIoU", "pACC", "mACC", "fwIoU"):
        assert ours[metric] == pytest.approx(theirs[metric], abs=1e-9)


def test_options_change_the_scores_by_rounding_only(cfg, model, monkeypatch):
    monkeypatch.setattr("lrformer.precision.has_bfloat16", lambda device: True)
    plain = Trainer.test(cfg, model)["sem_seg"]["pACC"]
    cfg.TEST.RUNTIME.DTYPE = "bfloat16"
    assert Trainer.test(cfg, model)["sem_seg"]["pACC"] == pytest.approx(plain, abs=5)


def test_an_engine_is_for_evaluation_alone(overrides, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    arguments = ["--config-file", "models/lrformer_t.yaml", *overrides]
    assert main([*arguments, "TEST.RUNTIME.ENGINE", "openvino"]) == 2
    assert "TEST.RUNTIME.ENGINE openvino is for --eval-only" in capsys.readouterr().err


@pytest.mark.parametrize("eval_only", [False, True])
def test_options_that_cannot_be_are_told_before_the_first_image(
    overrides, tmp_path, capsys, monkeypatch, eval_only
):
    monkeypatch.setattr(Trainer, "build_model", lambda cfg: pytest.fail("too late"))
    weights = tmp_path / "weights.pth"
    weights.touch()
    arguments = ["--config-file", "models/lrformer_t.yaml", *(["--eval-only"] * eval_only)]
    options = ["MODEL.WEIGHTS", str(weights), "TEST.RUNTIME.DTYPE", "float16"]
    assert main([*arguments, *overrides, *options]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: TEST.RUNTIME.DTYPE is 'float16', which is for GPUs")
