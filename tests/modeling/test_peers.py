"""SegFormer, RTFormer and the context heads against their authors' definitions and Hugging Face."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import deterministic_weights
from bench.counting import count, count_parameters
from bench.models import build_for_counting
from lrformer import build_model, load_cfg

DATA = Path(__file__).parents[1] / "data"


def released(tmp_path, *names) -> str:
    """A file of the deterministic weights of one or more models of tests/data."""
    arrays = {}
    for name in names:
        arrays |= deterministic_weights.state_dict(DATA / f"{name}.json")
    torch.save(
        {"state_dict": {k: torch.from_numpy(np.asarray(v)) for k, v in arrays.items()}},
        tmp_path / "released.pth",
    )
    return str(tmp_path / "released.pth")


def assert_equals_reference(name: str, found: dict[str, torch.Tensor]) -> None:
    reference = np.load(DATA / f"{name}.npz")
    for key, tensor in found.items():
        assert tuple(tensor.shape) == tuple(reference[f"{key}_shape"]), key
        expected = reference[key]
        flat = tensor.contiguous().flatten()
        many = key.endswith("logits") and not name.startswith("heads")
        got = flat[:: max(1, len(flat) // (16384 if many else 4096))].numpy()
        assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected), key


@torch.no_grad()
def test_segformer_equals_the_released_model(tmp_path):
    model = build_model("models/segformer_b0.yaml", released(tmp_path, "segformer_b0"), "cpu")
    features = model.backbone(torch.from_numpy(deterministic_weights.image(512, 512)))
    found = {f"F{i}": features[f"res{i + 1}"] for i in (1, 2, 3, 4)}
    found["logits"] = model.sem_seg_head.layers(features)
    assert_equals_reference("segformer_b0_512x512", found)


@pytest.mark.parametrize("variant", ["segformer_b0", "segformer_b2"])
@torch.no_grad()
def test_segformer_equals_hugging_faces(tmp_path, variant):
    transformers = pytest.importorskip("transformers")
    model = build_model(f"models/{variant}.yaml", device="cpu", opts=["MODEL.MIT.DEPTHS", [1] * 4])
    keys = load_cfg(f"models/{variant}.yaml").MODEL
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        hidden_sizes=keys.MIT.EMBED_DIMS,
        depths=[1] * 4,
        decoder_hidden_size=keys.SEM_SEG_HEAD.CONVS_DIM,
        num_labels=150,
    )
    theirs = transformers.SegformerForSemanticSegmentation(config).eval()
    for parameter in theirs.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    model = build_model(
        f"models/{variant}.yaml", tmp_path, "cpu", opts=["MODEL.MIT.DEPTHS", [1] * 4]
    )
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5
    for size in ((64, 64), (97, 131)):
        image = torch.randn(1, 3, *size)
        expected = theirs(image).logits
        logits = model.sem_seg_head.layers(model.backbone(image))
        assert (logits - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize(
    ("variant", "backbone", "whole", "flops"),
    [
        ("b0", 3.319, 3.753, {(512, 512): 8.48}),
        ("b1", 13.151, 13.716, {(512, 512): 16.00}),
        ("b2", 24.196, 27.462, {(512, 512): 62.61, (1024, 1024): 297.2}),
        ("b3", 44.072, 47.338, {(512, 512): 79.28}),
        ("b4", 60.843, 64.108, {(512, 512): 95.94}),
        ("b5", 81.443, 84.709, {(640, 640): 183.8}),
    ],
)
def test_size_of_segformer(variant, backbone, whole, flops):
    model = build_for_counting(load_cfg(f"ade20k/segformer_{variant}.yaml"))
    assert count_parameters(model.backbone) / 1e6 == pytest.approx(backbone, abs=0.001)
    assert count_parameters(model) / 1e6 == pytest.approx(whole, abs=0.001)
    for size, expected in flops.items():
        assert count(model, *size).total / 1e9 == pytest.approx(expected, rel=0.005)
