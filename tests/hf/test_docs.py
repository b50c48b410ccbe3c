"""What docs/huggingface.md shows is run as it stands there."""

import re
import shutil
from pathlib import Path

import PIL.Image
import pytest
import torch

pytest.importorskip("transformers")

import deterministic_weights

QUICK_START, BACKBONE = re.findall(
    "```python\n(.*?)```", Path("docs/huggingface.md").read_text(encoding="utf-8"), re.DOTALL
)


def test_quick_start(folder, tmp_path, monkeypatch, capsys):
    shutil.copytree(folder, tmp_path / "lrformer_l")
    PIL.Image.new("RGB", (70, 50), "gray").save(tmp_path / "street.jpg")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(QUICK_START, names)
    assert names["classes"].shape == (50, 70)
    assert capsys.readouterr().out.strip() in names["model"].config.label2id


def test_a_backbone_with_weights_of_imagenet(tmp_path, monkeypatch):
    arrays = deterministic_weights.state_dict("tests/data/lrformer_t.json")
    weights = {
        name.removeprefix("backbone."): torch.from_numpy(array)
        for name, array in arrays.items()
        if name.startswith("backbone.")
    }
    weights |= {"head.weight": torch.rand(1000, 384), "head.bias": torch.rand(1000)}
    torch.save(weights, tmp_path / "lrformer_t_imagenet.pth")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(BACKBONE, names)
    encoder = names["model"].model.pixel_level_module.encoder
    assert torch.equal(encoder.stem.conv1.weight, weights["patch_embed1.conv1.0.weight"])
    assert torch.equal(names["pretrained"].head.weight, weights["head.weight"])
