"""timm's models: its own checks of a model, and that they are the paper's and the released ones."""

import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from fvcore.nn import FlopCountAnalysis
from timm.data import resolve_data_config
from timm.models import create_feature_extractor, group_parameters
from timm.optim import create_optimizer_v2, param_groups_layer_decay

import lrformer.timm_models  # noqa: F401 - registers the models
from lrformer import load_cfg
from lrformer.layers.variants import VARIANTS

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
sys.path.append(str(DATA))

import deterministic_weights  # noqa: E402

SHORT_NAMES = dict(zip(VARIANTS, ("t", "s", "b", "l", "xl"), strict=True))
SMALL = {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4)}
DIMS = [8, 16, 24, 32]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def create(name="lrformer_tiny", **kwargs):
    return timm.create_model(name, **{**SMALL, **kwargs}).eval()


def create_empty(name, **kwargs):
    """A model of full size whose values nobody asks for."""
    with torch.device("meta"):
        model = timm.create_model(name, **kwargs)
    model = model.to_empty(device="cpu").eval()
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.zero_()
    return model


def test_all_variants_are_registered():
    assert set(timm.list_models("lrformer_*")) == set(VARIANTS)
    assert timm.list_models("lrformer_*", pretrained=True) == []


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_those_of_the_configs(name):
    keys = load_cfg(ROOT / f"configs/models/lrformer_{SHORT_NAMES[name]}.yaml").MODEL.LRFORMER
    with torch.device("meta"):
        model = timm.create_model(name)
    assert [x["num_chs"] for x in model.feature_info] == list(keys.EMBED_DIMS)
    for i, stage in enumerate(model.stages):
        assert len(stage.blocks) == keys.DEPTHS[i]
        for j, block in enumerate(stage.blocks):
            assert block.attn.num_heads == keys.NUM_HEADS[i]
            assert block.ffn.fc1.out_channels == keys.MLP_RATIOS[i] * keys.EMBED_DIMS[i]
            assert (block.pre_norm is not None) == (j in keys.PRE_NORM_BLOCKS[i])
            assert hasattr(block.scale1, "gamma") == (keys.LAYER_SCALE_INIT[i] > 0)


def attention_flops(inputs, outputs):
    """Queries times keys, and the attention map times values; fvcore does not know them."""
    n, heads, queries, dim = inputs[0].type().sizes()
    return 2 * n * heads * queries * inputs[1].type().sizes()[2] * dim


@pytest.mark.parametrize(
    ("name", "parameters", "flops"),
    [
        ("lrformer_tiny", 11.27, 1.72),
        ("lrformer_small", 27.86, 4.58),
        pytest.param("lrformer_base", 59.99, 9.18, marks=pytest.mark.slow),
        pytest.param("lrformer_large", 99.31, 15.5, marks=pytest.mark.slow),
        pytest.param("lrformer_xlarge", 184.72, 31.4, marks=pytest.mark.slow),
    ],
)
def test_size_without_the_classifier_is_the_released_models(name, parameters, flops):
    model = create_empty(name, num_classes=0)
    count = FlopCountAnalysis(model, torch.zeros(1, 3, 224, 224))
    count.set_op_handle("aten::scaled_dot_product_attention", attention_flops)
    count.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(parameters, rel=0.001)
    assert count.total() / 1e9 == pytest.approx(flops, rel=0.005)


@pytest.mark.parametrize("size", [(224, 224), (65, 97), (32, 32)])
def test_forward(size):
    scores = create()(torch.randn(1, 3, *size))
    assert scores.shape == (1, 1000)
    assert scores.isfinite().all()


def test_backward_reaches_every_parameter():
    model = create(num_classes=42, drop_path_rate=0.1).train()
    scores = model(torch.randn(2, 3, 64, 64))
    scores.square().mean().backward()
    assert scores.shape == (2, 42)
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_full_size_forward_and_backward(name):
    model = timm.create_model(name, num_classes=7).train()
    model(torch.randn(2, 3, 64, 64)).mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_default_cfg_describes_the_model():
    model = create()
    cfg = model.default_cfg
    names = model.state_dict()
    assert cfg["architecture"] == "lrformer_tiny" and not cfg["url"]
    assert f"{cfg['classifier']}.weight" in names and f"{cfg['first_conv']}.weight" in names
    assert model.get_classifier() is model.get_submodule(cfg["classifier"])
    assert model.num_features == names["head.weight"].shape[1] == 32
    x = torch.randn(1, *cfg["input_size"])
    assert model.forward_features(x).shape[-2:] == cfg["pool_size"]
    data = resolve_data_config(model=model)
    assert data["mean"] == (0.485, 0.456, 0.406) and data["std"] == (0.229, 0.224, 0.225)
    assert data["interpolation"] == "bicubic" and data["input_size"] == (3, 224, 224)


def test_a_classifier_can_be_removed_and_replaced():
    model = create()
    x = torch.randn(2, 3, 64, 64)
    features = model.forward_features(x)
    pooled = features.mean((2, 3))
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), pooled)
    torch.testing.assert_close(model(x), pooled @ model.head.weight.T + model.head.bias)

    model.reset_classifier(0)
    torch.testing.assert_close(model(x), pooled)
    model.reset_classifier(0, "")
    torch.testing.assert_close(model(x), features)
    model.reset_classifier(7, "max")
    expected = features.amax((2, 3)) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(x), expected)
    assert model.num_classes == 7


@pytest.mark.parametrize("feature_cls", [None, "dict", "hook", "fx", "getter"])
def test_features_are_the_encoders_maps(feature_cls):
    model = create()
    backbone = create(features_only=True, feature_cls=feature_cls)
    weights = model.state_dict()
    weights = {name: value for name, value in weights.items() if not name.startswith("head.")}
    # timm names a wrapped model's parameters otherwise, in the same order.
    own = backbone.state_dict()
    assert len(own) == len(weights)
    backbone.load_state_dict(dict(zip(own, weights.values(), strict=True)))

    x = torch.randn(2, 3, 65, 97)
    maps = backbone(x)
    maps = list(maps.values()) if isinstance(maps, dict) else maps
    assert backbone.feature_info.channels() == DIMS
    assert backbone.feature_info.reduction() == [4, 8, 16, 32]
    for got, expected, dim, stride in zip(
        maps, model.forward_stages(x), DIMS, (4, 8, 16, 32), strict=True
    ):
        assert got.shape == (2, dim, math.ceil(65 / stride), math.ceil(97 / stride))
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("out_indices", "channels"),
    [((0, 2), [8, 24]), ((-1,), [32]), ((-3, -2), [16, 24]), (2, [24, 32])],
)
@pytest.mark.parametrize("feature_cls", [None, "getter"])
def test_out_indices_choose_the_features(out_indices, channels, feature_cls):
    backbone = create(features_only=True, out_indices=out_indices, feature_cls=feature_cls)
    assert backbone.feature_info.channels() == channels
    maps = backbone(torch.randn(1, 3, 64, 64))
    assert [x.shape[1] for x in maps] == channels


def test_stages_after_the_last_wanted_feature_are_removed():
    backbone = create(features_only=True, out_indices=(0, 1), feature_cls="getter")
    assert len(backbone.model.stages) == 2
    assert not any("head" in name for name, _ in backbone.named_parameters())


def test_intermediates():
    model = create()
    x = torch.randn(1, 3, 64, 64)
    maps = model.forward_stages(x)
    last, taken = model.forward_intermediates(x, indices=[0, -1])
    for got, expected in zip([last, *taken], [maps[3], maps[0], maps[3]], strict=True):
        torch.testing.assert_close(got, expected)
    last, taken = model.forward_intermediates(x, indices=[1], stop_early=True)
    torch.testing.assert_close(last, maps[1])
    assert len(model.forward_intermediates(x, indices=2, intermediates_only=True)) == 2
    with pytest.raises(ValueError, match="NCHW"):
        model.forward_intermediates(x, output_fmt="NLC")
    with pytest.raises(AssertionError):
        model.forward_intermediates(x, indices=[4])


def test_other_channels_dropout_and_pooled_size():
    model = create(in_chans=5, drop_rate=0.5, pooled_size=16)
    assert model(torch.randn(1, 5, 64, 64)).shape == (1, 1000)
    assert model.head_drop.p == 0.5
    assert model.stages[0].blocks[0].attn.pooled_size == 16
    assert create().stages[0].blocks[0].attn.pooled_size == 7
    with pytest.raises(TypeError, match="bogus"):
        create(bogus=1)


def test_gradient_checkpointing_changes_no_gradient():
    models = [create().train(), create().train()]
    models[1].load_state_dict(models[0].state_dict())
    models[1].set_grad_checkpointing()
    x = torch.randn(2, 3, 64, 64)
    for model in models:
        model(x).square().mean().backward()
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_weight_decay_spares_norms_biases_and_layer_scales():
    model = create()
    names = {name for name, _ in model.named_parameters()}
    assert model.no_weight_decay() == {name for name in names if name.endswith("gamma")}
    assert len(model.no_weight_decay()) == 2 * (2 + 1)  # of stages 3 and 4
    groups = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05).param_groups
    decayed = {id(p) for g in groups if g["weight_decay"] > 0 for p in g["params"]}
    assert {n for n, p in model.named_parameters() if id(p) in decayed} == {
        n for n, p in model.named_parameters() if p.ndim > 1
    }


def test_layer_decay_follows_the_depth():
    model = create()
    blocks = sum(SMALL["depths"])
    assert len(group_parameters(model, model.group_matcher())) == 1 + blocks + 1
    assert len(group_parameters(model, model.group_matcher(coarse=True))) == 1 + 4 + 1
    scale = {}
    for group in param_groups_layer_decay(model, layer_decay=0.5):
        scale |= {id(p): group["lr_scale"] for p in group["params"]}
    names = dict(model.named_parameters())
    order = [
        "stem.conv1.weight",
        "stages.0.pyramid_convs.0.weight",
        "stages.1.embed.proj.weight",
        "stages.2.blocks.0.attn.q.weight",
        "stages.2.blocks.1.attn.q.weight",
        "stages.3.blocks.0.ffn.fc1.weight",
        "head.weight",
    ]
    scales = [scale[id(names[name])] for name in order]
    assert scales == [0.5**k for k in range(len(order) - 1, -1, -1)]


@pytest.mark.parametrize("how", ["trace", "export", "fx"])
def test_exports_for_any_number_of_images(how):
    # torch.jit.script is out of reach, as for the models that timm leaves out of that check.
    model = create()
    x = torch.randn(2, 3, 64, 96)
    if how == "trace":
        with warnings.catch_warnings():
            # The size of the image is fixed; and tracing is deprecated.
            warnings.simplefilter("ignore")
            exported = torch.jit.trace(model, x)
    elif how == "export":
        shapes = ({0: torch.export.Dim.DYNAMIC},)
        exported = torch.export.export(model, (x,), dynamic_shapes=shapes).module()
    else:
        graph = create_feature_extractor(model, {"head": "scores"})

        def exported(images):
            return graph(images)["scores"]

    for batch in (x, torch.randn(5, 3, 64, 96)):
        torch.testing.assert_close(exported(batch), model(batch))


@pytest.fixture(scope="module")
def released_imagenet(tmp_path_factory):
    """A file in the layout of the authors' ImageNet backbones."""
    weights = deterministic_weights.state_dict(DATA / "lrformer_t.json")
    weights = {
        name.removeprefix("backbone."): torch.from_numpy(np.asarray(value))
        for name, value in weights.items()
        if name.startswith("backbone.")
    }
    weights |= {"head.weight": torch.rand(1000, 384), "head.bias": torch.rand(1000)}
    path = tmp_path_factory.mktemp("weights") / "imagenet.pth"
    torch.save({"model": weights}, path)
    return path


def test_released_imagenet_weights_give_the_reference_outputs(released_imagenet):
    reference = np.load(DATA / "lrformer_t_512x512.npz")
    overlay = {"file": str(released_imagenet)}
    model = timm.create_model(
        "lrformer_tiny", pretrained=True, pretrained_cfg_overlay=overlay, pooled_size=16
    ).eval()
    assert torch.equal(model.head.bias, torch.load(released_imagenet)["model"]["head.bias"])
    backbone = timm.create_model(
        "lrformer_tiny",
        pretrained=True,
        pretrained_cfg_overlay=overlay,
        pooled_size=16,
        features_only=True,
    ).eval()
    x = torch.from_numpy(deterministic_weights.image(512, 512))
    with torch.no_grad():
        maps = backbone(x)
        torch.testing.assert_close(model.forward_features(x), maps[-1])
    for i, got in enumerate(maps, start=1):
        expected = reference[f"F{i}"]
        got = got.contiguous().flatten()
        got = got[:: max(1, len(got) // 4096)].numpy()
        assert np.linalg.norm(got - expected) < 1e-4 * np.linalg.norm(expected)


def test_pretrained_weights_adapt_to_classes_and_channels(released_imagenet):
    model = timm.create_model(
        "lrformer_tiny",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(released_imagenet)},
        num_classes=10,
        in_chans=1,
    )
    weights = torch.load(released_imagenet)["model"]
    assert model.head.weight.shape == (10, 384)
    released = weights["patch_embed1.conv1.0.weight"]
    torch.testing.assert_close(model.stem.conv1.weight, released.sum(1, keepdim=True))
    assert torch.equal(model.stages[3].blocks[2].norm1.weight, weights["block4.2.norm1.weight"])


def test_there_is_nothing_to_download():
    with pytest.raises(RuntimeError, match="No pretrained weights exist for lrformer_tiny"):
        timm.create_model("lrformer_tiny", pretrained=True)


WITHOUT_DETECTRON2 = "import sys; sys.modules['detectron2'] = None\n"


def python(code, **env):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        timeout=120,
    )


def test_works_without_detectron2(released_imagenet):
    done = python(
        WITHOUT_DETECTRON2
        + f"""
import timm, torch, lrformer.timm_models, lrformer.pretrain
model = timm.create_model("lrformer_tiny", depths=(1, 1, 1, 1), num_classes=3)
assert model(torch.rand(1, 3, 32, 32)).shape == (1, 3)
timm.create_model(
    "lrformer_tiny", pretrained=True, pretrained_cfg_overlay={{"file": {str(released_imagenet)!r}}}
)
assert not [name for name in sys.modules if name.startswith("detectron2.")]
try:
    lrformer.build_model
except ImportError as error:
    print(error)
"""
    )
    assert done.returncode == 0, done.stderr
    assert "lrformer.build_model needs detectron2" in done.stdout
    assert "tools/install_detectron2.py" in done.stdout


def test_a_broken_detectron2_is_not_hidden(tmp_path):
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").write_text("raise ImportError('no _C here')")
    done = python("import lrformer.timm_models", PYTHONPATH=str(tmp_path))
    assert done.returncode != 0
    assert "no _C here" in done.stderr
