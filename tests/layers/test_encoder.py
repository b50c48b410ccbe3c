import copy
import math
import subprocess
import sys

import pytest
import torch

from lrformer.layers import LRFormerEncoder

SMALL = {
    "embed_dims": (8, 16, 24, 32),
    "depths": (1, 1, 2, 1),
    "num_heads": (1, 2, 2, 4),
    "mlp_ratios": (2, 2, 2, 2),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


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
        ({"num_heads": (1, 3, 2, 4)}, "MODEL.LRFORMER.NUM_HEADS.*3 heads do not divide .* 16"),
        ({"mlp_ratios": (2, 2, 0, 2)}, "MODEL.LRFORMER.MLP_RATIOS.*positive"),
        ({"pre_norm_blocks": ((), (), (2,), ())}, "MODEL.LRFORMER.PRE_NORM_BLOCKS.*0 to 1"),
        ({"pooled_size": 0}, "MODEL.LRFORMER.POOLED_SIZE"),
        ({"pyramid_sizes": ()}, "MODEL.LRFORMER.PYRAMID_SIZES"),
        ({"drop_path_rate": 1.0}, "MODEL.LRFORMER.DROP_PATH_RATE"),
    ],
)
def test_wrong_arguments_name_the_config_key(wrong, message):
    with pytest.raises(ValueError, match=message):
        LRFormerEncoder(**{**SMALL, **wrong})


def test_layers_do_not_need_detectron2():
    code = (
        "import sys; sys.modules['detectron2'] = None\n"
        "import lrformer.layers\n"
        "assert not [m for m in sys.modules if m.startswith('lrformer.modeling')]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
