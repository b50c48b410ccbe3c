"""Multiply-adds of attention, with LRSA and without, worked out by hand on a small encoder."""

import pytest
import torch.nn.functional as F
from torch import nn

from bench.counting import count
from bench.models import build_for_counting
from bench.scaling import side_of_ratio
from lrformer import load_cfg
from lrformer.layers import LRFormerBlock
from lrformer.modeling.backbone import LRFormer


# One block a stage. At 64 x 64 the maps are 16, 8, 4 and 2 wide; attention pools queries to 4, keys
# to 3, 2, 2 and 1 (11, 8, 6 and 4 times 4 / 16).
def test_attention_of_every_stage():
    each = {"depths": (1,) * 4, "num_heads": (2,) * 4, "mlp_ratios": (2,) * 4}
    encoder = LRFormer(embed_dims=(8, 16, 32, 64), pooled_size=4, **each).eval()
    keys = 3 * 3 + 2 * 2 + 2 * 2 + 1
    expected = 2 * 16 * keys * 8 + 4 * 8 * 16 * 16  # both products, then 4 a value upsampled
    expected += 2 * 16 * keys * 16 + 4 * 16 * 8 * 8
    expected += 2 * 16 * keys * 32  # 4 x 4 already: nothing to upsample
    expected += 2 * 4 * (4 + 4 + 4 + 1) * 64  # 2 x 2: only the last level pools
    assert count(encoder, 64, 64).attention == expected == 51200


class NoAttention(nn.Module):
    def forward(self, x, pyramid_convs):
        return x

    attend = forward


def test_quadratic_attention(tiny):
    opts = ["MODEL.SEM_SEG_HEAD.POOLED_SIZE", 4, "MODEL.LRFORMER.POOLED_SIZE", 4]
    model = build_for_counting(load_cfg("models/lrformer_t.yaml", tiny + opts))
    quadratic = count(model, 64, 64).quadratic
    # In the encoder and in the head: four C x C layers on N positions, and two N x N products.
    dims, depths, sides = (8, 16, 24, 32, 32), (1, 1, 1, 1, 2), (16, 8, 4, 2, 8)
    attention = sum(
        n * (4 * s**2 * c**2 + 2 * s**4 * c) for c, n, s in zip(dims, depths, sides, strict=True)
    )
    for block in model.modules():
        if isinstance(block, LRFormerBlock):
            block.attn = NoAttention()
    assert quadratic == count(model, 64, 64).total + attention


def test_side_at_which_a_ratio_is_reached():
    # The ratio grows as the square of the side.
    records = [{"height": side, "quadratic_ratio": (side / 100) ** 2} for side in (100, 200, 400)]
    assert side_of_ratio(records, 2) == pytest.approx(100 * 2**0.5)
    assert side_of_ratio(records, 100) is None


class Known(nn.Module):
    """Layers whose multiply-adds are known: pooling and resizing to the same size are none."""

    def forward(self, x):
        x = F.adaptive_avg_pool2d(self.conv(x), (8, 8))
        x = F.interpolate(F.adaptive_avg_pool2d(x, (8, 8)), (8, 8), mode="bilinear")
        q = x.flatten(2).transpose(1, 2)
        q = F.scaled_dot_product_attention(q, q[:, :10], q[:, :10, :3])
        return F.interpolate(q.transpose(1, 2).unflatten(2, (8, 8)), (16, 16), mode="bilinear")

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)


def test_known_layers():
    counts = count(Known(), 16, 32)
    assert counts.parameters == 3 * 5 * 9 + 5
    convolution, pooling, resizing = 3 * 5 * 9 * 16 * 32, 5 * 16 * 32, 4 * 3 * 16 * 16
    assert counts.by_module["conv"] == convolution
    assert counts.total == convolution + pooling + 64 * 10 * (5 + 3) + resizing
