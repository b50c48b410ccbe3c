"""A model from a config and weights, and what is said when one of them is missing."""

import pathlib

import numpy as np
import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from lrformer import Predictor, build_model, load_cfg
from lrformer.checkpoint import WeightsError

if "OneConvolution" not in META_ARCH_REGISTRY:

    @META_ARCH_REGISTRY.register()
    class OneConvolution(nn.Module):
        def __init__(self, cfg):
            super().__init__()
            self.conv = nn.Conv2d(3, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, 1)

        def forward(self, batched_inputs):
            return [{"sem_seg": self.conv(x["image"].float())} for x in batched_inputs]


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(
        'MODEL: {META_ARCHITECTURE: OneConvolution, WEIGHTS: "", SEM_SEG_HEAD: {NUM_CLASSES: 4}}\n'
        "INPUT: {FORMAT: RGB, MIN_SIZE_TEST: 0}\n"
    )
    return file


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    state = {"conv.weight": torch.randn(4, 3, 1, 1), "conv.bias": torch.randn(4)}
    torch.save({"model": state}, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_weights_are_loaded_and_the_model_is_ready(config, weights, tmp_path):
    expected = torch.load(weights)["model"]
    by_key = build_model(str(config), device="cpu", opts=["MODEL.WEIGHTS", str(weights)])
    # The argument is before the key.
    by_argument = build_model(config, weights, "cpu", ["MODEL.WEIGHTS", str(tmp_path / "x.pth")])
    for model in (by_argument, by_key):
        assert not model.training
        assert torch.equal(model.conv.weight, expected["conv.weight"])


def test_random_weights_are_announced(config, weights, caplog):
    build_model(config, weights, "cpu")
    assert "randomly initialised" not in caplog.text
    model = build_model(config, device="cpu", opts=["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 7])
    assert model.conv.out_channels == 7
    assert "randomly initialised" in caplog.text
    torch.save({"conv.bias": torch.zeros(4)}, weights)
    build_model(config, weights, "cpu")
    assert "1 of the model's parameters are randomly initialised" in caplog.text


def test_a_pickle_is_loaded_where_the_config_allows_it(config, weights):
    content = torch.load(weights) | {"note": pathlib.PurePosixPath("x")}
    torch.save(content, weights)
    with pytest.raises(WeightsError, match=r"pathlib.* set MODEL.WEIGHTS_ALLOW_PICKLE to True"):
        build_model(config, weights, "cpu")
    model = build_model(config, weights, "cpu", ["MODEL.WEIGHTS_ALLOW_PICKLE", True])
    assert torch.equal(model.conv.bias, content["model"]["conv.bias"])


def test_a_predictor_from_files(config, weights):
    predictor = Predictor.from_config_file(config, weights, "cpu")
    image = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    state = torch.load(weights)["model"]
    scores = image @ state["conv.weight"][:, :, 0, 0].numpy().T + state["conv.bias"].numpy()
    assert np.array_equal(predictor(image), scores.argmax(axis=2))


def test_a_missing_file_is_named(config, weights, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config file .*none\.yaml"):
        build_model(tmp_path / "none.yaml", weights)
    for file in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(FileNotFoundError, match=str(file)):
            build_model(config, file, "cpu")


def test_a_config_below_the_projects_folder_is_found_from_anywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    name = "camvid/lrformer_t.yaml"
    assert load_cfg(name).MODEL.SEM_SEG_HEAD.NUM_CLASSES == 11
    # A file that is really there is meant.
    (tmp_path / "camvid").mkdir()
    (tmp_path / name).write_text("MODEL: {SEM_SEG_HEAD: {NUM_CLASSES: 2}}\n")
    assert load_cfg(name).MODEL.SEM_SEG_HEAD.NUM_CLASSES == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(config, weights):
    model = build_model(config, weights)  # MODEL.DEVICE is cuda
    assert model.conv.weight.device.type == "cpu"
    with pytest.raises(ValueError, match="'cuda'"):
        build_model(config, weights, device="cuda")
