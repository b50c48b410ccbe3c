"""Parameters and multiply-adds against those counted on the released models."""

from pathlib import Path

import pytest

from bench.counting import count, count_parameters
from bench.models import build_for_counting
from lrformer import load_cfg

CONFIGS = Path(__file__).parents[2] / "configs"


def build(config: str, *opts):
    return build_for_counting(load_cfg(CONFIGS / config, opts))


@pytest.mark.parametrize(
    ("variant", "parameters", "flops"),
    [
        ("t", 13.26, {512: 16.7, 640: 24.6}),
        ("s", 32.22, {512: 40.0, 640: 59.4}),
        ("b", 67.51, {512: 74.8, 640: 111.2}),
        ("l", 110.98, {512: 121.9, 640: 181.9}),
    ],
)
def test_plain_model(variant, parameters, flops):
    model = build(f"ade20k/lrformer_{variant}.yaml")
    assert count_parameters(model) / 1e6 == pytest.approx(parameters, rel=0.01)
    for size, expected in flops.items():
        assert count(model, size, size).total / 1e9 == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("variant", "parameters", "flops"),
    [
        ("t", 11.27, 1.72),
        ("s", 27.86, 4.58),
        ("b", 59.99, 9.18),
        ("l", 99.31, 15.5),
        ("xl", 184.72, 31.4),
    ],
)
def test_backbone_at_imagenet_size(variant, parameters, flops):
    backbone = build(f"models/lrformer_{variant}.yaml", "MODEL.LRFORMER.POOLED_SIZE", 7).backbone
    assert count_parameters(backbone) / 1e6 == pytest.approx(parameters, rel=0.01)
    assert count(backbone, 224, 224).total / 1e9 == pytest.approx(flops, rel=0.01)


@pytest.mark.parametrize(("size", "flops"), [(8, 38), (16, 40), (32, 52)])
def test_pooled_sizes_of_table_7(size, flops):
    model = build("ade20k/lrformer_s.yaml", "MODEL.LRFORMER.POOLED_SIZE", size)
    assert count(model, 512, 512).total / 1e9 == pytest.approx(flops, rel=0.05)


@pytest.mark.parametrize(("width", "flops"), [(128, 27), (256, 32), (1024, 117)])
def test_head_widths_of_table_11(width, flops):
    model = build("ade20k/lrformer_s.yaml", "MODEL.SEM_SEG_HEAD.CONVS_DIM", width)
    assert count(model, 512, 512).total / 1e9 == pytest.approx(flops, rel=0.05)


def test_attention_of_table_12():
    counts = count(build("ade20k/lrformer_s.yaml"), 512, 512)
    assert counts.total / 1e9 == pytest.approx(40.0, rel=0.01)
    assert counts.attention / 1e9 == pytest.approx(0.8, abs=0.05)  # the paper gives one decimal
