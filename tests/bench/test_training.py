"""What ``bench.py train`` measures and computes."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench import training
from bench.inputs import training_batch
from bench.step import TrainingStep
from lrformer import load_cfg

ROOT = Path(__file__).parents[2]
T = "models/lrformer_t.yaml"
SMALL = ("--size", 64, 64, "--batch", 1, "--threads", 1, "--rounds", 2, "--repeats", 1)


@pytest.mark.parametrize("config", [T, "models/lrformer_plus_t.yaml"])
def test_the_training_step_trains(config, tiny):
    step = TrainingStep(load_cfg(config, tiny), (64, 64), 2, "bfloat16")
    before = [p.detach().clone() for p in step.model.parameters()]
    assert step() > 0
    changed = [not torch.equal(a, b) for a, b in zip(before, step.model.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(changed)


def test_made_up_batches_say_the_same_of_labels_and_masks():
    labels, masks = (training_batch(2, (64, 96), 5, masks) for masks in (False, True))
    assert not torch.equal(labels[0]["image"], labels[1]["image"])
    for a, b in zip(labels, masks, strict=True):
        assert a["image"].shape == (3, 64, 96) and torch.equal(a["image"], b["image"])
        found = b["instances"]
        assert len(found) > 4
        # Every pixel is in one mask, that of its class.
        assert (found.gt_masks.tensor.sum(0) == 1).all()
        segment = found.gt_masks.tensor.int().argmax(0)
        assert torch.equal(found.gt_classes[segment], a["sem_seg"])


@pytest.fixture
def processes(monkeypatch):
    """Replaces processes: each call's seconds, bytes before the step and at the peak, and loss."""
    jobs, answers = [], []

    def measure(checkout, **job):
        jobs.append(job | {"checkout": str(checkout)})
        return dict(zip(("seconds", "before", "peak", "loss"), answers.pop(0), strict=True))

    monkeypatch.setattr(training, "measure", measure)
    return SimpleNamespace(jobs=jobs, answers=answers)


def test_ratios_are_those_of_one_repetition_whatever_the_machine_does(
    processes, bench, cells, tmp_path
):
    # The machine is ten times slower in the second repetition, and 2 is not a typical step.
    processes.answers += [
        ([1.0, 1.0, 2.0], 100 << 20, 300 << 20, 5.0),
        ([0.5, 0.5, 0.5], 100 << 20, 200 << 20, 5.0),
        ([10.0, 10.0, 10.0], 100 << 20, 500 << 20, 5.0),
        ([6.0, 6.0, 6.0], 100 << 20, 200 << 20, 5.0),
        ([1.0, 1.0, 1.0], 100 << 20, 500 << 20, 5.0),
        ([0.8, 0.8, 0.8], 100 << 20, 200 << 20, 5.0),
    ]
    variants = ("--variants", "float32", "checkpointing+plain")
    text = bench("train", T, *variants, "--batch", 3)
    first, second = (dict(row) for row in cells(text))
    assert first["time"] == "1000.0 (1000.0–10000.0) ms" and first["loss"] == "5.0000"
    assert second["time / the first"] == "0.600 (0.550–0.700)"
    assert (first["memory"], first["memory in all"]) == ("400 MiB", "500 MiB")
    assert (second["memory / the first"], second["in all / the first"]) == ("0.250", "0.400")
    checkpointing = ["MODEL.LRFORMER.ACTIVATION_CHECKPOINTING", "True"]
    assert [(job["fast"], job["opts"][2:]) for job in processes.jobs] == 3 * [
        (True, []),
        (False, checkpointing),
    ]


def test_against_another_checkout(processes, bench, cells, refused):
    processes.answers += [([4.0], 100, 200, 5.1), ([3.0], 100, 160, 5.0)]
    config = ROOT / "configs" / T
    arguments = ("train", config, "--against", "other", "--repeats", 1, "--release-memory")
    theirs, ours = (dict(row) for row in cells(bench(*arguments)))
    assert theirs["step"] == "other" and ours["step"] == "float32"
    assert ours["time / the first"].startswith("0.750 ")
    assert ours["memory / the first"] == "0.600"
    theirs, ours = processes.jobs
    # The same job, with what each checkout has in its configs/; both give memory back.
    assert theirs == ours | {"checkout": "other"} and ours["checkout"] == str(ROOT)
    assert ours["config"] == T and ours["allocator"] is None

    processes.answers += [([4.0], 100, 200, 5.3), ([3.0], 100, 160, 5.0)]
    assert "5.3000 in other" in refused(*arguments)


def test_a_run_in_processes(bench, tiny, tmp_path):
    file = tmp_path / "new" / "steps.json"
    bench("train", ROOT / "configs" / T, *SMALL, "--output", file, *tiny)
    (record,) = json.loads(file.read_text())["records"]
    assert record["time"] > 0 and record["loss"] > 0
    assert 0 < record.get("memory", 1) < record.get("total_memory", 2) < 8 << 30


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["no/such.yaml"], "no/such.yaml"),
        ([T, "--variants", "float32", "fast"], "'fast'"),
        ([T, "--against", "no/such"], "no/such"),
        ([T, "--variants", "plain", "--against", "."], "--against"),
    ],
)
def test_what_cannot_be_measured_is_said_before_a_process_starts(
    arguments, name, refused, monkeypatch
):
    monkeypatch.delattr(training.subprocess, "run")
    assert name in refused("train", *arguments)


@pytest.mark.parametrize(
    ("code", "error", "message"), [(1, "MemoryError: x", "x"), (-9, "", "too little memory")]
)
def test_a_process_that_fails_says_why(refused, monkeypatch, code, error, message):
    done = SimpleNamespace(returncode=code, stderr=error)
    monkeypatch.setattr(training.subprocess, "run", lambda *_, **__: done)
    assert message in refused("train", T)
