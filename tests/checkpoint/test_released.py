"""The released layout, by its names and by the outputs of the released models."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lrformer import load_cfg
from lrformer.checkpoint import LRFormerCheckpointer, from_released, is_released

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
SHARED = ROOT.parent / "shared" / "reference"
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


@pytest.mark.parametrize("variant", ["t", "s", "b", "l", "xl"])
def test_every_released_name_has_its_parameter(variant):
    keys = DATA / f"lrformer_{variant}.json"
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
    assert unknown == []
    model = build(variant)
    expected = {
        name: tuple(value.shape)
        for name, value in model.state_dict().items()
        if variant != "xl" or name.startswith("backbone.")
    }
    got = {name: tuple(value.shape) for name, value in converted.items()}
    if variant == "xl":  # released without a plain head
        got = {name: shape for name, shape in got.items() if name.startswith("backbone.")}
    assert got == expected


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


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="weights.pth is no checkpoint that can be loaded"):
        LRFormerCheckpointer(torch.nn.Linear(2, 2)).load(str(path))


def test_weights_of_another_model_are_refused(tmp_path):
    torch.save({"encoder.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="none of the checkpoint's 1 names .* encoder.weight"):
        LRFormerCheckpointer(torch.nn.Linear(2, 2)).load(str(tmp_path / "other.pth"))
