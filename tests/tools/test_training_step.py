"""tools/training_step.py, and what it measures and computes."""

import json
import os
import re
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import training_step as tool
from lrformer import load_cfg
from lrformer.analysis import training
from lrformer.analysis.training import TrainingOptions, measure_training
from lrformer.analysis.training_profile import Operator, kind_of, profile_step, summarise
from lrformer.analysis.training_step import StepOptions, TrainingStep

PROJECT = Path(__file__).parents[2]
T = "models/lrformer_t.yaml"
TINY = {
    "MODEL.LRFORMER.EMBED_DIMS": "[8, 16, 24, 32]",
    "MODEL.LRFORMER.DEPTHS": "[1, 1, 1, 1]",
    "MODEL.LRFORMER.NUM_HEADS": "[1, 2, 2, 4]",
    "MODEL.LRFORMER.MLP_RATIOS": "[2, 2, 2, 2]",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": "32",
}
SMALL = ["--size", "64", "64", "--batch", "1", "--threads", "1", "--rounds", "2", "--repeats", "1"]
MAPS, FILTERS = [2, 64, 8, 8], [32, 64, 1, 1]
DEPTHWISE = [64, 1, 3, 3]


@pytest.mark.parametrize(
    ("name", "shapes", "kind"),
    [
        ("aten::addmm", [[4], [2, 3], [3, 4]], "matrix products and convolutions"),
        ("mkldnn::_linear_pointwise", [], "matrix products and convolutions"),
        ("aten::mkldnn_convolution", [MAPS, FILTERS], "matrix products and convolutions"),
        ("aten::mkldnn_convolution", [MAPS, DEPTHWISE], "depth-wise convolutions"),
        # A filter of one channel, but on a map of one channel.
        ("aten::conv2d", [[2, 1, 8, 8], DEPTHWISE], "matrix products and convolutions"),
        # The gradient comes first.
        ("aten::convolution_backward", [MAPS, MAPS, DEPTHWISE], "depth-wise convolutions"),
        (
            "aten::convolution_backward",
            [[2, 32, 8, 8], MAPS, FILTERS],
            "matrix products and convolutions",
        ),
        # What is added to comes first.
        ("mkldnn::_convolution_pointwise_", [MAPS, MAPS, DEPTHWISE], "depth-wise convolutions"),
        ("aten::mkldnn_convolution", [], "other"),  # no shapes
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", [], "attention"),
        ("aten::_softmax", [], "attention"),
        ("aten::gelu_backward", [], "activations"),
        ("aten::threshold_backward", [], "activations"),
        ("aten::native_layer_norm_backward", [], "norms"),
        ("aten::upsample_bilinear2d_backward", [], "pooling and resizing"),
        ("aten::_adaptive_avg_pool2d", [], "pooling and resizing"),
        ("aten::copy_", [], "copies, transposes, allocation"),
        ("aten::transpose", [], "copies, transposes, allocation"),
        ("aten::empty_strided", [], "copies, transposes, allocation"),
        ("aten::add_", [], "element-wise arithmetic and sums"),
        ("aten::adder", [], "other"),
        ("mine::gelu", [], "other"),
        ("GeluBackward0", [], "other"),
    ],
)
def test_the_kind_of_an_operator(name, shapes, kind):
    assert kind_of(Operator(name, shapes, "", 1.0)) == kind
    assert kind_of(Operator(name, shapes, "loss", 1.0)) == "loss"


def test_times_are_summed_by_kind():
    rows = summarise(
        [
            Operator("aten::mm", [], "", 1.0),
            Operator("aten::conv2d", [MAPS, FILTERS], "", 2.0),
            Operator("aten::mm", [], "", 3.0),
            Operator("aten::conv2d", [MAPS, DEPTHWISE], "", 0.5),
            Operator("aten::mm", [], "loss", 0.5),
            Operator("unheard of", [], "", 1.0),
        ]
    )
    assert [(row.kind, row.seconds, row.share) for row in rows] == [
        ("matrix products and convolutions", 6.0, 0.75),
        ("depth-wise convolutions", 0.5, 0.0625),
        ("loss", 0.5, 0.0625),
        ("other", 1.0, 0.125),
    ]
    assert list(rows[0].operators.items()) == [("aten::mm", 4.0), ("aten::conv2d", 2.0)]


class Head(nn.Module):
    def losses(self, scores, labels):
        return F.cross_entropy(scores.tanh(), labels)


class Toy(nn.Module):
    """A model of known operators, in the shape of detectron2's."""

    def __init__(self):
        super().__init__()
        self.conv, self.depthwise = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8)
        self.norm, self.sem_seg_head = nn.LayerNorm(8), Head()

    def forward(self, images):
        x = F.gelu(self.depthwise(self.conv(images)))
        x = self.norm(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return self.sem_seg_head.losses(x @ torch.ones(8, 5), torch.arange(len(images)))


def test_a_profile_of_known_operators():
    model, images = Toy(), torch.rand(2, 3, 16, 16)
    optimizer = torch.optim.AdamW(model.parameters())

    def step():
        model(images).backward()
        optimizer.step()

    step.model = model
    step()
    rows = {row["kind"]: row for row in profile_step(step)}
    assert "losses" not in vars(model.sem_seg_head)  # unmarked again
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1)

    def holds(kind, *names):
        return all(any(name in x for x in rows[kind]["operators"]) for name in names)

    assert holds("matrix products and convolutions", "aten::mm", "convolution")
    assert holds("depth-wise convolutions", "convolution_backward")
    assert holds("activations", "aten::gelu", "aten::gelu_backward")
    assert holds("norms", "aten::native_layer_norm", "aten::native_layer_norm_backward")
    assert holds("pooling and resizing", "adaptive_avg_pool2d")
    assert holds("loss", "log_softmax", "_log_softmax_backward_data", "tanh", "tanh_backward")
    assert holds("optimizer", "Optimizer.step", "addcdiv")
    assert holds("other", "outside operators")
    elsewhere = [name for kind in rows if kind != "loss" for name in rows[kind]["operators"]]
    assert not any("tanh" in name or "softmax" in name for name in elsewhere)


def test_a_profile_of_lrformer_plus_knows_its_loss(tiny_cfg):
    rows = profile_step(TrainingStep(tiny_cfg(), (1, 3, 64, 64), StepOptions()))
    [loss] = [row for row in rows if row["kind"] == "loss"]
    names = loss["operators"]
    assert {"aten::binary_cross_entropy_with_logits", "aten::nll_loss_backward"} <= set(names)
    elsewhere = {name for row in rows if row["kind"] != "loss" for name in row["operators"]}
    assert not any("cross_entropy" in name or "nll_loss" in name for name in elsewhere)


def test_every_model_is_given_the_same_batch():
    opts = list(chain(*TINY.items()))
    steps = []
    for depth in ("[1, 1, 1, 1]", "[1, 1, 2, 1]"):
        cfg = load_cfg(T, [*opts, "MODEL.LRFORMER.DEPTHS", depth])
        steps.append(TrainingStep(cfg, (2, 3, 64, 96), StepOptions()))
    for a, b in zip(steps[0].inputs, steps[1].inputs, strict=True):
        assert a["image"].shape == (3, 64, 96) and a["sem_seg"].shape == (64, 96)
        assert torch.equal(a["image"], b["image"]) and torch.equal(a["sem_seg"], b["sem_seg"])
    assert not torch.equal(steps[0].inputs[0]["image"], steps[0].inputs[1]["image"])


@pytest.fixture
def processes(monkeypatch):
    """Replaces processes: each call's seconds, bytes before the step and at the peak, and loss."""
    jobs, answers = [], []

    def run(job):
        jobs.append(job)
        seconds, before, peak, loss = answers.pop(0)
        found = {"seconds": seconds, "before": before, "peak": peak, "loss": loss}
        return found | {"threads": 1, "kept": job["keep_memory"]}

    monkeypatch.setattr(training, "_run", run)
    return SimpleNamespace(jobs=jobs, answers=answers)


def test_ratios_are_those_of_one_repetition_whatever_the_machine_does(processes):
    # The machine is ten times slower in the second repetition, and 2 is not a typical step.
    processes.answers += [
        ([1.0, 1.0, 2.0], 100, 300, 5.0),
        ([0.5, 0.5, 0.5], 100, 200, 5.0),
        ([10.0, 10.0, 10.0], 100, 500, 5.0),
        ([6.0, 6.0, 6.0], 100, 200, 5.0),
        ([1.0, 1.0, 1.0], 100, 500, 5.0),
        ([0.8, 0.8, 0.8], 100, 200, 5.0),
    ]
    options = TrainingOptions((64, 96), batch=3, rounds=3, repeats=3)
    result = measure_training([T], ["float32", "checkpointing"], options)
    first, second = result.rows
    assert (first.time, first.time_p25, first.time_p75) == (1, 1, 10)
    assert (first.time_ratio, first.time_ratio_min, first.time_ratio_max) == (1, 1, 1)
    assert (second.time, second.time_p25, second.time_p75) == (0.8, 0.5, 6)
    assert (second.time_ratio, second.time_ratio_min, second.time_ratio_max) == (0.6, 0.5, 0.8)
    assert (first.memory, first.total_memory) == (400, 500)
    assert (second.memory_ratio, second.total_memory_ratio) == (0.25, 0.4)
    checkpointing = ["MODEL.LRFORMER.ACTIVATION_CHECKPOINTING", "True"]
    assert [job["opts"] for job in processes.jobs] == 3 * [[], checkpointing]
    assert {(job["size"], job["batch"]) for job in processes.jobs} == {((64, 96), 3)}


def test_the_gain_over_another_checkout(processes, tmp_path):
    package = tmp_path / "projects" / "LRFormer" / "lrformer"
    config = tmp_path / "configs" / "models" / "lrformer_t.yaml"
    for file in (package / "__init__.py", config):
        file.parent.mkdir(parents=True)
        file.touch()
    processes.answers += [([3.0], 100, 160, 5.0), ([4.0], 100, 200, 5.1)]
    options = TrainingOptions(repeats=1, release_memory=True)
    result = measure_training([T], ["float32"], options, str(tmp_path))
    [gain] = result.gains
    assert gain.time_ratio == 0.75 and gain.memory_ratio == 0.6 and gain.total_memory_ratio == 0.8
    assert gain.loss_difference == pytest.approx(0.1 / 5.1)
    assert result.rows[1].step == str(tmp_path) and result.rows[1].time_ratio == 4 / 3
    ours, theirs = processes.jobs
    assert theirs == ours | {"package": str(package.parent), "config": str(config)}
    assert Path(ours["config"]) == PROJECT / "configs" / T and not ours["keep_memory"]

    processes.answers += [([3.0], 100, 160, 5.0), ([4.0], 100, 200, 5.3)]
    with pytest.raises(ValueError, match="loss is 5.0000, but 5.3000 in .*not compared"):
        measure_training([T], ["float32"], options, str(tmp_path))


def test_without_figures_of_memory(processes, capsys):
    processes.answers += [([3.0], None, None, 5.0)]
    assert tool.main([T, *SMALL]) == 0
    [row] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| models")]
    assert row.count(" – |") == 4


def test_a_run_in_processes(tmp_path, capsys):
    file = tmp_path / "new" / "steps.json"
    opts = ["--opts", *chain(*TINY.items())]
    arguments = [T, *SMALL, "--against", str(PROJECT), "--profile"]
    assert tool.main([*arguments, "--output", str(file), *opts]) == 0, capsys.readouterr().err
    result = json.loads(file.read_text())
    assert [row["step"] for row in result["rows"]] == ["float32", str(PROJECT)]
    assert all(row["time"] > 0 for row in result["rows"])
    # Both are this checkout.
    assert result["gains"][0]["loss_difference"] == 0
    assert result["conditions"]["threads"] == 1 and result["conditions"]["height"] == 64
    assert "loss" in [work["kind"] for work in result["profiles"][T]]
    memory = [row["memory"] for row in result["rows"]]
    assert None in memory or all(0 < x < 2**30 for x in memory)


def test_the_report(processes, capsys, monkeypatch):
    work = [{"kind": "loss", "seconds": 2.0, "share": 1.0, "operators": {"aten::mm": 2.0}}]
    inner = training._run
    monkeypatch.setattr(training, "_run", lambda job: inner(job) | {"profile": work})
    processes.answers += 2 * [([0.3, 0.3], 2**20, 3 * 2**20, 5.0)]
    arguments = [T, *SMALL, "--variants", "float32,release_memory", "--profile"]
    assert tool.main(arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Printed by `python tools/training_step.py {T} --size 64 64")
    assert "height: 64, width: 64, batch: 1" in out and f"torch: {torch.__version__}" in out
    rows = [line for line in out.splitlines() if line.startswith(f"| {T}")]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    assert cells[0][1:6] == ["float32", "kept", "5.0000", "300 (300–300) ms", "1.000 (1.000–1.000)"]
    assert cells[1][1:3] == ["release_memory", "released"]
    assert cells[1][6:] == ["2 MiB", "1.000", "3 MiB", "1.000"]
    assert re.search(r"\| loss +\| +2000\.0 \| +100\.0% \| mm 2000\.0 +\|", out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such.yaml"], "there is no config file no/such.yaml"),
        ([T, "--variants", "float32,fast"], "variant 'fast': there is no 'fast', only float32"),
        ([T, "--variants", "float32+bfloat16"], "one data type at most"),
        ([T, "--variants", "float16"], "float16 is for GPUs"),
        ([T, "--variants", "float32,float32"], "the variant float32 is there twice"),
        ([T, "--against", os.devnull], f"{os.devnull} is no checkout of this project"),
        ([T, "--variants", "checkpointing", "--against", "."], "'float32' must be among"),
        ([T, "--size", "64", "65"], "multiples of 32, not 64 x 65"),
        ([T, "--rounds", "0"], "rounds must be at least 1"),
        ([T, "--repeats", "0"], "repeats must be at least 1"),
        ([T, "--batch", "0"], "batch must be at least 1"),
        ([T, "--device", "mps"], "'cpu' and 'cuda' only"),
        ([T, "--output", "steps.txt"], "must end in .json or .md"),
        ([T, "--opts", "MODEL.LRFORMER.DEPTH", "1"], "MODEL.LRFORMER.DEPTH"),
        (
            [T, "--variants", "checkpointing", "--opts", "MODEL.BACKBONE.NAME", "ResNet"],
            f"is for the backbone LRFormer, that of {T} is ResNet",
        ),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_line(arguments, message, capsys, monkeypatch):
    monkeypatch.delattr(training.subprocess, "run")
    assert tool.main([arguments[0], *SMALL, *arguments[1:]]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_bfloat16_is_refused_where_the_cpu_has_none(monkeypatch):
    monkeypatch.setattr(training, "cpu_has_bfloat16", lambda: False)
    with pytest.raises(ValueError, match="this CPU has no instructions for bfloat16"):
        measure_training([T], ["bfloat16"], TrainingOptions())


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise MemoryError('no room')", "failed: MemoryError: no room"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "may be too little memory"),
    ],
)
def test_a_process_that_fails_says_why(tmp_path, monkeypatch, capsys, code, message):
    script = tmp_path / "script.py"
    script.write_text(code)
    monkeypatch.setattr(training.training_step, "__file__", str(script))
    assert tool.main([T, *SMALL]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
