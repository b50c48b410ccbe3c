"""Checkpoints, and a training that can be stopped at any time."""

import logging
import math
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from detectron2.utils.logger import log_first_n
from timm.utils import ModelEmaV3
from torch import nn

from lrformer.checkpoint.reading import damage
from lrformer.checkpoint.writing import save, set_aside

logger = logging.getLogger(__name__)


class PeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """detectron2's, which also removes the older checkpoints of the run that is resumed."""

    def before_train(self) -> None:
        super().before_train()
        start = self.trainer.start_iter
        if self.max_to_keep is None or start == 0:
            return
        files = sorted(Path(self.checkpointer.save_dir).glob(f"{self.file_prefix}_*.pth"))
        for file in files:
            number = file.stem.removeprefix(f"{self.file_prefix}_")
            if number.isdigit() and int(number) < start:
                self.recent_checkpoints.append(str(file))


class WeightAverage(HookBase):
    """An exponential moving average of weights and buffers, of which the last becomes the model's.

    timm's, whose decay grows from 0 to the given one. It is part of a training's checkpoints; after
    the last iteration the average takes the weights' place, so that ``model_final.pth`` has it.
    Comes before the hooks that save.
    """

    def __init__(self, model: nn.Module, decay: float):
        """
        Args:
            model: the one that is trained.
            decay: share of the average that an iteration keeps, in (0, 1).
        """
        self._model = model
        self._ema = ModelEmaV3(model, decay=decay, use_warmup=True)
        self._is_restored = False

    @property
    def model(self) -> nn.Module:
        """A copy of the model that has the average, in eval mode."""
        return self._ema.module

    def before_train(self) -> None:
        if not self._is_restored:  # the weights may come from a file
            self._ema.set(self._model)

    def after_step(self) -> None:
        self._ema.update(self._model, step=self.trainer.iter)
        if self.trainer.iter + 1 == self.trainer.max_iter:
            self.finish()

    def finish(self) -> None:
        """Give the model the average."""
        self._model.load_state_dict(self.model.state_dict())

    def state_dict(self) -> dict:
        return self.model.state_dict()

    def load_state_dict(self, state_dict: dict) -> None:
        self.model.load_state_dict(state_dict)
        self._is_restored = True


class BestCheckpointer(HookBase):
    """Keeps the weights with the highest value of a metric in ``model_best.pth``.

    The value stands in the file, so that a resumed training compares with it. Weights only: it is
    for testing, ``last_checkpoint`` still names the one to resume from. Comes after the hook that
    evaluates.
    """

    def __init__(self, model: nn.Module, folder: str | Path, metric: str):
        """
        Args:
            model: the one that is evaluated.
            folder: where the file is written.
            metric: name in the event storage, such as "sem_seg/mIoU".
        """
        self.metric = metric
        self.value = -math.inf
        self._model = model
        self.file = Path(folder) / "model_best.pth"

    def before_train(self) -> None:
        if self.trainer.start_iter == 0 or not self.file.is_file():
            return
        if problem := damage(self.file):
            logger.warning(
                f"{self.file} is damaged ({problem}) and kept as {set_aside(self.file).name}: the "
                "next evaluation is the best so far"
            )
        else:
            # mmap: of a file of weights only the value is read.
            best = torch.load(self.file, "cpu", weights_only=True, mmap=True).get("best", {})
            if best.get("metric") == self.metric:
                self.value = best["value"]
                logger.info(
                    f"best {self.metric} so far: {self.value:.2f} at iteration {best['iteration']}"
                )

    def after_step(self) -> None:
        self._compare(self.trainer.iter + 1)

    def after_train(self) -> None:
        self._compare(self.trainer.max_iter)

    def _compare(self, iteration: int) -> None:
        value, evaluated_at = self.trainer.storage.latest().get(self.metric, (math.nan, None))
        if evaluated_at != self.trainer.storage.iter or not value > self.value:
            return
        self.value = value
        best = {"metric": self.metric, "value": value, "iteration": iteration}
        save({"model": self._model.state_dict(), "best": best}, self.file)
        logger.info(f"best {self.metric} so far: {value:.2f}; saved to {self.file}")


class TolerantWriter(EventWriter):
    """A writer of metrics that loses them, with a warning, where its file cannot be written.

    What then cannot be saved either ends the training: a checkpoint.
    """

    def __init__(self, writer: EventWriter):
        self._writer = writer

    def write(self) -> None:
        self._try(self._writer.write)

    def close(self) -> None:
        self._try(self._writer.close)

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            text = f"{type(self._writer).__name__} loses metrics: {error}"
            log_first_n(logging.WARNING, text, name=__name__, key="message")


class EarlyStop(BaseException):
    """Ends a training that no longer gets better; no error, so that detectron2 reports none."""


class EarlyStopping(HookBase):
    """Raises :class:`EarlyStop` after evaluations in a row without a better value of a metric.

    Comes, in every process, after the hook that evaluates.
    """

    def __init__(self, metric: str, patience: int):
        """
        Args:
            metric: name in the event storage, such as "sem_seg/mIoU".
            patience: how many evaluations.
        """
        self._metric = metric
        self._patience = patience
        self._state = {"best": -math.inf, "worse": 0, "iteration": None}

    def after_step(self) -> None:
        storage = self.trainer.storage
        # Only the main process evaluates, and a resumed training the same iteration again.
        value, iteration = storage.latest().get(self._metric, (math.nan, None))
        if iteration == storage.iter != self._state.get("iteration"):
            better = value > self._state["best"]
            best = value if better else self._state["best"]
            worse = 0 if better else self._state["worse"] + 1
            self._state = {"best": best, "worse": worse, "iteration": iteration}
        if any(comm.all_gather(self._state["worse"] >= self._patience)):
            raise EarlyStop

    def state_dict(self) -> dict:
        return self._state

    def load_state_dict(self, state_dict: dict) -> None:
        self._state = state_dict


class GracefulStop(HookBase):
    """Saves a checkpoint when the training is stopped by Ctrl-C or SIGTERM, or SIGUSR1 of SLURM.

    The signal becomes a KeyboardInterrupt: at once, or after the current iteration while weights
    are being changed or other processes take part. A second signal ends the process as usual. Comes
    after the hook that steps the learning rate, when an iteration is complete.
    """

    def __init__(self, checkpointer: DetectionCheckpointer, requeue: bool = False):
        """
        Args:
            checkpointer: what saves.
            requeue: whether SIGUSR1 stops, too, and then has SLURM put its job back into the queue.
        """
        self._checkpointer = checkpointer
        self._signals = [signal.SIGINT, signal.SIGTERM]
        self._job = _slurm_job() if requeue else None
        if self._job:
            self._signals.append(signal.SIGUSR1)
        self._number = None
        self._previous = {}
        self._asked = False
        self._completed = None
        self._pid = None

    def before_train(self) -> None:
        self._pid = os.getpid()
        # Python delivers signals to the main thread only.
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                self._previous[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame) -> None:
        if os.getpid() != self._pid:  # a data loader's worker
            raise KeyboardInterrupt
        self._asked = True
        self._number = number
        self._restore()
        if comm.get_world_size() == 1 and not self.trainer._trainer.updating:
            raise KeyboardInterrupt
        logger.info(f"{signal.Signals(number).name}: stopping after this iteration")

    def after_step(self) -> None:
        self._completed = self.trainer.iter
        self.trainer._trainer.updating = False
        # All processes stop after the same iteration, or the others would wait for ever.
        self._asked = any(comm.all_gather(self._asked))
        if self._asked:
            raise KeyboardInterrupt

    def after_train(self) -> None:
        self._restore()
        finished = self.trainer.iter >= self.trainer.max_iter
        if not self._asked or finished:
            return
        if self._completed is not None:
            # The iteration that was cut off is not part of the state.
            self.trainer.iter = self._completed
            is_last = self._completed + 1 == self.trainer.max_iter
            name = "model_final" if is_last else f"model_{self._completed:07d}"
            self._checkpointer.save(name, iteration=self._completed)
            logger.info(
                f"stopped after iteration {self._completed + 1} of {self.trainer.max_iter}; "
                "--resume continues there"
            )
        if self._number == signal.SIGUSR1 and comm.is_main_process():
            _requeue(self._job)

    def _restore(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())


def _requeue(job: str) -> None:
    logger.info(f"SIGUSR1: job {job} goes back into SLURM's queue")
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as e:
        logger.error(f"job {job} was not re-queued ({e}): submit it again with --resume")


def _slurm_job() -> str | None:
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return (
        f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID")
    )
