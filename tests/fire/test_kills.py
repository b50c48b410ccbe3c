"""Trainings that are killed or stopped at random moments, and resumed.

Nothing in them is random but the order of the images, which a resumed training continues. One with
random augmentation or stochastic depth goes on with other random numbers.
"""

import json
import multiprocessing
import os
import random
import signal
import sys
from collections import Counter
from functools import cache

import pytest
import torch

from lrformer.engine import run
from lrformer.engine.hooks import _requeue

PERIOD = 2
OPTIONS = (
    f"SOLVER.CHECKPOINT_PERIOD {PERIOD} SOLVER.MAX_ITER 9 SOLVER.EMA_DECAY 0.5 "
    "SOLVER.EARLY_STOPPING 9 TEST.EVAL_PERIOD 2"
)
# Whose calls are counted; "": anyone's.
PLACES = {
    "anywhere": "",
    "checkpoint": "lrformer/checkpoint/writing.py",
    "serialization": "torch/serialization.py",
    "best": "lrformer/engine/hooks.py",
    "evaluation": "lrformer/evaluation/",
    "loading": "lrformer/data/",
}
CALLS = {}  # of the undisturbed training


def _train(folder, *options, place="", moment=0.0, number=signal.SIGKILL, env=None):
    """Train in a process of its own, which gets a signal when a share of its calls is made.

    Returns:
        Its exit code and the iterations that it began.
    """
    began = folder / "began"
    began.unlink(missing_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lrformer.engine.run"])
    count = 0
    if moment:
        count = 1 + int(moment * CALLS[place])
    args = (folder, options, place, count, number, env or {})
    process = context.Process(target=_process, args=args)
    process.start()
    process.join(120)
    process.kill()
    iterations = began.read_text().split() if began.exists() else []
    return process.exitcode, list(map(int, iterations))


def _process(folder, options, place, count, number, env):
    from tests.engine.conftest import register_tiny, tiny_config

    os.environ.update(env)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
    sys.stdout = sys.stderr = open(folder / "printed", "a", buffering=1)  # noqa: SIM115
    data = folder / "data"
    data.mkdir(exist_ok=True)
    register_tiny(data)
    file = folder / "tiny.yaml"
    file.write_text(tiny_config(folder / "output").dump())

    calls = Counter()

    def profile(frame, event, _):
        for name in _places(frame.f_code.co_filename):
            calls[name] += 1
        if calls[place] == count > 0:
            calls[place] += 1
            os.kill(os.getpid(), number)

    class Recording(run.Trainer):
        def __init__(self, cfg):
            sys.setprofile(profile)
            super().__init__(cfg)

        def run_step(self):
            with open(folder / "began", "a") as stream:
                print(self.iter, file=stream)
            super().run_step()

    run.Trainer = Recording
    code = run.main(["--config-file", str(file), *options, *OPTIONS.split()])
    sys.setprofile(None)
    (folder / "calls").write_text(json.dumps(calls))
    sys.exit(code)


@cache
def _places(file):
    return [name for name, part in PLACES.items() if part in file]


def _weights(folder):
    files = [folder / "output" / f"model_{name}.pth" for name in ("final", "best")]
    return [torch.load(file, weights_only=True) for file in files]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a training that nothing disturbs."""
    folder = tmp_path_factory.mktemp("kills") / "whole"
    folder.mkdir()
    assert _train(folder) == (0, list(range(9))), (folder / "printed").read_text()
    CALLS.update(json.loads((folder / "calls").read_text()))
    return folder


def _survives(whole, folder, place, moment, number=signal.SIGKILL):
    code, began = _train(folder, place=place, moment=moment, number=number)
    assert code in ((-9,) if number == signal.SIGKILL else (130, -number)), code
    resumed, again = _train(folder, "--resume")
    printed = (folder / "printed").read_text()
    assert resumed == 0, printed
    if began:
        redone = began[-1] - (again[0] if again else 9)
        # The iteration that was cut off, at the most, where the training was only asked to stop.
        assert redone < PERIOD if number == signal.SIGKILL else redone <= 0, (began, again)
    assert not list((folder / "output").glob("*.partial"))
    for one, other in zip(_weights(whole), _weights(folder), strict=True):
        assert _equal(one, other)


def _equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one == other


_MOMENTS = [(place, random.Random(n).random()) for n in range(5) for place in PLACES]


@pytest.mark.slow
@pytest.mark.parametrize("place, moment", _MOMENTS)
def test_thirty_kills(whole, tmp_path, place, moment):
    _survives(whole, tmp_path, place, moment)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("place, moment", _MOMENTS)
def test_thirty_stops(whole, tmp_path, place, moment, number):
    _survives(whole, tmp_path, place, moment, number)


@pytest.mark.parametrize("place", ["checkpoint", "evaluation"])
def test_a_killed_training_ends_as_if_nothing_was(whole, tmp_path, place):
    _survives(whole, tmp_path, place, 0.99)


def test_slurm_requeues_the_job_and_resumes(whole, tmp_path):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    scontrol.chmod(0o755)
    env = {"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3"}
    env["PATH"] = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    moment = {"place": "best", "moment": 0.5, "number": signal.SIGUSR1}
    code, began = _train(tmp_path, "SOLVER.SLURM_REQUEUE", "True", env=env, **moment)
    assert (code, (tmp_path / "asked").read_text()) == (130, "requeue 17_3\n")
    code, again = _train(tmp_path, env=env | {"SLURM_RESTART_COUNT": "1"})
    assert code == 0 and set(began + again) == set(range(9)) and again[0] >= began[-1] > 0
    for one, other in zip(_weights(whole), _weights(tmp_path), strict=True):
        assert _equal(one, other)


def test_a_queue_that_refuses_the_job_is_named(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PATH", str(tmp_path))  # without scontrol
    _requeue("17_3")
    assert "job 17_3 was not re-queued" in caplog.text and "--resume" in caplog.text
