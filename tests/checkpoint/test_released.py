"""The released layout, by its names and by the outputs of the released models."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import deterministic_weights
from lrformer.checkpoint import LRFormerCheckpointer, from_released

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def released_t(tmp_path_factory, released, build_variant):
    path = tmp_path_factory.mktemp("weights") / "released.safetensors"
    save_file(released("t"), path)
    model = build_variant("t")
    LRFormerCheckpointer(model).load(str(path))
    return model


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
        flat = tensor.contiguous().flatten()
        count = 4096 if name.startswith("F") else 16384
        got, expected = flat[:: max(1, len(flat) // count)].numpy(), reference[name]
        assert np.linalg.norm(got - expected) < 1e-4 * np.linalg.norm(expected), name


def test_unknown_names_are_reported_not_dropped_silently():
    weights = {"backbone.patch_embed1.conv1.0.weight": torch.zeros(1)}
    odd = {"auxiliary_head.w": torch.ones(1), "backbone.block5.0.cpe.bias": torch.ones(1)}
    converted, unknown = from_released(weights | odd)
    assert list(converted) == ["backbone.stem.conv1.weight"]
    assert unknown == list(odd)
