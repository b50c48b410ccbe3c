"""What ``bench.py time`` times, checks and computes from times."""

import numpy as np
import pytest
import torch

from bench import cases as cases_module
from bench import meters, models, speed
from bench.counting import count

T, PLUS = "models/lrformer_t.yaml", "models/lrformer_plus_t.yaml"
QUICK = ("--size", 64, 96, "--rounds", 2)
# Multiply-adds of SegFormer's paper, G, at its sizes, and parameters, M (arXiv 2105.15203, Tab. 1).
SEGFORMER = {
    "segformer-b0": (512, 8.4, 3.8),
    "segformer-b1": (512, 15.9, 13.7),
    "segformer-b2": (512, 62.4, 27.5),
}


@pytest.mark.parametrize("name", SEGFORMER)
def test_segformer_is_that_of_the_paper(name):
    pytest.importorskip("transformers")
    side, flops, parameters = SEGFORMER[name]
    peer = models.build_peer(name)
    counts = count(peer, side, side)
    assert counts.parameters / 1e6 == pytest.approx(parameters, abs=0.06)
    assert counts.total / 1e9 == pytest.approx(flops, rel=0.015)
    assert not any(module.training for module in peer.modules())


def test_everything_runs_in_turn_and_back():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    times = meters.time_in_turn(runs, rounds=2, warmup=1)
    assert "".join(order) == "cba" + "abc" + "cba"
    assert all(len(times[name]) == 2 and (times[name] > 0).all() for name in "abc")


def test_memory_that_is_used_in_between_is_in_the_peak():
    meter = meters.MemoryMeter("cpu")
    torch.ones(32 << 20)
    if meter.before is not None:  # on Linux
        assert (128 << 20) * 0.95 < meter.peak() - meter.before < (128 << 20) * 1.2


def test_figures_from_times(bench, cells, tiny, monkeypatch):
    def made_up(runs, rounds, device):
        assert speed_of_runs(runs, rounds, device=device).keys() == runs.keys()
        # Pair by pair the ratios are 2 and 1; that of the medians would be 1.25.
        return dict(zip(runs, np.array([[0.1, 0.3], [0.2, 0.3]]), strict=True))

    speed_of_runs = speed.time_in_turn
    monkeypatch.setattr(speed, "time_in_turn", made_up)
    models = f"{T}:eager", f"{T}:accelerated+channels_last"
    text = bench("time", *models, *QUICK, "--batch", 2, *tiny)
    first, second = (dict(row) for row in cells(text))
    assert second["variant"] == "accelerated+channels_last"
    assert first["time"] == "200.0 (150.0–250.0) ms" and first["least"] == "100.0 ms"
    assert first["images/s"] == "10.0" and first["time / the first"] == "1.000 (1.000–1.000)"
    assert second["time / the first"] == "1.500 (1.250–1.750)"
    assert "; size: 64 × 96, batch: 2, " in text


_IN_ENGINES = [pytest.param(x, marks=pytest.mark.slow) for x in ("openvino", "onnxruntime")]


@pytest.mark.parametrize("variant", ["accelerated+channels_last", *_IN_ENGINES])
def test_variants_agree_with_the_plain_model(tiny, variant):
    pytest.importorskip(variant if variant in cases_module._ENGINES else "torch")
    images = torch.randn(2, 3, 64, 96)
    plain = cases_module.build_plain(PLUS, "cpu", tiny)
    (case,) = cases_module.build_cases(PLUS, plain, [variant], images)
    assert case.error < 1e-4 and case.name == f"{PLUS}:{variant}"
    logits, masks = case.run()
    assert logits.shape == (2, 10, 6) and masks.shape == (2, 10, 16, 24)


def test_wrong_outputs_are_not_timed():
    x = torch.randn(1, 7, 4)
    assert cases_module.check("a:b", [x * 1.0005], [x], 1e-3) == pytest.approx(5e-4, rel=0.01)
    for broken in (x * 1.01, x * float("nan"), x[:, 1:]):
        with pytest.raises(ValueError, match="a:b: "):
            cases_module.check("a:b", [broken], [x], 1e-3)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["no/such.yaml"], "no/such.yaml"),
        ([f"{T}:slow"], "'slow'"),
        ([f"{T}:bfloat16+float16"], "data type"),
        ([f"{T}:float16"], "'float16'"),
    ],
)
def test_what_cannot_be_timed(refused, arguments, name):
    assert name in refused("time", *arguments)


@pytest.mark.gpu
def test_on_a_gpu(bench, cells, tiny):
    rows = cells(bench("time", T, "--device", "cuda", "--variants", "eager", "float16", *QUICK))
    assert all(int(dict(row)["memory"].split()[0]) > 0 for row in rows)
