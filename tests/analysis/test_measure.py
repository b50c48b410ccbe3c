"""Measured time and memory, as far as a test can judge them."""

import pytest
import torch

from lrformer import load_cfg
from lrformer.analysis import measure
from lrformer.analysis.measure import MeasureOptions, TrainingStep


def test_on_the_cpu():
    cfg = load_cfg("models/lrformer_t.yaml")
    threads = torch.get_num_threads()
    result = measure(cfg, (64, 64), MeasureOptions(batch=2, threads=1, warmup=1, iterations=5))
    assert torch.get_num_threads() == threads
    assert 0 < result.latency_p10 <= result.latency <= result.latency_p90
    assert result.throughput == pytest.approx(2 / result.latency)
    assert (result.threads, result.batch, result.dtype) == (1, 2, "float32")
    assert result.device and result.training_memory is None
    # The weights alone are 53 MB; the system may not tell.
    assert result.memory is None or 53e6 < result.memory < 500e6


@pytest.mark.parametrize("model", ["t", "plus_t"])
def test_the_training_step_trains(model):
    cfg = load_cfg(f"models/lrformer_{model}.yaml", ["MODEL.LRFORMER.DEPTHS", "[1, 1, 1, 1]"])
    step = TrainingStep(cfg, (2, 3, 64, 64), MeasureOptions())
    before = [p.detach().clone() for p in step.model.parameters()]
    assert step() > 0
    changed = [not torch.equal(a, b) for a, b in zip(before, step.model.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(changed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "no dtype 'int8', only float32, float16, bfloat16"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"warmup": -1}, "warmup cannot be negative"),
        ({"device": "mps"}, "'cpu' and 'cuda' only"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        MeasureOptions(**options)


@pytest.mark.gpu
def test_on_a_gpu():
    cfg = load_cfg("models/lrformer_t.yaml")
    result = measure(cfg, (512, 512), MeasureOptions(device="cuda", dtype="bfloat16", batch=2))
    assert result.device == torch.cuda.get_device_name()
    assert result.threads is None and result.latency > 0
    assert 53e6 < result.memory < result.training_memory
