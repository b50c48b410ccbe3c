"""What the benchmark times, checks and computes from times."""

import json
from itertools import chain

import numpy as np
import pytest
import torch
from torch import nn

from lrformer.analysis import count_flops, count_parameters
from lrformer.benchmark import (
    PEERS,
    BenchmarkError,
    BenchmarkOptions,
    Spread,
    benchmark,
    build_case,
    build_peer,
    markdown,
    to_json,
)
from lrformer.benchmark import cases as cases_module
from lrformer.benchmark import run as run_module
from lrformer.benchmark.limits import Copy, MatrixProduct, build_limits
from lrformer.benchmark.run import time_in_turn

PLAIN, PLUS = "models/lrformer_t.yaml", "models/lrformer_plus_t.yaml"
_TINY = {
    "MODEL.LRFORMER.EMBED_DIMS": [8, 16, 24, 32],
    "MODEL.LRFORMER.DEPTHS": [1, 1, 1, 1],
    "MODEL.LRFORMER.NUM_HEADS": [1, 2, 2, 4],
    "MODEL.LRFORMER.MLP_RATIOS": [2, 2, 2, 2],
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
}
_TINY_PLUS = {
    "MODEL.SEM_SEG_HEAD.MASK_DIM": 32,
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 1,
    "MODEL.MASK_FORMER.HIDDEN_DIM": 32,
    "MODEL.MASK_FORMER.NHEADS": 4,
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 64,
    "MODEL.MASK_FORMER.DEC_LAYERS": 2,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 10,
}
TINY = tuple(chain(*_TINY.items()))
TINY_PLUS = TINY + tuple(chain(*_TINY_PLUS.items()))
# Multiply-adds of SegFormer's paper, G, at its sizes, and parameters, M (arXiv 2105.15203, Tab. 1).
SEGFORMER = {"segformer-b0": (512, 8.4, 3.8), "segformer-b1": (512, 15.9, 13.7)}
LARGE = {
    "segformer-b2": (512, 62.4, 27.5),
    "segformer-b3": (512, 79.0, 47.3),
    "segformer-b4": (512, 95.7, 64.1),
    "segformer-b5": (640, 183.3, 84.7),
}


@pytest.fixture
def small_limits(monkeypatch):
    """Products and copies that take no time."""
    monkeypatch.setattr(
        run_module, "build_limits", lambda device, dtypes: build_limits(device, dtypes, 64, 2**16)
    )


@pytest.mark.parametrize(
    "name", [*SEGFORMER, *(pytest.param(n, marks=pytest.mark.slow) for n in LARGE)]
)
def test_segformer_is_that_of_the_paper(name):
    pytest.importorskip("transformers")
    side, flops, parameters = {**SEGFORMER, **LARGE}[name]
    peer = build_peer(name, 150)
    assert count_parameters(peer) / 1e6 == pytest.approx(parameters, abs=0.06)
    assert count_flops(peer, side, side)[""] / 1e9 == pytest.approx(flops, rel=0.015)
    assert not any(module.training for module in peer.modules())


@pytest.mark.slow
def test_mask2former_is_that_of_its_paper():
    pytest.importorskip("transformers")
    # arXiv 2112.01527, Tab. 3: Swin-T has 47 M parameters.
    assert count_parameters(build_peer("mask2former-swin-t", 150)) / 1e6 == pytest.approx(
        47, abs=0.5
    )


def test_every_peer_has_a_name():
    assert set(PEERS) == {*SEGFORMER, *LARGE, "mask2former-swin-t"}
    with pytest.raises(ValueError, match="no peer 'segformer-b9', only segformer-b0, "):
        build_peer("segformer-b9", 150)


def test_quartiles():
    spread = Spread.of(np.array([5.0, 1.0, 4.0, 2.0, 3.0]))
    assert (spread.p25, spread.median, spread.p75) == (2, 3, 4)


def test_everything_runs_in_turn_and_back():
    order = []
    runs = [lambda name=name: order.append(name) for name in "abc"]
    seconds = time_in_turn(runs, warmup=1, rounds=2)
    assert "".join(order) == "cba" + "abc" + "cba"
    assert seconds.shape == (3, 2) and (seconds > 0).all()


def test_limits_count_what_they_do():
    product, copy = MatrixProduct("cpu", torch.float32, 8), Copy("cpu", 400)
    product()
    copy()
    assert (product.operations, copy.bytes) == (2 * 8 * 8 * 8, 800)
    torch.testing.assert_close(product.out, product.left @ product.right)
    assert torch.equal(copy.source, copy.target)
    assert list(build_limits("cpu", ["float32", "bfloat16"], 8, 400)) == [
        "float32",
        "bfloat16",
        "copy",
    ]


def test_figures_from_made_up_times(monkeypatch, small_limits):
    # Two rounds. A product of 64 x 64 matrices, 2 * 64**3 operations, in 1 and in 2 ms.
    seconds = np.array([[1e-3, 2e-3], [1e-3, 1e-3], [0.1, 0.3], [0.2, 0.3]])
    monkeypatch.setattr(run_module, "time_in_turn", lambda *args: seconds)
    options = BenchmarkOptions(size=(64, 64), batch=2, rounds=2, opts=TINY)
    result = benchmark([(PLAIN, "eager"), (PLAIN, "channels_last")], options)
    first, second = result.rows
    assert result.limits["float32"].median == pytest.approx(2 * 64**3 * (1000 + 500) / 2)
    assert first.seconds.median == pytest.approx(0.2)
    assert first.images_per_second == pytest.approx(10)
    # Pair by pair, 2 and 1; not the ratio of the medians, 1.25.
    assert second.baseline_ratio.median == pytest.approx(1.5)
    assert first.baseline_ratio == Spread(1, 1, 1)
    operations = 2 * first.flops * 2
    in_products = [0.1 * 2 * 64**3 * 1000 / operations, 0.3 * 2 * 64**3 * 500 / operations]
    assert first.matmul_ratio.median == pytest.approx(sum(in_products) / 2)


def test_a_run_from_end_to_end(small_limits):
    threads = torch.get_num_threads()
    options = BenchmarkOptions(size=(64, 96), threads=1, warmup=1, rounds=3, opts=TINY)
    cases = [(PLAIN, "eager"), (PLAIN, "channels_last")]
    result = benchmark(cases, options, baseline=f"{PLAIN}:channels_last")
    assert torch.get_num_threads() == threads
    read = json.loads(to_json(result))
    assert read["conditions"]["threads"] == 1 and set(read["limits"]) == {"float32", "copy"}
    for row in read["rows"]:
        spread = row["seconds"]
        assert 0 < spread["p25"] <= spread["median"] <= spread["p75"]
    assert read["rows"][1]["baseline_ratio"]["median"] == 1
    lines = [x for x in markdown(result, "command").splitlines() if x.startswith("|")]
    assert len(lines) == 2 + len(cases)
    assert {line.count("|") for line in lines} == {10}


@pytest.mark.parametrize("end", ["logits", "scores"])
@pytest.mark.parametrize(("config", "opts"), [(PLAIN, TINY), (PLUS, TINY_PLUS)])
def test_variants_agree_with_the_plain_model(config, opts, end):
    case = build_case(config, "fused+channels_last", (64, 96), end=end, opts=opts, batch=2)
    assert case.error < 1e-4
    outputs = case.run()
    if end == "scores":
        assert [tuple(x.shape) for x in outputs] == [(2, 150, 64, 96)]


def test_low_precision_peer():
    pytest.importorskip("transformers")
    case = build_case("segformer-b0", "channels_last+bf16", (64, 64), num_classes=7)
    assert case.dtype == "bfloat16" and 1e-4 < case.error < 0.1
    (logits,) = case.run()
    assert logits.shape == (1, 7, 16, 16) and logits.dtype == torch.float32


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda x: x * 1.01, r"relative error 1\.0e-02 .*limit 0\.001\); it is not timed"),
        (lambda x: x * float("nan"), "the output is not finite"),
        (lambda x: x[:, :, 1:], r"outputs of \[\(1, 150, 7, 8\)\], the plain model's are"),
    ],
)
def test_wrong_outputs_are_not_timed(monkeypatch, broken, message):
    network = cases_module._network

    class Broken(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return broken(self.model(x))

    def make(plain, options):
        return network(plain, options) if "eager" in options else Broken(network(plain, options))

    monkeypatch.setattr(cases_module, "_network", make)
    with pytest.raises(BenchmarkError, match=f"{PLAIN}:channels_last: {message}"):
        build_case(PLAIN, "channels_last", (64, 64), opts=TINY)


@pytest.mark.slow
@pytest.mark.parametrize("model", [PLAIN, "segformer-b0"])
def test_onnx_agrees(model):
    for name in ("onnx", "onnxscript", "onnxruntime", "transformers"):
        pytest.importorskip(name)
    case = build_case(model, "onnx", (64, 96), opts=TINY, threads=1)
    assert case.error < 1e-4


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ((PLAIN, "quick"), f"{PLAIN}:quick: there is no option 'quick', only eager, fused"),
        ((PLAIN, "eager+bf16"), "'eager' stands alone"),
        ((PLAIN, "onnx+bf16"), "'onnx' stands alone"),
        ((PLAIN, "cuda_graphs"), "'fp16' and 'cuda_graphs' are for GPUs"),
        (("segformer-b0", "fused"), "segformer-b0:fused: 'fused' is for LRFormer"),
    ],
)
def test_variants_that_do_not_exist(case, message):
    with pytest.raises(BenchmarkError) as error:
        build_case(*case, (64, 64), opts=TINY)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (64, 100)}, "must be multiples of 32, not 64 x 100"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"warmup": -1}, "warmup cannot be negative"),
        ({"end": "boxes"}, "no end 'boxes', only logits, scores"),
        ({"device": "mps"}, "'cpu' and 'cuda' only"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(BenchmarkError, match=message):
        BenchmarkOptions(**options)


def test_what_cannot_be_compared():
    with pytest.raises(BenchmarkError, match="nothing to time"):
        benchmark([], BenchmarkOptions())
    with pytest.raises(BenchmarkError, match="a:eager is there twice"):
        benchmark([("a", "eager"), ("a", "eager")], BenchmarkOptions())
    with pytest.raises(BenchmarkError, match="the baseline b:eager is not among a:eager"):
        benchmark([("a", "eager")], BenchmarkOptions(), baseline="b:eager")
