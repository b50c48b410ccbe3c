import copy
import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from lrformer.layers import (
    FeedForward,
    LowResolutionSelfAttention,
    LRFormerBlock,
    LRFormerEncoder,
    pooled_shape,
    scaled_pyramid,
)

SMALL = {
    "embed_dims": (8, 16, 24, 32),
    "depths": (1, 1, 2, 1),
    "num_heads": (1, 2, 2, 4),
    "mlp_ratios": (2, 2, 2, 2),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


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
        assert attention(torch.randn(1, 16, size, size)).shape == (1, 16, 16, 16)


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (33, 200), (32, 32), (1, 5)])
def test_any_input_size(size):
    maps = LRFormerEncoder(**SMALL).eval().forward_stages(torch.randn(1, 3, *size))
    for x, dim, stride in zip(maps, SMALL["embed_dims"], (4, 8, 16, 32), strict=True):
        assert x.shape == (1, dim, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
        assert x.isfinite().all()


def test_memory_format_of_the_input_does_not_matter():
    model = LRFormerEncoder(**SMALL).eval()
    x = torch.randn(2, 3, 64, 96)
    maps = model.forward_stages(x)
    other = model.forward_stages(x.contiguous(memory_format=torch.channels_last))
    for a, b in zip(maps, other, strict=True):
        torch.testing.assert_close(a, b)
        assert a.is_contiguous(memory_format=torch.channels_last)


def test_bfloat16_autocast_stays_close_to_float32():
    model = LRFormerEncoder(**SMALL).eval()
    x = torch.randn(1, 3, 96, 96)
    maps = model.forward_stages(x)
    with torch.autocast("cpu", torch.bfloat16):
        low = model.forward_stages(x)
    for a, b in zip(maps, low, strict=True):
        assert (a - b.float()).norm() < 0.03 * a.norm()


def test_compiles_without_graph_breaks():
    model = LRFormerEncoder(**SMALL).eval()
    compiled = torch.compile(model.forward_stages, backend="aot_eager", fullgraph=True)
    x = torch.randn(1, 3, 64, 96)
    for a, b in zip(model.forward_stages(x), compiled(x), strict=True):
        torch.testing.assert_close(a, b)


def test_activation_checkpointing_gives_the_same_gradients():
    model = LRFormerEncoder(**SMALL).train()
    checkpointed = copy.deepcopy(model)
    checkpointed.set_grad_checkpointing()
    x = torch.randn(2, 3, 64, 64)
    for m in (model, checkpointed):
        sum(y.square().mean() for y in m.forward_stages(x)).backward()
    for (name, a), b in zip(model.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=lambda m, name=name: f"{name}: {m}")


def test_every_parameter_gets_a_gradient():
    model = LRFormerEncoder(**SMALL, pre_norm_blocks=[[], [], [1], []], drop_path_rate=0.1).train()
    sum(y.square().sum() for y in model.forward_stages(torch.randn(2, 3, 64, 64))).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_stochastic_depth_grows_linearly_over_all_blocks():
    model = LRFormerEncoder(**SMALL, drop_path_rate=0.4)
    rates = [block.drop_path.drop_prob for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("switch", ["positional_conv", "ffn_conv"])
def test_ablations_of_table_9_remove_just_that_convolution(switch):
    full = sum(p.numel() for p in LRFormerEncoder(**SMALL).parameters())
    without = sum(p.numel() for p in LRFormerEncoder(**SMALL, **{switch: False}).parameters())
    dims = [
        dim for dim, n in zip(SMALL["embed_dims"], SMALL["depths"], strict=True) for _ in range(n)
    ]
    width = 1 if switch == "positional_conv" else 2
    assert full - without == sum(10 * width * dim for dim in dims)  # 3x3 and a bias a channel


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depths": (1, 1, 1)}, "MODEL.LRFORMER.DEPTHS.*needs 4 entries"),
        ({"embed_dims": (8, 16, 24)}, "MODEL.LRFORMER.EMBED_DIMS.*needs 4 entries"),
        ({"num_heads": (1, 3, 2, 4)}, "MODEL.LRFORMER.NUM_HEADS.*3 heads do not divide 16"),
        ({"mlp_ratios": (2, 2, 0, 2)}, "MODEL.LRFORMER.MLP_RATIOS.*positive"),
        ({"pre_norm_blocks": ((), (), (2,), ())}, "MODEL.LRFORMER.PRE_NORM_BLOCKS.*2 blocks"),
        ({"pooled_size": 0}, "MODEL.LRFORMER.POOLED_SIZE"),
        ({"pyramid_sizes": ()}, "MODEL.LRFORMER.PYRAMID_SIZES"),
        ({"drop_path_rate": 1.0}, "MODEL.LRFORMER.DROP_PATH_RATE"),
    ],
)
def test_wrong_arguments_name_the_config_key(wrong, message):
    with pytest.raises(ValueError, match=message):
        LRFormerEncoder(**{**SMALL, **wrong})


def test_hooks_of_every_child_fire():
    model, seen = LRFormerEncoder(**SMALL).eval(), set()
    leaves = [m for m in model.modules() if not list(m.children())]
    for leaf in leaves:
        leaf.register_forward_hook(lambda module, *_: seen.add(module))
    model.forward_stages(torch.randn(1, 3, 64, 64))
    assert seen == set(leaves)


def test_double_backward():
    ffn, x = FeedForward(2, 4).double(), torch.randn(1, 2, 4, 3, dtype=torch.float64)
    x.requires_grad_()
    assert torch.autograd.gradgradcheck(ffn, x)


def test_functional_transforms_agree_with_autograd():
    block, x = LRFormerBlock(8, 2), torch.randn(1, 8, 20, 24)
    weights = dict(block.named_parameters())

    def loss(weights):
        return torch.func.functional_call(block, weights, x).square().mean()

    found = torch.func.grad(loss)(weights)
    loss(weights).backward()
    for name, parameter in weights.items():
        torch.testing.assert_close(found[name], parameter.grad)


def test_layers_do_not_need_detectron2():
    code = (
        "import sys; sys.modules['detectron2'] = None\n"
        "import lrformer.layers\n"
        "assert not [m for m in sys.modules if m.startswith('lrformer.modeling')]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
