"""TRACKER: metrics in Weights & Biases and MLflow, read back from what these wrote themselves."""

import json
import sys
import time

import pytest

from lrformer.engine import Trainer

_SCORES = ("lr", "sem_seg/mIoU")  # those that are not smoothed


def _train(cfg, tracker):
    cfg.TRACKER, cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD = tracker, 21, 20
    trainer = Trainer(cfg)
    trainer.train()
    return trainer.storage.latest()


def test_mlflow_has_the_metrics(tiny_cfg, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    latest = _train(tiny_cfg, "mlflow")
    client = mlflow.MlflowClient()
    (run,) = client.search_runs(["0"])
    assert run.info.status == "FINISHED"
    assert len(client.get_metric_history(run.info.run_id, "total_loss")) == 2
    for name in _SCORES:
        metric = client.get_metric_history(run.info.run_id, name)[-1]
        assert (metric.value, metric.step) == pytest.approx(latest[name])
    assert "MAX_ITER: 21" in mlflow.artifacts.load_text(f"{run.info.artifact_uri}/config.yaml")


def test_weights_and_biases_has_the_metrics(tiny_cfg, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    latest = _train(tiny_cfg, "wandb")
    (file,) = (tmp_path / "output").rglob("run-*.wandb")
    expected = {b"total_loss", *(name.encode() for name in _SCORES)}
    expected |= {json.dumps(latest[name][0]).encode() for name in _SCORES}
    end = time.monotonic() + 10  # its process may write a little later
    while missing := {text for text in expected if text not in file.read_bytes()}:
        assert time.monotonic() < end, missing
        time.sleep(0.1)


def test_a_tracker_that_is_not_there(tiny_cfg, monkeypatch):
    tiny_cfg.TRACKER = "neptune"
    with pytest.raises(ValueError, match="TRACKER is 'neptune', expected"):
        Trainer(tiny_cfg)
    monkeypatch.setitem(sys.modules, "wandb", None)
    tiny_cfg.TRACKER = "wandb"
    with pytest.raises(ValueError, match="pip install wandb"):
        Trainer(tiny_cfg)
