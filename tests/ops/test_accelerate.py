import copy

import pytest
import torch
from torch import nn

from lrformer import load_cfg
from lrformer.layers import FeedForward
from lrformer.modeling.build import build_from_cfg
from lrformer.ops import accelerate, exportable, restore
from lrformer.ops.feed_forward import FastFeedForward

SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.LRFORMER.EMBED_DIMS", [8, 16, 24, 32]),
    *("MODEL.LRFORMER.DEPTHS", [1, 1, 1, 1], "MODEL.LRFORMER.NUM_HEADS", [1, 2, 2, 4]),
]
CONFIGS = {
    "plain": ("ade20k/lrformer_t.yaml", ["MODEL.SEM_SEG_HEAD.CONVS_DIM", 32]),
    "plus": (
        "ade20k/lrformer_plus_t.yaml",
        ["MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 1, "MODEL.MASK_FORMER.DEC_LAYERS", 2],
    ),
}


@pytest.fixture(params=CONFIGS)
def model(request):
    torch.manual_seed(0)
    config, opts = CONFIGS[request.param]
    return build_from_cfg(load_cfg(config, [*SMALL, *opts])).eval()


def scores(model, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (3, 90, 130), generator=generator).to(dtype)
    with torch.no_grad():
        return model([{"image": image, "height": 90, "width": 130}])[0]["sem_seg"]


def test_same_outputs_as_in_float64_and_undone_again(model):
    classes, names = [type(m) for m in model.modules()], list(model.state_dict())
    exact = scores(copy.deepcopy(model).double(), torch.float64)
    assert accelerate(model) is model
    assert any(type(m) is FastFeedForward for m in model.modules())
    assert list(model.state_dict()) == names
    assert (scores(model) - exact).norm() < 1e-5 * exact.norm()
    restore(model)
    assert [type(m) for m in model.modules()] == classes


def test_hooks_fire_and_change_what_they_change_in_the_plain_model(model):
    """Of every layer that has a forward pass of its own, whichever its parent's form."""
    leaves = {name: m for name, m in model.named_modules() if not list(m.children())}
    accelerated = accelerate(copy.deepcopy(model))
    seen = {"plain": set(), "accelerated": set()}
    for kind, net in (("plain", model), ("accelerated", accelerated)):
        for name in leaves:
            module = net.get_submodule(name)
            module.register_forward_hook(lambda *_, name=name, kind=kind: seen[kind].add(name))
        scale = net.get_submodule("backbone.stages.0.blocks.0.ffn.fc1")
        scale.register_forward_hook(lambda module, inputs, out: 2 * out)
    torch.testing.assert_close(scores(accelerated), scores(model), rtol=1e-4, atol=1e-4)
    assert seen["accelerated"] == seen["plain"]
    missing = {name for name in leaves if name not in seen["plain"]}
    assert not [name for name in missing if "ffn" in name or "squeeze" in name or "offsets" in name]


class LoRA(nn.Module):
    def __init__(self, base, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.base = base
        self.down = nn.Conv2d(base.in_channels, 2, kernel_size=1, bias=False)
        self.up = nn.Conv2d(2, base.out_channels, kernel_size=1, bias=False)
        nn.init.normal_(self.up.weight, std=3)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


@pytest.mark.parametrize("layer", ["backbone.stages.0.blocks.0.ffn.fc1", "sem_seg_head.squeeze1"])
@pytest.mark.parametrize("first", ["accelerated", "wrapped"])
def test_replaced_layers_are_used(layer, first):
    torch.manual_seed(0)
    config, opts = CONFIGS["plain"]
    model = build_from_cfg(load_cfg(config, [*SMALL, *opts])).eval()
    before = scores(model)
    other = copy.deepcopy(model)
    if first == "accelerated":
        accelerate(other)
    for net in (model, other):
        parent, _, name = layer.rpartition(".")
        setattr(net.get_submodule(parent), name, LoRA(net.get_submodule(layer), seed=1))
    accelerate(other)
    assert (scores(model) - before).norm() > 1e-3 * before.norm()
    torch.testing.assert_close(scores(other), scores(model), rtol=1e-4, atol=1e-4)


OTHERWISE = [
    ("act", nn.GELU(approximate="tanh")),
    ("fc1", nn.Conv2d(8, 16, 1, bias=False)),
    ("dwconv", nn.Conv2d(16, 16, 5, padding=2, groups=16)),
    ("dwconv", nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=16)),
]


@pytest.mark.parametrize(("name", "layer"), OTHERWISE)
@pytest.mark.parametrize("change", [accelerate, exportable])
def test_layers_of_the_same_class_but_otherwise_are_called(name, layer, change):
    plain, x = FeedForward(8, 16), torch.randn(1, 8, 12, 12)
    setattr(plain, name, layer)
    torch.testing.assert_close(change(copy.deepcopy(plain))(x), plain(x))


def test_weight_norm_gives_the_same_numbers():
    model = FastFeedForward(8, 16)
    x = torch.randn(1, 8, 12, 12)
    expected = model(x)
    nn.utils.parametrizations.weight_norm(model.fc1)
    torch.testing.assert_close(model(x), expected)
    with torch.no_grad():
        model.fc1.parametrizations.weight.original0.mul_(3)
    assert (model(x) - expected).norm() > 0.1 * expected.norm()
