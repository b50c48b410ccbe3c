import pytest
import torch

import convert_checkpoint
import deterministic_weights


@pytest.fixture(scope="session")
def released(tmp_path_factory):
    """A file of the released T, with deterministic weights."""
    file = tmp_path_factory.mktemp("released") / "lrformer_t.pth"
    arrays = deterministic_weights.state_dict("tests/data/lrformer_t.json")
    weights = {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.save({"state_dict": weights, "meta": {}}, file)
    return file


@pytest.fixture(scope="session")
def folder(released, tmp_path_factory):
    """The same as a folder of transformers."""
    folder = tmp_path_factory.mktemp("hf") / "lrformer_t"
    options = f"--layout hf --config-file ade20k/lrformer_t.yaml --output {folder}"
    assert convert_checkpoint.main([str(released), *options.split()]) == 0
    return folder


@pytest.fixture(scope="session")
def tiny_config():
    """Makes a configuration of few channels and three classes."""
    from lrformer.hf import LRFormerConfig

    def make(**values):
        sizes = {"embed_dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "mlp_ratios": [2] * 4}
        sizes |= {"num_heads": [1, 2, 2, 4], "decoder_hidden_size": 16, "num_labels": 3}
        return LRFormerConfig(**sizes, **values)

    return make


@pytest.fixture
def tiny_model(tiny_config):
    """A segmentation model with the same random weights each time."""
    from lrformer.hf import LRFormerForSemanticSegmentation

    torch.manual_seed(0)
    return LRFormerForSemanticSegmentation(tiny_config(drop_path_rate=0.0, classifier_dropout=0.0))
