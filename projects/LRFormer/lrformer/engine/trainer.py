"""detectron2's default trainer for this project's models and data."""

import logging
import weakref
from collections import OrderedDict
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, create_ddp_model, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventWriter
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lrformer.checkpoint import LRFormerCheckpointer
from lrformer.data import build_test_loader, build_train_loader, metadata_of, verify_dataset
from lrformer.evaluation import PerClassSemSegEvaluator, best_metric, build_evaluator
from lrformer.inference import ClassMaps, ConfidentClassMaps, build_inference_model
from lrformer.inference.tasks import predicts_logits
from lrformer.ops import accelerate
from lrformer.precision import autocast_dtype
from lrformer.report import ReportEvaluator

from .hooks import (
    BestCheckpointer,
    EarlyStop,
    EarlyStopping,
    GracefulStop,
    PeriodicCheckpointer,
    TolerantWriter,
    WeightAverage,
)
from .resume import skip_images
from .solver import build_lr_scheduler, build_optimizer
from .step import TrainStep
from .tracking import build_tracker

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Trains, evaluates and saves as the config says.

    What it adds to detectron2's: this project's data, optimizer, schedule and evaluation; mixed
    precision on any device (``SOLVER.AMP``); the datasets are checked first; the best checkpoint
    beside the last ones; a training that was stopped continues with its optimizer, its schedule
    and, where ``SEED`` fixes the order of the images, the next images.

    Attributes:
        last_evaluators: those of the evaluation after the last iteration; None: as in all others.

    Examples::

        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        results = trainer.train()
    """

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: with the keys of :func:`lrformer.add_lrformer_config`. ``MODEL.DEVICE`` must exist
                (:func:`lrformer.engine.adapt_to_machine`).

        Raises:
            DatasetError: a dataset cannot be used.
            ValueError: a key's value cannot be used.
        """
        # Not DefaultTrainer's: it knows AMP on GPUs only and starts the data loader.
        super(DefaultTrainer, self).__init__()
        for name in ("detectron2", "lrformer"):
            if not logging.getLogger(name).isEnabledFor(logging.INFO):
                setup_logger(name=name)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        self.verify_datasets(cfg)
        if comm.is_main_process():
            PathManager.mkdirs(cfg.OUTPUT_DIR)

        model = accelerate(self.build_model(cfg))
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        on_gpu = cfg.MODEL.DEVICE.startswith("cuda")
        devices = [torch.cuda.current_device()] if on_gpu else None
        model = create_ddp_model(model, broadcast_buffers=False, device_ids=devices)
        self._trainer = TrainStep(model, data_loader, optimizer, _training_dtype(cfg))
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = LRFormerCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            allow_pickle=cfg.MODEL.WEIGHTS_ALLOW_PICKLE,
            trainer=weakref.proxy(self),
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.last_evaluators: list[DatasetEvaluator] | None = None
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue the training in ``OUTPUT_DIR``, or start one from ``MODEL.WEIGHTS``.

        Args:
            resume: whether to continue, if there is a checkpoint to continue from.
        """
        saved = self.checkpointer.has_checkpoint()
        if resume and not saved:
            logger.warning(f"nothing to resume in {self.cfg.OUTPUT_DIR}: starting anew")
        if saved and not resume:
            logger.warning(
                f"{self.cfg.OUTPUT_DIR} holds another training, whose checkpoints will be "
                "overwritten; --resume would continue it"
            )
        super().resume_or_load(resume=resume)
        if self.start_iter > 0 and self.cfg.SEED >= 0:
            # The same order as without the break, but not the augmentations of the first images
            # again.
            images = self.cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
            skip_images(self.data_loader, self.start_iter * images)
            seed_all_rng(self.cfg.SEED + comm.get_rank() + self.start_iter)

    def build_hooks(self) -> list[HookBase]:
        """detectron2's hooks, with this project's checkpoints among them."""
        model = self.checkpointer.model
        average = None
        if self.cfg.SOLVER.EMA_DECAY:
            average = WeightAverage(model, self.cfg.SOLVER.EMA_DECAY)
            model = average.model

        def evaluate() -> dict[str, Any]:
            is_last = self.iter >= self.max_iter
            evaluators = self.last_evaluators if is_last else None
            self._last_eval_results = self.test(self.cfg, model, evaluators)
            return self._last_eval_results

        built = []
        for hook in super().build_hooks():
            if isinstance(hook, hooks.PeriodicCheckpointer):
                hook = PeriodicCheckpointer(
                    self.checkpointer,
                    self.cfg.SOLVER.CHECKPOINT_PERIOD,
                    max_to_keep=self.cfg.SOLVER.CHECKPOINT_MAX_TO_KEEP or None,
                )
            elif isinstance(hook, hooks.EvalHook):
                hook = hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, evaluate)
            built.append(hook)
            if isinstance(hook, hooks.LRScheduler):
                built += [average] if average else []
                built.append(GracefulStop(self.checkpointer, self.cfg.SOLVER.SLURM_REQUEUE))
            elif isinstance(hook, hooks.EvalHook) and comm.is_main_process():
                built.append(BestCheckpointer(model, self.cfg.OUTPUT_DIR, self._best_metric()))
        if self.cfg.SOLVER.EARLY_STOPPING:
            built.append(EarlyStopping(self._best_metric(), self.cfg.SOLVER.EARLY_STOPPING))
        return built

    def build_writers(self) -> list[EventWriter]:
        """detectron2's and ``TRACKER``'s, which a full disk does not end the training by."""
        tracker = [build_tracker(self.cfg)] if self.cfg.TRACKER else []
        return [TolerantWriter(writer) for writer in (*super().build_writers(), *tracker)]

    def _best_metric(self) -> str:
        # Of several test sets the first decides.
        test_sets = self.cfg.DATASETS.TEST
        metric = best_metric(self.cfg, test_sets[0]) if test_sets else "sem_seg/mIoU"
        return f"{test_sets[0]}/{metric}" if len(test_sets) > 1 else metric

    def train(self) -> dict[str, Any]:
        """Train up to ``SOLVER.MAX_ITER``.

        Returns:
            The last evaluation's results, see :meth:`test`; empty in other processes than the main.

        Raises:
            FloatingPointError: a loss or gradient is not finite; the weights are still good.
            KeyboardInterrupt: stopped by Ctrl-C or SIGTERM, after saving a checkpoint.
        """
        self._last_eval_results = {}
        if self.start_iter >= self.max_iter:
            logger.info(
                f"already trained for {self.start_iter} iterations (SOLVER.MAX_ITER is "
                f"{self.max_iter}): evaluating only"
            )
        try:
            super().train()
        except EarlyStop:
            self._stop_early()
        return self._last_eval_results

    def before_train(self) -> None:
        """Start a resumed training with the evaluation that the break may have cut off."""
        super().before_train()
        if self.start_iter == 0:
            return
        self.iter = self.storage.iter = self.start_iter - 1
        for hook in self._hooks:
            if isinstance(hook, (hooks.EvalHook, BestCheckpointer, EarlyStopping)):
                hook.after_step()

    def _stop_early(self) -> None:
        """What else the last iteration is followed by."""
        logger.info(
            f"stopped after iteration {self.iter + 1} of {self.max_iter}: no better score in "
            f"{self.cfg.SOLVER.EARLY_STOPPING} evaluations (SOLVER.EARLY_STOPPING)"
        )
        for hook in self._hooks:
            if isinstance(hook, WeightAverage):
                hook.finish()
        self.checkpointer.save("model_final", iteration=self.iter)
        if self.last_evaluators is not None:
            self._last_eval_results = self.test(self.cfg, self.model, self.last_evaluators)

    # The detectron2 of 2021 leaves the optimizer out of its default trainer's state; newer ones
    # have this layout.
    def state_dict(self) -> dict[str, Any]:
        """Iteration, hooks (among them the schedule's), optimizer and loss scale."""
        return {**super(DefaultTrainer, self).state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        super(DefaultTrainer, self).load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def verify_datasets(cls, cfg: CfgNode, names: tuple[str, ...] | None = None) -> None:
        """Check the datasets' files, and that all are about the same classes.

        Args:
            cfg: names the datasets.
            names: those whose files to check; None: all of ``DATASETS.TRAIN`` and ``TEST``.

        Raises:
            DatasetError: a dataset cannot be used, or two disagree.
        """
        if names is None:
            names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
        if comm.is_main_process():
            for name in dict.fromkeys(names):
                mapper = cfg.INPUT.DATASET_MAPPER_NAME if name in cfg.DATASETS.TRAIN else None
                verify_dataset(name, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, mapper)
            metadata_of(cfg)
        comm.synchronize()

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = build_model(cfg)
        parameters = list(model.parameters())
        count = sum(p.numel() for p in parameters)
        trainable = sum(p.numel() for p in parameters if p.requires_grad)
        logger.info(
            f"{type(model).__name__}: {count / 1e6:.2f} M parameters, {trainable / 1e6:.2f} M of "
            "them trainable"
        )
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(
        cls, cfg: CfgNode, optimizer: torch.optim.Optimizer
    ) -> torch.optim.lr_scheduler.LRScheduler:
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        return build_evaluator(cfg, dataset_name)

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: list[DatasetEvaluator] | None = None,
    ) -> "OrderedDict[str, Any]":
        """Evaluate on ``DATASETS.TEST`` as the keys of ``TEST`` say, and leave ``model`` as it is.

        In ``TEST.RUNTIME.DTYPE``, whatever ``SOLVER.AMP`` is: by default float32, so that a
        checkpoint has the same score everywhere.

        Returns:
            Task -> metric -> value, such as {"sem_seg": {"mIoU": 45.2, …}}; with several test sets
            that for each dataset's name.
        """
        if isinstance(model, DistributedDataParallel):
            model = model.module
        if evaluators is None:
            evaluators = [cls.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST]
        is_training = model.training
        model.eval()
        try:
            prepared = build_inference_model(cfg, model)
            if any(isinstance(x, ReportEvaluator) for x in evaluators):
                prepared = ConfidentClassMaps(prepared, predicts_logits(cfg))
            elif all(isinstance(x, PerClassSemSegEvaluator) for x in evaluators):
                prepared = ClassMaps(prepared)
            return super().test(cfg, prepared, evaluators)
        finally:
            model.train(is_training)


def _training_dtype(cfg: CfgNode) -> torch.dtype | None:
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    dtype = autocast_dtype(cfg.SOLVER.AMP.DTYPE, cfg.MODEL.DEVICE, "SOLVER.AMP.DTYPE")
    if dtype is None:
        logger.info(
            f"SOLVER.AMP: training in float32, because this {cfg.MODEL.DEVICE} does not compute in "
            "bfloat16"
        )
    else:
        logger.info(f"SOLVER.AMP: training in {str(dtype).removeprefix('torch.')}")
    return dtype
