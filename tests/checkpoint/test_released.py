"""The released layout, by its names and by the outputs of the released models."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lrformer import load_cfg
from lrformer.checkpoint import LRFormerCheckpointer, from_released

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
sys.path.append(str(DATA))

import deterministic_weights  # noqa: E402


def build(variant: str):
    from detectron2.modeling import build_model

    cfg = load_cfg(ROOT / f"configs/models/lrformer_{variant}.yaml", ["MODEL.DEVICE", "cpu"])
    return build_model(cfg).eval()


def released_weights(keys_file: Path) -> dict[str, torch.Tensor]:
    values = deterministic_weights.state_dict(keys_file)
    return {name: torch.from_numpy(np.asarray(value)) for name, value in values.items()}


@pytest.fixture(scope="module")
def released_t(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "released.pth"
    weights = {f"module.{k}": v for k, v in released_weights(DATA / "lrformer_t.json").items()}
    torch.save({"state_dict": weights, "meta": {"epoch": 1}}, path)
    model = build("t")
    LRFormerCheckpointer(model).load(str(path))
    return model


def subsample(x: torch.Tensor, n: int) -> np.ndarray:
    flat = x.contiguous().flatten()
    return flat[:: max(1, flat.numel() // n)].numpy()


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("size", [(512, 512), (512, 704)])
def test_outputs_equal_the_released_models(released_t, size):
    reference = np.load(DATA / f"lrformer_t_{size[0]}x{size[1]}.npz")
    image = torch.from_numpy(deterministic_weights.image(*size))
    with torch.no_grad():
        features = released_t.backbone(image)
        logits = released_t.sem_seg_head.layers(features)
    named = {f"F{i}": features[f"res{i + 1}"] for i in (1, 2, 3, 4)} | {"logits": logits}
    for name, tensor in named.items():
        assert tuple(tensor.shape) == tuple(reference[f"{name}_shape"]), name
        sampled = subsample(tensor, 4096 if name.startswith("F") else 16384)
        assert relative_error(sampled, reference[name]) < 1e-4, name


def test_unknown_names_are_reported_not_dropped_silently():
    weights = {
        "backbone.patch_embed1.conv1.0.weight": torch.zeros(1),
        "auxiliary_head.w": torch.ones(1),
    }
    converted, unknown = from_released(weights)
    assert list(converted) == ["backbone.stem.conv1.weight"]
    assert unknown == ["auxiliary_head.w"]
