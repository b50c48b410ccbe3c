import functools
import json
from itertools import chain
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

import deterministic_weights
from lrformer import load_cfg

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
SHARED = ROOT.parent / "shared" / "reference" / "keys"
TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.LRFORMER.EMBED_DIMS": [8, 16, 24, 32],
    "MODEL.LRFORMER.DEPTHS": [1, 1, 1, 1],
    "MODEL.LRFORMER.NUM_HEADS": [1, 2, 2, 4],
    "MODEL.LRFORMER.MLP_RATIOS": [2, 2, 2, 2],
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 16,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 5,
}


@pytest.fixture
def tiny():
    """Builds a plain model with few channels; ``opts`` override its config."""

    def build(*opts, seed=0):
        torch.manual_seed(seed)
        file = ROOT / "configs/models/lrformer_t.yaml"
        return build_model(load_cfg(file, [*chain(*TINY.items()), *opts])).eval()

    return build


@pytest.fixture(scope="session")
def build_variant():
    """Builds a model of configs/models, such as "t" or "plus_t", also on "meta"."""

    def build(variant, device="cpu", *opts):
        file = ROOT / f"configs/models/lrformer_{variant}.yaml"
        with torch.device(device):
            return build_model(load_cfg(file, ["MODEL.DEVICE", device, *opts])).eval()

    return build


@pytest.fixture(scope="session")
def keys_named():
    """Reads a released model's shapes by name, "lrformer_t"; skips where they are not here."""

    def read(model):
        for file in (DATA / f"{model}.json", SHARED / f"{model}.json"):
            if file.exists():
                return json.loads(file.read_text())
        pytest.skip(f"{model}.json is not shipped with the project")

    return read


@pytest.fixture(scope="session")
def keys_of(keys_named):
    """As ``keys_named``, of LRFormer's, by "t" or "t_plus"."""
    return lambda variant: keys_named(f"lrformer_{variant}")


@pytest.fixture(scope="session")
def released():
    """The deterministic weights of the released T and T+ models, by the variant's name."""

    @functools.cache
    def read(variant):
        arrays = deterministic_weights.state_dict(DATA / f"lrformer_{variant}.json")
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    return lambda variant: dict(read(variant))


@pytest.fixture
def imagenet(released):
    """The weights of a released ImageNet file of T."""
    weights = {
        name.removeprefix("backbone."): tensor
        for name, tensor in released("t").items()
        if name.startswith("backbone.")
    }
    return weights | {"head.weight": torch.rand(10, 384), "head.bias": torch.rand(10)}
