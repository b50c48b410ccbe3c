import copy
from pathlib import Path

import pytest
import timm
import torch
from detectron2.layers import FrozenBatchNorm2d, NaiveSyncBatchNorm
from detectron2.modeling import build_model
from torch import nn

import lrformer.timm_models  # noqa: F401 (registers the timm models)
from lrformer import load_cfg
from lrformer.inference import SemanticTTA, SlidingWindow, fuse
from lrformer.layers import LRFormerEncoder, onednn

CONFIGS = Path(__file__).parents[2] / "configs" / "models"
# Structure, channels and heads of the variants, with as many blocks as they need to be typical.
SMALL = {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4)}
FEW_BLOCKS = {"t": (1, 1, 2, 1), "s": (1, 1, 2, 1), "b": (1, 1, 1, 1), "l": (1, 1, 1, 1)}


def randomise(model: nn.Module) -> nn.Module:
    """Values at which no norm, layer scale or bias is the identity."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif name.endswith("gamma") or (tensor.dim() == 1 and name.endswith("weight")):
                tensor.uniform_(0.5, 1.5)
            elif tensor.dim() == 1 and tensor.is_floating_point() and not name.startswith("pixel_"):
                tensor.normal_(0, 0.2)
            elif tensor.dim() > 1 and not name.startswith("pixel_"):
                tensor.normal_(0, tensor[0].numel() ** -0.5)
    return model.eval()


def build(variant: str, *opts) -> nn.Module:
    name = variant.removesuffix("+")
    depths = FEW_BLOCKS.get(name, (1, 1, 9, 1))
    config = f"lrformer_plus_{name}.yaml" if variant.endswith("+") else f"lrformer_{name}.yaml"
    opts = ["MODEL.LRFORMER.DEPTHS", depths, "MODEL.DEVICE", "meta", *opts]
    if name == "xl":
        opts += ["MODEL.LRFORMER.PRE_NORM_BLOCKS", [[], [], [7], []]]
    if variant.endswith("+"):
        opts += ["MODEL.MASK_FORMER.DEC_LAYERS", 2, "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 1]
    cfg = load_cfg(CONFIGS / config, opts)
    with torch.device("meta"):
        model = build_model(cfg)
    model = randomise(model.to_empty(device="cpu"))
    model.pixel_mean.fill_(120)
    model.pixel_std.fill_(60)
    return model.double()


def image(height: int = 96, width: int = 128) -> torch.Tensor:
    torch.manual_seed(1)
    return 255 * torch.rand(3, height, width, dtype=torch.float64)


def network(model: nn.Module):
    return lambda x: model.sem_seg_head.layers(model.backbone(x))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


@pytest.mark.parametrize("variant", ["t", "s", "b", "l", "xl"])
@torch.no_grad()
def test_every_plain_variant_predicts_the_same(variant):
    model = build(variant)
    fused = fuse(model)
    x = (image()[None] - 120) / 60
    assert not [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]
    assert relative(network(fused)(x), network(model)(x)) < 1e-10


@pytest.mark.parametrize("variant", ["t+", "s+", "b+", "l+", "xl+"])
@torch.no_grad()
def test_every_plus_variant_predicts_the_same(variant):
    model = build(variant)
    fused = fuse(model)
    x = (image(64, 64)[None] - 120) / 60
    expected, found = network(model)(x), network(fused)(x)
    for key in ("pred_logits", "pred_masks"):
        assert relative(found[key], expected[key]) < 1e-5


@torch.no_grad()
def test_whole_models_and_wrappers_keep_their_interface():
    model = build("t")
    wrapped = SemanticTTA(
        SlidingWindow(model, crop_size=(64, 64), stride=(48, 48)), min_sizes=[64], max_size=128
    )
    inputs = [{"image": image().float(), "height": 50, "width": 70}]
    for m in (model.float(), wrapped):
        expected = m(inputs)[0]["sem_seg"]
        found = fuse(m)(inputs)[0]["sem_seg"]
        assert found.shape == (model.sem_seg_head.predictor.out_channels, 50, 70)
        assert relative(found, expected) < 1e-4


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "naiveSyncBN", "FrozenBN", "GN"])
@torch.no_grad()
def test_each_kind_of_norm(norm):
    model = build("t", "MODEL.LRFORMER.NORM", "BN", "MODEL.LRFORMER.PRE_NORM_BLOCKS", [[0]] * 4)
    kinds = {
        "SyncBN": nn.SyncBatchNorm,
        "naiveSyncBN": NaiveSyncBatchNorm,
        "FrozenBN": FrozenBatchNorm2d,
        "GN": lambda dim: nn.GroupNorm(8, dim),
    }
    for module in list(model.modules()) if norm in kinds else []:
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                new = kinds[norm](child.num_features).double()
                new.load_state_dict(child.state_dict(), strict=False)
                setattr(module, name, new.eval())
    x = (image()[None] - 120) / 60
    if norm == "SyncBN":  # runs on GPUs only; its fused form has none left
        reference = build("t", "MODEL.LRFORMER.PRE_NORM_BLOCKS", [[0]] * 4)
        assert relative(network(fuse(model))(x), network(reference)(x)) < 1e-10
    else:
        assert relative(network(fuse(model))(x), network(model)(x)) < 1e-10


@torch.no_grad()
def test_encoder_options_and_frozen_stages():
    frozen = build("t", "MODEL.LRFORMER.FREEZE_AT", 3).backbone
    assert any(isinstance(m, FrozenBatchNorm2d) for m in frozen.modules())
    plain = LRFormerEncoder(**SMALL, positional_conv=False, ffn_conv=False, drop_path_rate=0.5)
    x = image()[None] / 255
    for model in (frozen, randomise(plain.double())):
        for a, b in zip(fuse(model).forward_stages(x), model.forward_stages(x), strict=True):
            assert relative(a, b) < 1e-10


@torch.no_grad()
def test_timm_models():
    x = image()[None] / 255
    model = randomise(timm.create_model("lrformer_tiny", num_classes=10).double())
    assert relative(fuse(model)(x), model(x)) < 1e-10
    features = timm.create_model("lrformer_tiny", features_only=True, pooled_size=16)
    features = randomise(features.double())
    for a, b in zip(fuse(features)(x), features(x), strict=True):
        assert relative(a, b) < 1e-10


@torch.no_grad()
def test_one_feature_and_more_classes_than_channels():
    opts = ["MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res4"], "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 300]
    model = build("t", *opts)
    x = (image()[None] - 120) / 60
    found = network(fuse(model))(x)
    assert found.shape == (1, 300, 6, 8)
    assert relative(found, network(model)(x)) < 1e-10


def test_the_original_is_neither_changed_nor_shared():
    model = build("t")
    before = copy.deepcopy(model.state_dict())
    fused = fuse(model)
    after = model.state_dict()
    assert all(torch.equal(a, after[name]) for name, a in before.items())
    own = {t.data_ptr() for t in fused.state_dict().values()}
    assert not own & {t.data_ptr() for t in after.values()}
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in fused.parameters())
    model.train()  # the original can be trained further


def test_training_is_refused_before_and_after():
    model = build("t")
    with pytest.raises(RuntimeError, match=r"the model itself .* is in training mode: call .eval"):
        fuse(model.train())
    model.eval().backbone.stages[1].train()
    with pytest.raises(RuntimeError, match="backbone.stages.1 .* is in training mode"):
        fuse(model)
    fused = fuse(model.eval())
    with pytest.raises(RuntimeError, match="a fused model is for inference only"):
        fused.train()


def test_nothing_to_fuse_is_an_error():
    with pytest.raises(ValueError, match="nothing to fuse in this Conv2d"):
        fuse(nn.Conv2d(3, 3, 1).eval())
    with pytest.raises(ValueError, match="fused already"):
        fuse(fuse(build("t")))


@torch.no_grad()
def test_float32_through_onednn_and_bfloat16():
    """The fast operators of CPUs and the standard ones that replace them elsewhere agree."""
    reference = build("t")
    x = (image(192, 256)[None] - 120) / 60
    expected = network(reference)(x)
    fused = fuse(reference.float())
    assert onednn.usable(x.float())
    assert relative(network(fused)(x.float()), expected) < 1e-4
    with torch.backends.mkldnn.flags(enabled=False):
        assert not onednn.usable(x.float())
        assert relative(network(fused)(x.float()), expected) < 1e-4
    with torch.autocast("cpu", torch.bfloat16):
        assert relative(network(fused)(x.float()), expected) < 0.05
    assert relative(network(fused.bfloat16())(x.bfloat16()), expected) < 0.05


def test_gradients_of_the_image_are_those_of_the_original():
    model = build("t")
    x = (image()[None] - 120) / 60
    grads = []
    for m in (model, fuse(model)):
        x = x.detach().requires_grad_()
        network(m)(x).square().sum().backward()
        grads.append(x.grad)
    assert relative(grads[1], grads[0]) < 1e-10


@torch.no_grad()
def test_compiles_and_traces_without_graph_breaks():
    model = randomise(LRFormerEncoder(**SMALL, pre_norm_blocks=((), (), (1,), ())))
    fused = fuse(model)
    x = (image()[None] / 255).float()
    expected = model.forward_stages(x)
    compiled = torch.compile(fused.forward_stages, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        traced = torch.jit.trace_module(
            fused, {"forward_stages": x}, check_trace=False, strict=False
        )
    for found in (compiled(x), traced.forward_stages(x)):
        for a, b in zip(found, expected, strict=True):
            assert relative(a, b) < 1e-4
