"""The released LRFormer+ layout, by its names and by the outputs of the released model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

import deterministic_weights
from bench.counting import count, count_parameters
from bench.models import build_for_counting
from lrformer import load_cfg
from lrformer.checkpoint import LRFormerCheckpointer, from_released, is_released

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
SHARED = ROOT.parent / "shared" / "reference"
VARIANTS = ["t", "s", "b", "l", "xl"]


def config(variant, device="cpu"):
    return load_cfg(ROOT / f"configs/models/lrformer_plus_{variant}.yaml", ["MODEL.DEVICE", device])


def build_on_meta(variant):
    with torch.device("meta"):
        return build_model(config(variant, "meta"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_released_name_has_its_parameter(variant):
    keys = DATA / f"lrformer_{variant}_plus.json"
    if not keys.exists():
        keys = SHARED / "keys" / keys.name
    if not keys.exists():
        pytest.skip(f"{keys.name} is not shipped with the project")
    weights = {
        name: torch.empty(shape, device="meta")
        for name, shape in json.loads(keys.read_text()).items()
    }
    assert is_released(weights)
    converted, unknown = from_released(weights)
    assert unknown == [] and len(converted) == len(weights)
    expected = {k: tuple(v.shape) for k, v in build_on_meta(variant).state_dict().items()}
    del expected["criterion.empty_weight"]  # follows from the config
    assert {k: tuple(v.shape) for k, v in converted.items()} == expected


@pytest.mark.parametrize(
    "name",
    [
        "decode_head.pixel_decoder.encoder.layers.0.norms.2.weight",
        "decode_head.pixel_decoder.lateral_convs.1.conv.weight",
        "decode_head.transformer_decoder.layers.0.norms.3.bias",
        "decode_head.mask_embed.1.weight",
    ],
)
def test_names_that_only_look_released_are_reported(name):
    assert from_released({name: torch.zeros(1)}) == ({}, [name])


def subsample(x, n):
    flat = x.contiguous().flatten()
    return flat[:: max(1, flat.numel() // n)].numpy()


@pytest.fixture(scope="module")
def released_t(tmp_path_factory):
    weights = deterministic_weights.state_dict(DATA / "lrformer_t_plus.json")
    weights = {name: torch.from_numpy(np.asarray(value)) for name, value in weights.items()}
    path = tmp_path_factory.mktemp("weights") / "released.pth"
    torch.save({"state_dict": weights}, path)
    model = build_model(config("t")).eval()
    LRFormerCheckpointer(model).load(str(path))
    return model


@pytest.mark.parametrize("aux", [True, False])
def test_outputs_equal_the_released_model(released_t, aux):
    reference = np.load(DATA / "lrformer_t_plus_512x512.npz")
    image = torch.from_numpy(deterministic_weights.image(512, 512))
    # The reference image is normalised already.
    raw = image[0] * released_t.pixel_std + released_t.pixel_mean
    outputs, features = {}, {}
    head = released_t.sem_seg_head
    hooks = [
        released_t.backbone.register_forward_hook(lambda m, i, out: features.update(out)),
        head.register_forward_hook(lambda m, i, out: outputs.update(out)),
    ]
    head.forward = lambda features: head.layers(features, aux=aux)
    try:
        with torch.no_grad():
            (result,) = released_t([{"image": raw, "height": 512, "width": 512}])
    finally:
        del head.forward
        for hook in hooks:
            hook.remove()
    named = {f"F{i}": features[f"res{i + 1}"] for i in (1, 2, 3, 4)}
    named |= {"class_logits": outputs["pred_logits"], "mask_logits": outputs["pred_masks"]}
    named |= {"sem_seg": result["sem_seg"]}
    for name, tensor in named.items():
        if f"{name}_shape" in reference:
            assert tuple(tensor.shape) == tuple(reference[f"{name}_shape"]), name
        got = subsample(tensor, 4096 if name.startswith("F") else 16384)
        expected = reference[name]
        assert np.linalg.norm(got - expected) < 1e-4 * np.linalg.norm(expected), name


@pytest.mark.parametrize(
    ("variant", "parameters", "size", "flops"),
    [
        ("t", 31.02, 512, 52.6),
        ("s", 47.67, 512, 67.9),
        ("b", 79.84, 512, 92.3),
        pytest.param("l", 119.22, 640, 190.2, marks=pytest.mark.slow),
        pytest.param("xl", 204.73, 640, 315.9, marks=pytest.mark.slow),
    ],
)
def test_parameters_and_flops(variant, parameters, size, flops):
    model = build_for_counting(config(variant))
    assert count_parameters(model) / 1e6 == pytest.approx(parameters, rel=0.01)
    assert count(model, size, size).total / 1e9 == pytest.approx(flops, rel=0.03)
