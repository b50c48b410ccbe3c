"""Metrics for Weights & Biases or MLflow, by their own packages (``TRACKER``)."""

import re
from abc import abstractmethod
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, get_event_storage


class _Tracker(EventWriter):
    """Passes on what is new in the event storage."""

    def __init__(self):
        self._last = -1

    def write(self) -> None:
        new: dict[int, dict[str, float]] = {}
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(20).items():
            if iteration > self._last:
                new.setdefault(iteration, {})[name] = value
        for self._last in sorted(new):
            self._log(new[self._last], self._last)

    @abstractmethod
    def _log(self, values: dict[str, float], iteration: int) -> None: ...


class WandbWriter(_Tracker):
    """A run of Weights & Biases; WANDB_PROJECT, WANDB_MODE and the like say where."""

    def __init__(self, cfg: CfgNode):
        import wandb

        super().__init__()
        try:
            self._run = wandb.init(dir=cfg.OUTPUT_DIR, name=Path(cfg.OUTPUT_DIR).name, config=cfg)
        except wandb.errors.Error as error:
            raise ValueError(f"TRACKER wandb: {error}") from error

    def _log(self, values: dict[str, float], iteration: int) -> None:
        self._run.log(values, step=iteration)

    def close(self) -> None:
        self._run.finish()


class MLflowWriter(_Tracker):
    """A run of MLflow; MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME say where."""

    def __init__(self, cfg: CfgNode):
        import mlflow

        super().__init__()
        self._mlflow = mlflow
        try:
            mlflow.start_run(run_name=Path(cfg.OUTPUT_DIR).name)
            mlflow.log_text(cfg.dump(), "config.yaml")
        except mlflow.MlflowException as error:
            raise ValueError(f"TRACKER mlflow: {error}") from error

    def _log(self, values: dict[str, float], iteration: int) -> None:
        allowed = {re.sub(r"[^\w\-./ ]", "_", name): value for name, value in values.items()}
        try:
            self._mlflow.log_metrics(allowed, step=iteration)
        except self._mlflow.MlflowException as error:
            raise OSError(error) from error  # which loses metrics, but not the training

    def close(self) -> None:
        self._mlflow.end_run()


_TRACKERS = {"wandb": WandbWriter, "mlflow": MLflowWriter}


def build_tracker(cfg: CfgNode) -> EventWriter:
    """The writer that ``TRACKER`` names; ValueError if there is none, or not its package."""
    if cfg.TRACKER not in _TRACKERS:
        raise ValueError(f'TRACKER is {cfg.TRACKER!r}, expected "wandb", "mlflow" or ""')
    try:
        return _TRACKERS[cfg.TRACKER](cfg)
    except ImportError as error:
        hint = f"pip install {cfg.TRACKER}"
        raise ValueError(f"TRACKER {cfg.TRACKER} is not installed ({error}): {hint}") from error
