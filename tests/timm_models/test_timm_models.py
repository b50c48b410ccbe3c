"""timm's models: its own checks of a model, and that they are the paper's and the released ones."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.data import resolve_data_config
from timm.models import group_parameters
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch.utils.flop_counter import FlopCounterMode

import deterministic_weights
import lrformer.timm_models  # noqa: F401 - registers the models
from lrformer import load_cfg
from lrformer.layers import VARIANTS

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
SHORT_NAMES = dict(zip(VARIANTS, ("t", "s", "b", "l", "xl"), strict=True))
SMALL = {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4)}
DIMS = [8, 16, 24, 32]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def create(name="lrformer_tiny", **kwargs):
    return timm.create_model(name, **{**SMALL, **kwargs}).eval()


@pytest.mark.parametrize("name", VARIANTS)
def test_heads_are_those_of_the_configs(name):  # the rest shows in the number of parameters
    keys = load_cfg(ROOT / f"configs/models/lrformer_{SHORT_NAMES[name]}.yaml").MODEL.LRFORMER
    stages = timm.create_model(name, device="meta").stages
    heads = [{block.attn.num_heads for block in stage.blocks} for stage in stages]
    assert heads == [{number} for number in keys.NUM_HEADS]


@pytest.mark.parametrize(("device", "dtype"), [("cpu", torch.float16), ("meta", torch.float64)])
def test_device_and_dtype_are_those_asked_for(device, dtype):
    model = create(device=device, dtype=dtype)
    for _ in range(2):
        assert {(str(p.device), p.dtype) for p in model.parameters()} == {(device, dtype)}
        assert {str(b.device) for b in model.buffers()} == {device}
        model.reset_classifier(5)


@pytest.mark.parametrize(
    ("name", "parameters", "flops"),
    [
        ("lrformer_tiny", 11.27, 1.72),
        ("lrformer_small", 27.86, 4.58),
        ("lrformer_base", 59.99, 9.18),
        ("lrformer_large", 99.31, 15.5),
        ("lrformer_xlarge", 184.72, 31.4),
    ],
)
def test_size_without_the_classifier_is_the_released_models(name, parameters, flops):
    model = timm.create_model(name, num_classes=0, device="meta").eval()
    # PyTorch's own counter, which leaves out the normalisations: a hundredth of the whole.
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 224, 224, device="meta"))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(parameters, rel=0.001)
    assert counter.get_total_flops() / 2e9 == pytest.approx(flops, rel=0.015)


def test_forward_and_backward_reach_every_parameter():
    model = create(num_classes=42, drop_path_rate=0.1).train()
    scores = model(torch.randn(2, 3, 65, 97))
    scores.square().mean().backward()
    assert scores.shape == (2, 42) and scores.isfinite().all()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_default_cfg_describes_the_model():
    model = create()
    cfg = model.default_cfg
    assert cfg["architecture"] == "lrformer_tiny" and not cfg["url"]
    assert model.get_classifier() is model.get_submodule(cfg["classifier"])
    assert model.get_submodule(cfg["first_conv"]).weight.shape[1] == 3
    x = torch.randn(1, *cfg["input_size"])
    assert model.forward_features(x).shape[1:] == (model.num_features, *cfg["pool_size"])
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
    assert [each.shape[1:] for each in maps] == [(8, 17, 25), (16, 9, 13), (24, 5, 7), (32, 3, 4)]
    torch.testing.assert_close(list(maps), list(model.forward_stages(x)))


@pytest.mark.parametrize(
    ("out_indices", "feature_cls", "channels"),
    [((0, 2), None, [8, 24]), ((0, 1), "getter", [8, 16])],
)
def test_out_indices_choose_the_features(out_indices, feature_cls, channels):
    backbone = create(features_only=True, out_indices=out_indices, feature_cls=feature_cls)
    assert backbone.feature_info.channels() == channels
    maps = backbone(torch.randn(1, 3, 64, 64))
    assert [x.shape[1] for x in maps] == channels
    if feature_cls == "getter":  # what comes after them is removed
        assert len(backbone.model.stages) == DIMS.index(channels[-1]) + 1


def test_other_channels_dropout_and_pooled_size():
    model = create(in_chans=5, drop_rate=0.5, pooled_size=16)
    assert model(torch.randn(1, 5, 64, 64)).shape == (1, 1000) and model.head_drop.p == 0.5
    assert model.stages[0].blocks[0].attn.pool.short_sides[0] == 16
    assert create().stages[0].blocks[0].attn.pool.short_sides[0] == 7


def test_weight_decay_spares_norms_biases_and_layer_scales():
    model = create()
    names = {name for name, _ in model.named_parameters()}
    assert model.no_weight_decay() == {name for name in names if name.endswith("gamma")}
    groups = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05).param_groups
    decayed = {id(p) for g in groups if g["weight_decay"] > 0 for p in g["params"]}
    assert {n for n, p in model.named_parameters() if id(p) in decayed} == {
        n for n, p in model.named_parameters() if p.ndim > 1
    }


def test_layer_decay_follows_the_depth():
    model = create()
    assert len(group_parameters(model, model.group_matcher(coarse=True))) == 1 + 4 + 1
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    for depth, name in enumerate(
        (
            "head.weight",
            "stages.3.blocks.0.ffn.fc1.weight",
            "stages.2.blocks.1.attn.q.weight",
            "stages.2.blocks.0.attn.q.weight",
            "stages.1.embed.proj.weight",
            "stages.0.pyramid_convs.0.weight",
            "stem.conv1.weight",
        )
    ):
        assert scale[id(model.get_parameter(name))] == 0.5**depth, name


@pytest.mark.filterwarnings("ignore")
def test_torch_export_takes_any_number_of_images():
    model = create(depths=(1, 1, 1, 1))
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    exported = torch.export.export(model, (torch.randn(2, 3, 64, 96),), dynamic_shapes=shapes)
    x = torch.randn(5, 3, 64, 96)
    torch.testing.assert_close(exported.module()(x), model(x))


PEERS = {
    "mit_b0": {"embed_dims": (8, 16, 40, 64), "depths": (1, 1, 1, 1)},
    "rtformer_slim": {"width": 8},
}


@pytest.mark.parametrize("name", PEERS)
def test_peers_classify_and_give_features(name):
    model = timm.create_model(name, num_classes=7, **PEERS[name]).train()
    scores = model(torch.randn(2, 3, 65, 97))
    scores.square().mean().backward()
    assert scores.shape == (2, 7)
    # RTFormer's last layers of its high branch are for segmentation.
    unused = [name for name, p in model.named_parameters() if p.grad is None]
    assert not unused or (name == "rtformer_slim" and all("layer5" in n for n in unused))
    assert model.get_submodule(model.default_cfg["first_conv"]).weight.shape[1] == 3
    covered = sum(map(len, group_parameters(model, model.group_matcher()).values()))
    assert covered == len(list(model.parameters()))
    backbone = timm.create_model(name, features_only=True, out_indices=(1, 3), **PEERS[name])
    maps = backbone(torch.randn(1, 3, 64, 96))
    assert [x.shape[1] for x in maps] == backbone.feature_info.channels()
    assert [64 // x.shape[2] for x in maps] == backbone.feature_info.reduction() == [8, 32]


@pytest.mark.parametrize(("name", "millions"), [("mit_b2", 24.196), ("mit_b5", 81.443)])
def test_size_of_mit(name, millions):
    model = timm.create_model(name, num_classes=0, device="meta")
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.001)


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


def pretrained(file, **options):
    options["pretrained_cfg_overlay"] = {"file": str(file)}
    return timm.create_model("lrformer_tiny", pretrained=True, **options).eval()


def test_released_imagenet_weights_give_the_reference_outputs(released_imagenet):
    reference = np.load(DATA / "lrformer_t_512x512.npz")
    backbone = pretrained(released_imagenet, pooled_size=16, features_only=True)
    with torch.no_grad():
        maps = backbone(torch.from_numpy(deterministic_weights.image(512, 512)))
    for i, got in enumerate(maps, start=1):
        expected = reference[f"F{i}"]
        got = got.contiguous().flatten()
        got = got[:: max(1, len(got) // 4096)].numpy()
        assert np.linalg.norm(got - expected) < 1e-4 * np.linalg.norm(expected)


def test_pretrained_weights_adapt_to_classes_and_channels(released_imagenet):
    weights = torch.load(released_imagenet)["model"]
    assert torch.equal(pretrained(released_imagenet).head.bias, weights["head.bias"])
    model = pretrained(released_imagenet, num_classes=10, in_chans=1)
    assert model.head.weight.shape == (10, 384)
    released = weights["patch_embed1.conv1.0.weight"]
    torch.testing.assert_close(model.stem.conv1.weight, released.sum(1, keepdim=True))
    assert torch.equal(model.stages[3].blocks[2].norm1.weight, weights["block4.2.norm1.weight"])


def test_there_is_nothing_to_download():
    assert timm.list_models("lrformer_*", pretrained=True) == []
    with pytest.raises(RuntimeError, match="No pretrained weights exist for lrformer_tiny"):
        timm.create_model("lrformer_tiny", pretrained=True)


def python(code, **env):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | env)


def test_works_without_detectron2(released_imagenet):
    done = python(
        f"""
import sys
sys.modules["detectron2"] = None
import timm, torch, lrformer.timm_models, lrformer.pretrain
timm.create_model(
    "lrformer_tiny", pretrained=True, pretrained_cfg_overlay={{"file": {str(released_imagenet)!r}}}
)
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
