"""Multiply-adds of attention, with LRSA and without, worked out by hand on a small encoder."""

import pytest
import torch
from torch import nn

from lrformer import load_cfg
from lrformer.analysis import build_for_counting, count, count_activations
from lrformer.analysis.scaling import side_of_ratio
from lrformer.layers import LRFormerBlock
from lrformer.modeling.backbone import LRFormer

# One block a stage. At 64 x 64 the maps are 16, 8, 4 and 2 wide; attention pools queries to 4, keys
# to 3, 2, 2 and 1 (11, 8, 6 and 4 times 4 / 16).
DIMS = (8, 16, 32, 64)
SIDES = (16, 8, 4, 2)
SHALLOW = ["MODEL.LRFORMER.DEPTHS", "[1, 1, 1, 1]"]


@pytest.fixture
def encoder():
    return LRFormer(
        embed_dims=DIMS,
        depths=(1, 1, 1, 1),
        num_heads=(2, 2, 2, 2),
        mlp_ratios=(2, 2, 2, 2),
        pooled_size=4,
    ).eval()


def test_attention_of_every_stage(encoder):
    keys = 3 * 3 + 2 * 2 + 2 * 2 + 1
    expected = 2 * 16 * keys * 8 + 4 * 8 * 16 * 16  # both products, then 4 a value upsampled
    expected += 2 * 16 * keys * 16 + 4 * 16 * 8 * 8
    expected += 2 * 16 * keys * 32  # 4 x 4 already: nothing to upsample
    expected += 2 * 4 * (4 + 4 + 4 + 1) * 64  # 2 x 2: only the last level pools
    assert count(encoder, 64, 64).attention == expected == 51200


class NoAttention(nn.Module):
    def attend(self, x, pyramid_convs):
        return x


def test_quadratic_attention(encoder):
    quadratic = count(encoder, 64, 64).quadratic
    # Four C x C layers on N positions, and two N x N products.
    attention = sum(4 * s**2 * c**2 + 2 * s**4 * c for s, c in zip(SIDES, DIMS, strict=True))
    assert attention == 1_114_112 + 196_608 + 81_920 + 67_584
    for block in encoder.modules():
        if isinstance(block, LRFormerBlock):
            block.attn = NoAttention()
    assert quadratic == count(encoder, 64, 64).total + attention


def test_quadratic_attention_in_the_head():
    opts = ["MODEL.SEM_SEG_HEAD.POOLED_SIZE", 4, "MODEL.LRFORMER.POOLED_SIZE", 4]
    model = build_for_counting(load_cfg("models/lrformer_t.yaml", SHALLOW + opts))
    quadratic = count(model, 64, 64).quadratic
    dims, depths, sides = (48, 96, 240, 384, 256), (1, 1, 1, 1, 2), (16, 8, 4, 2, 8)
    attention = sum(
        n * (4 * s**2 * c**2 + 2 * s**4 * c) for c, n, s in zip(dims, depths, sides, strict=True)
    )
    for block in model.modules():
        if isinstance(block, LRFormerBlock):
            block.attn = NoAttention()
    assert quadratic == count(model, 64, 64).total + attention


def test_activations_of_a_layer(encoder):
    activations = count_activations(encoder, 64, 64)
    # The stem's four convolutions: 4 and 4 channels at 32 x 32, 8 and 8 at 16 x 16.
    assert activations["stem"] == 2 * 4 * 32 * 32 + 2 * 8 * 16 * 16
    # The first FFN: 16 hidden channels, twice (linear, depth-wise), and 8 out.
    assert activations["stages.0.blocks.0.ffn"] == (16 + 16 + 8) * 16 * 16
    # In the block's own scope only the attention's output: 4 x 4 positions of 8 channels.
    block = activations["stages.0.blocks.0"]
    parts = ("positional_conv", "ffn", "attn")
    inside = sum(activations[f"stages.0.blocks.0.{part}"] for part in parts)
    assert block - inside == 4 * 4 * 8


def test_counting_leaves_the_mode_as_it_was():
    model = build_for_counting(load_cfg("models/lrformer_t.yaml", SHALLOW))
    assert not model.training
    count(model, 64, 64)
    assert not any(module.training for module in model.modules())
    model.train()
    count_activations(model, 64, 64)
    assert model.training and model.backbone.training


def test_counts_do_not_depend_on_values_or_precision():
    model = build_for_counting(load_cfg("models/lrformer_t.yaml", SHALLOW))
    counted = count(model, 64, 96)
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter.data)
    assert count(model.float(), 64, 96) == counted


def test_side_at_which_a_ratio_is_reached():
    # The ratio grows as the square of the side: it is 2 at 100 sqrt(2).
    records = [{"height": side, "ratio": (side / 100) ** 2} for side in (100, 200, 400)]
    assert side_of_ratio(records, 2) == pytest.approx(100 * 2**0.5)
    assert side_of_ratio(records, 100) is None
