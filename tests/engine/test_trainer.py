import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase
from detectron2.utils.env import seed_all_rng

from lrformer.data import DatasetError
from lrformer.engine import Trainer
from lrformer.engine.hooks import WeightAverage


def _train(cfg, resume=False, prepare=None, stop_after=None, **changes):
    cfg = cfg.clone()
    for key, value in changes.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    seed_all_rng(cfg.SEED)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    if stop_after is not None:
        trainer.register_hooks([_At(stop_after, _kill)])
    if prepare is not None:
        prepare(trainer)
    trainer.results = trainer.train()
    return trainer


class _At(HookBase):
    """Calls a function when an iteration (counted from 1) starts."""

    def __init__(self, iteration, function):
        self.iteration, self.function = iteration, function

    def before_step(self):
        if self.trainer.iter + 1 == self.iteration:
            self.function()


def _kill():
    os.kill(os.getpid(), signal.SIGTERM)


def _weights(trainer):
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def _assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=0)


def test_a_training_learns_and_leaves_its_results(tiny_cfg):
    trainer = _train(tiny_cfg, SOLVER__MAX_ITER=80, SOLVER__CHECKPOINT_PERIOD=20)
    assert trainer.results["sem_seg"]["mIoU"] > 95
    output = Path(tiny_cfg.OUTPUT_DIR)
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
    # The newest three of four periodic checkpoints.
    assert sorted(file.name for file in output.glob("model_0*.pth")) == [
        "model_0000039.pth",
        "model_0000059.pth",
        "model_0000079.pth",
    ]
    results = json.loads((output / "inference/tiny_sem_seg/sem_seg_results.json").read_text())
    assert results["mIoU"] == pytest.approx(trainer.results["sem_seg"]["mIoU"])
    assert results["images"] == 6


def test_the_same_seed_gives_the_same_weights(tiny_cfg):
    first = _weights(_train(tiny_cfg))
    _assert_same(first, _weights(_train(tiny_cfg)))
    other = _weights(_train(tiny_cfg, SEED=4))
    assert not torch.equal(first["predictor.weight"], other["predictor.weight"])


@pytest.mark.parametrize("workers, decay", [(0, 0.0), (2, 0.0), (0, 0.5)])
def test_a_resumed_training_equals_one_without_a_break(tiny_cfg, workers, decay):
    tiny_cfg.DATALOADER.NUM_WORKERS = workers
    tiny_cfg.SOLVER.EMA_DECAY = decay
    tiny_cfg.SOLVER.MAX_ITER = 7
    tiny_cfg.SOLVER.CHECKPOINT_PERIOD = 3
    straight = _train(tiny_cfg, OUTPUT_DIR=tiny_cfg.OUTPUT_DIR + "_straight")
    # Cut off in the fifth iteration, two after the checkpoint: what a power failure leaves.
    with pytest.raises(_PowerFailure):
        _train(tiny_cfg, prepare=lambda trainer: trainer.register_hooks([_At(5, _fail)]))
    resumed = _train(tiny_cfg, resume=True)

    assert resumed.start_iter == 3
    batches = straight.model.batches
    assert len({file for batch in batches for file in batch}) == 6
    assert resumed.model.batches == batches[3:]
    _assert_same(_weights(straight), _weights(resumed))
    assert resumed.scheduler.last_epoch == straight.scheduler.last_epoch == 7
    ours, theirs = (t.optimizer.state_dict()["state"] for t in (resumed, straight))
    assert ours[0]["step"] == theirs[0]["step"] == 7
    torch.testing.assert_close(ours[0]["exp_avg_sq"], theirs[0]["exp_avg_sq"], rtol=0, atol=0)


def test_an_average_of_weights_by_hand():
    model = torch.nn.Linear(1, 1, bias=False)
    hook = WeightAverage(model, decay=0.5)
    hook.trainer = SimpleNamespace(iter=0, max_iter=4)
    hook.before_train()
    for hook.trainer.iter, weight in enumerate([1.0, 2.0, 4.0, 8.0]):
        torch.nn.init.constant_(model.weight, weight)
        hook.after_step()
    # The share kept grows: 0, 0, 1 - 2 ** (-2 / 3) = 0.37, then 1 - 3 ** (-2 / 3) > 0.5.
    third = 0.370039 * 2 + 0.629961 * 4
    assert hook.model.weight.item() == pytest.approx(0.5 * third + 0.5 * 8)
    assert model.weight.item() == hook.model.weight.item()


def test_the_average_of_weights_is_what_is_evaluated_and_saved(tiny_cfg, monkeypatch):
    tiny_cfg.SOLVER.EMA_DECAY = 0.9
    tiny_cfg.TEST.EVAL_PERIOD = 3
    evaluated, trained = [], []

    def test(cfg, model, evaluators=None):
        evaluated.append(model.state_dict()["predictor.weight"].clone())
        return {"sem_seg": {"mIoU": float(len(evaluated))}}

    monkeypatch.setattr(Trainer, "test", staticmethod(test))
    trainer = _train(
        tiny_cfg,
        prepare=lambda t: t.register_hooks([_At(4, lambda: trained.append(_weights(t)))]),
    )
    assert not torch.equal(evaluated[0], trained[0]["predictor.weight"])
    for name in ("model_final.pth", "model_best.pth"):
        saved = torch.load(Path(tiny_cfg.OUTPUT_DIR) / name, weights_only=True)["model"]
        torch.testing.assert_close(saved["predictor.weight"], evaluated[-1], rtol=0, atol=0)
    assert torch.equal(trainer.model.state_dict()["predictor.weight"], evaluated[-1])


class _PowerFailure(Exception):
    pass


def _fail():
    raise _PowerFailure


def test_old_checkpoints_of_a_resumed_run_are_removed_too(tiny_cfg):
    tiny_cfg.SOLVER.CHECKPOINT_PERIOD = 1
    tiny_cfg.SOLVER.CHECKPOINT_MAX_TO_KEEP = 2
    with pytest.raises(_PowerFailure):
        _train(tiny_cfg, prepare=lambda trainer: trainer.register_hooks([_At(4, _fail)]))
    _train(tiny_cfg, resume=True)
    files = sorted(file.name for file in Path(tiny_cfg.OUTPUT_DIR).glob("model_0*.pth"))
    assert files == ["model_0000004.pth", "model_0000005.pth"]


def test_resuming_a_finished_training_only_evaluates(tiny_cfg):
    first = _train(tiny_cfg)
    again = _train(tiny_cfg, resume=True)
    assert again.model.batches == []
    assert again.results == first.results


def test_trainer_state_loads_without_running_code(tiny_cfg):
    _train(tiny_cfg)
    file = Path(tiny_cfg.OUTPUT_DIR) / "model_final.pth"
    checkpoint = torch.load(file, weights_only=True)
    assert checkpoint["iteration"] == 5
    assert set(checkpoint["trainer"]) == {"iteration", "hooks", "_trainer"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_training_saves_what_it_has(tiny_cfg, number, monkeypatch):
    update = torch.optim.AdamW.step
    steps = []

    def step(self, closure=None):
        steps.append(self)
        if len(steps) == 3:  # while the weights are being changed
            os.kill(os.getpid(), number)
        return update(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(KeyboardInterrupt):
        _train(tiny_cfg)
    last = (Path(tiny_cfg.OUTPUT_DIR) / "last_checkpoint").read_text()
    assert last == "model_0000002.pth"
    monkeypatch.undo()
    straight = _train(tiny_cfg, OUTPUT_DIR=tiny_cfg.OUTPUT_DIR + "_straight")
    resumed = _train(tiny_cfg, resume=True)
    assert resumed.start_iter == 3
    _assert_same(_weights(straight), _weights(resumed))


def test_a_training_stopped_before_its_first_iteration_saves_nothing(tiny_cfg):
    with pytest.raises(KeyboardInterrupt):
        _train(tiny_cfg, stop_after=1)
    assert not list(Path(tiny_cfg.OUTPUT_DIR).glob("*.pth"))


def test_a_second_ctrl_c_ends_the_process_as_usual(tiny_cfg):
    before = signal.getsignal(signal.SIGINT)

    def stop(trainer):
        trainer._trainer.updating = True
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is before

    def prepare(trainer):
        trainer.register_hooks([_At(2, lambda: stop(trainer))])

    with pytest.raises(KeyboardInterrupt):
        _train(tiny_cfg, prepare=prepare)


def _poison(at, value):
    """Makes the loss of an iteration (counted from 1) ``value``."""

    def prepare(trainer):
        forward = trainer.model.forward

        def poisoned(inputs):
            losses = forward(inputs)
            if trainer.model.training and trainer.iter + 1 == at:
                trainer.before = _weights(trainer)
                losses["loss_sem_seg"] = losses["loss_sem_seg"] * value
            return losses

        trainer.model.forward = poisoned
        _poison.trainer = trainer

    return prepare


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_iteration_and_loss(tiny_cfg, value):
    with pytest.raises(FloatingPointError, match=r"iteration=2!(.|\n)*loss_sem_seg"):
        _train(tiny_cfg, prepare=_poison(3, value))
    _assert_same(_poison.trainer.before, _weights(_poison.trainer))


def test_a_gradient_that_is_not_finite_names_iteration_and_loss(tiny_cfg):
    tiny_cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    tiny_cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"

    def prepare(trainer):
        def overflow(gradient):
            return gradient * (float("inf") if trainer.iter == 2 else 1)

        trainer.model.predictor.weight.register_hook(overflow)

    with pytest.raises(FloatingPointError, match=r"inf at iteration=2!\nloss_dict.*loss_sem_seg"):
        _train(tiny_cfg, prepare=prepare)


class _Scores:
    """Stands for an evaluation: gives the next of some values of mIoU."""

    def __init__(self, *values):
        self.values = list(values)

    def __call__(self, cfg, model, evaluators=None):
        return {"sem_seg": {"mIoU": self.values.pop(0)}}


def _best(cfg):
    return torch.load(Path(cfg.OUTPUT_DIR) / "model_best.pth", weights_only=True)["best"]


def test_the_best_weights_survive_worse_ones_and_a_break(tiny_cfg, monkeypatch):
    tiny_cfg.TEST.EVAL_PERIOD = 2
    tiny_cfg.SOLVER.CHECKPOINT_PERIOD = 1

    def scores(*values):
        monkeypatch.setattr(Trainer, "test", _Scores(*values))

    scores(10.0, 30.0)
    with pytest.raises(_PowerFailure):
        _train(tiny_cfg, prepare=lambda trainer: trainer.register_hooks([_At(5, _fail)]))
    assert _best(tiny_cfg) == {"metric": "sem_seg/mIoU", "value": 30.0, "iteration": 4}

    scores(30.0, 20.0)  # after the break: the evaluation that it may have cut off, a worse one
    _train(tiny_cfg, resume=True)
    assert _best(tiny_cfg)["value"] == 30.0
    # Resuming continues from the last weights, not from the best.
    assert (Path(tiny_cfg.OUTPUT_DIR) / "last_checkpoint").read_text() == "model_final.pth"

    scores(20.0, 25.0)
    _train(tiny_cfg, resume=True, SOLVER__MAX_ITER=7)
    assert _best(tiny_cfg)["value"] == 30.0
    scores(31.0)
    _train(tiny_cfg, resume=True, SOLVER__MAX_ITER=8, TEST__EVAL_PERIOD=0)
    assert _best(tiny_cfg) == {"metric": "sem_seg/mIoU", "value": 31.0, "iteration": 8}

    scores(5.0, 4.0, 3.0)  # another training in the same folder
    _train(tiny_cfg)
    assert _best(tiny_cfg) == {"metric": "sem_seg/mIoU", "value": 5.0, "iteration": 2}


def test_a_training_ends_early_when_it_gets_no_better(tiny_cfg, monkeypatch):
    scores = _Scores(10.0, 30.0, 20.0, 30.0, 5.0)
    monkeypatch.setattr(Trainer, "test", scores)
    changes = {"SOLVER__MAX_ITER": 40, "TEST__EVAL_PERIOD": 2, "SOLVER__CHECKPOINT_PERIOD": 100}
    trainer = _train(tiny_cfg, SOLVER__EARLY_STOPPING=2, **changes)
    assert scores.values == [5.0]  # the fourth evaluation is the second without a better score
    assert trainer.iter == 7
    assert _best(tiny_cfg)["iteration"] == 4
    saved = torch.load(Path(tiny_cfg.OUTPUT_DIR) / "model_final.pth", weights_only=True)
    _assert_same(saved["model"], _weights(trainer))


def test_an_early_end_keeps_the_average_and_is_reported_on(tiny_cfg, monkeypatch):
    tested = []

    def test(cfg, model, evaluators=None):
        tested.append((model.state_dict()["predictor.weight"].clone(), evaluators))
        return {"sem_seg": {"mIoU": 1.0}}

    monkeypatch.setattr(Trainer, "test", staticmethod(test))
    changes = {"SOLVER__MAX_ITER": 40, "TEST__EVAL_PERIOD": 2, "SOLVER__EMA_DECAY": 0.9}
    _train(
        tiny_cfg,
        prepare=lambda trainer: setattr(trainer, "last_evaluators", ["of the report"]),
        SOLVER__EARLY_STOPPING=1,
        **changes,
    )
    assert [evaluators for _, evaluators in tested] == [None, None, ["of the report"]]
    saved = torch.load(Path(tiny_cfg.OUTPUT_DIR) / "model_final.pth", weights_only=True)["model"]
    for evaluated, _ in tested[1:]:  # nothing was trained between the two
        torch.testing.assert_close(saved["predictor.weight"], evaluated, rtol=0, atol=0)


def test_nan_is_never_the_best(tiny_cfg, monkeypatch):
    monkeypatch.setattr(Trainer, "test", _Scores(float("nan")))
    _train(tiny_cfg)
    assert not (Path(tiny_cfg.OUTPUT_DIR) / "model_best.pth").exists()


def test_the_first_of_several_test_sets_decides_which_is_best(tiny_cfg, tiny_dataset):
    DatasetCatalog.register("tiny_sem_seg_2", lambda: DatasetCatalog.get(tiny_dataset))
    metadata = MetadataCatalog.get(tiny_dataset).as_dict()
    metadata.pop("name")
    MetadataCatalog.get("tiny_sem_seg_2").set(**metadata)
    try:
        tiny_cfg.DATASETS.TEST = ("tiny_sem_seg_2", tiny_dataset)
        trainer = _train(tiny_cfg)
    finally:
        DatasetCatalog.remove("tiny_sem_seg_2")
        MetadataCatalog.remove("tiny_sem_seg_2")
    assert set(trainer.results) == {"tiny_sem_seg_2", tiny_dataset}
    assert _best(tiny_cfg)["metric"] == "tiny_sem_seg_2/sem_seg/mIoU"


def test_datasets_are_checked_before_the_model_is_built(tiny_cfg, monkeypatch):
    monkeypatch.setattr(Trainer, "build_model", lambda cfg: pytest.fail("too late"))
    tiny_cfg.DATASETS.TEST = ("no_such_dataset",)
    with pytest.raises(DatasetError, match="no_such_dataset"):
        Trainer(tiny_cfg)
    tiny_cfg.DATASETS.TEST = ()
    tiny_cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 5
    with pytest.raises(DatasetError, match="NUM_CLASSES is 5, but tiny_sem_seg has 3"):
        Trainer(tiny_cfg)


def test_evaluation_follows_the_test_keys_and_leaves_the_model_in_training(tiny_cfg, monkeypatch):
    model = Trainer.build_model(tiny_cfg).train()
    sizes = []
    forward = model.forward
    monkeypatch.setattr(
        model,
        "forward",
        lambda inputs: sizes.append(tuple(inputs[0]["image"].shape[1:])) or forward(inputs),
    )
    whole = Trainer.test(tiny_cfg, model)
    assert set(sizes) == {(16, 16)}
    tiny_cfg.TEST.SLIDING_WINDOW.ENABLED = True
    tiny_cfg.TEST.SLIDING_WINDOW.CROP_SIZE = [8, 16]
    tiny_cfg.TEST.SLIDING_WINDOW.STRIDE = [8, 16]
    sizes.clear()
    # The model looks at single pixels, so that windows cannot change its predictions.
    assert Trainer.test(tiny_cfg, model) == whole
    assert set(sizes) == {(8, 16)}
    assert model.training
