import pytest
import torch
import torch.nn.functional as F

from lrformer.layers import LowResolutionSelfAttention, pooled_shape, scaled_pyramid


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((128, 128), 16, (16, 16)),
        ((128, 176), 16, (16, 22)),  # 512x704
        ((176, 128), 16, (22, 16)),
        ((128, 256), 11, (11, 22)),
        ((60, 90), 11, (11, 17)),  # 16.5 rounds up, not to even
        ((60, 70), 6, (6, 7)),
        ((16, 22), 16, (16, 22)),  # already that small: pooling is omitted
        ((7, 9), 16, (7, 9)),
    ],
)
def test_pooled_shape(size, short_side, expected):
    assert pooled_shape(*size, short_side) == expected


def test_pooled_shape_is_the_released_rounding():
    for short in range(17, 300, 7):
        for long in range(short, 4 * short, 13):
            for side in (4, 6, 8, 11, 16):
                if side < short:
                    assert pooled_shape(short, long, side) == (
                        side,
                        round(long * side / short + 0.001),
                    )


@pytest.mark.parametrize(
    ("pooled_size", "expected"),
    [(16, [11, 8, 6, 4]), (32, [22, 16, 12, 8]), (7, [5, 4, 3, 2]), (4, [3, 2, 2, 1])],
)
def test_pyramid_scales_with_the_pooled_size(pooled_size, expected):
    assert scaled_pyramid([11, 8, 6, 4], pooled_size) == expected


def test_equals_multihead_attention_where_nothing_is_pooled():
    torch.manual_seed(0)
    dim, heads, size = 24, 4, 3  # a 3x3 map is smaller than every level of the pyramid
    attention = LowResolutionSelfAttention(dim, heads)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, dim, size, size)

    oracle = torch.nn.MultiheadAttention(dim, heads, batch_first=True)
    oracle.in_proj_weight.data = torch.cat([attention.q.weight, attention.kv.weight]).detach()
    oracle.in_proj_bias.data = torch.cat([attention.q.bias, attention.kv.bias]).detach()
    oracle.out_proj.load_state_dict(attention.proj.state_dict())
    tokens = x.flatten(2).transpose(1, 2)
    context = F.layer_norm(tokens, (dim,), attention.norm.weight, attention.norm.bias, 1e-5)
    context = context.repeat(1, 4, 1)
    expected, _ = oracle(tokens, context, context)

    torch.testing.assert_close(attention(x).flatten(2).transpose(1, 2), expected)


def test_tokens_do_not_grow_with_the_map():
    attention = LowResolutionSelfAttention(16, 2).eval()
    for size in (64, 256):
        assert attention.attend(torch.randn(1, 16, size, size)).shape == (1, 16, 16, 16)


def test_channels_that_heads_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="30 channels cannot be split over 4 attention heads"):
        LowResolutionSelfAttention(30, 4)
