"""Hostile files and folders: what is said, and that nothing is lost or written over."""

import json
import math
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image
from torch import nn

import predict
from lrformer.checkpoint import LRFormerCheckpointer
from lrformer.checkpoint.reading import WeightsError, read_weights
from lrformer.data.reading import DatasetError, read_label
from lrformer.engine.run import main
from tests.engine.conftest import register_tiny, tiny_config
from tests.predict import conftest

folder = conftest.folder
IMAGES = [f"{number}.png" for number in range(5)]


def run(folder, *inputs, output=None):
    options = ["--config-file", folder / "config.yaml", "--weights", folder / "weights.pth"]
    options += ["--output", output or folder / "out", "--device", "cpu", "--input", *inputs]
    return predict.main(list(map(str, options)))


def labels(folder):
    return {file.name: file.read_bytes() for file in (folder / "out" / "labels").rglob("*.png")}


def png_bomb(file):
    """A PNG of 10^10 pixels in a few bytes."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 10**5, 10**5, 1, 0, 0, 0, 0)
    data = zlib.compress(bytes(10**6))
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data))


def loop(file):
    file.with_suffix("").symlink_to(file.parent, target_is_directory=True)
    file.symlink_to(file)


@pytest.mark.parametrize("harm", [png_bomb, Path.touch])
def test_what_is_no_image_is_named_and_the_rest_predicted(folder, capsys, harm):
    harm(folder / "images" / "hostile.png")
    assert run(folder, folder / "images") == 1
    assert "images/hostile.png: DatasetError: cannot read the image" in capsys.readouterr().err
    assert sorted(labels(folder)) == IMAGES


@pytest.mark.parametrize("harm", [loop, Path.mkdir])
def test_loops_and_folders_named_as_images_are_not_entered(folder, harm):
    harm(folder / "images" / "hostile.png")
    assert run(folder, folder / "images") == 0
    assert sorted(labels(folder)) == IMAGES


def test_no_two_images_share_an_output(folder):
    images = folder / "images"
    images.joinpath("0.png").rename(images / "a\nb.png")
    Image.open(images / "1.png").rotate(180).save(images / "1.bmp")
    assert run(folder, images) == 0
    assert len(labels(folder)) == 6 and len(set(labels(folder).values())) == 6


def test_an_output_inside_the_input_is_not_read(folder, capsys):
    for _ in range(2):
        assert run(folder, folder / "images", output=folder / "images" / "out") == 0
        assert "predicted 5 of 5 inputs" in capsys.readouterr().out


def zip_bomb(file):
    torch.save({"model": {"weight": torch.zeros(10**6)}}, file)
    with zipfile.ZipFile(file) as whole:
        contents = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bomb:
        for name, content in contents.items():
            bomb.writestr(name, bytes(10**8) if name.endswith("/0") else content)


def safetensors_bomb(file):
    tensor = {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}
    header = json.dumps({"w": tensor}).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(100))


def header_bomb(file):
    file.write_bytes(struct.pack("<Q", 10**12) + b"{}" + bytes(100))


@pytest.mark.parametrize("write", [zip_bomb, safetensors_bomb, header_bomb])
def test_weights_that_claim_more_than_they_hold_are_refused(tmp_path, write):
    write(tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"weights.pth is damaged, cut off or no checkpoint"):
        read_weights(str(tmp_path / "weights.pth"), False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_types_are_converted(tmp_path, dtype):
    state = nn.Linear(3, 3).to(dtype).state_dict()
    model = nn.Linear(3, 3)
    torch.save({"model": state}, tmp_path / "weights.pth")
    LRFormerCheckpointer(model).load(str(tmp_path / "weights.pth"))
    assert model.weight.dtype == torch.float32
    assert torch.equal(model.weight, state["weight"].float())


@pytest.mark.parametrize(
    "harm, message",
    [
        (lambda x: x.to(torch.int8), "weight is int8, as in a quantized model"),
        (lambda x: x * math.nan, "weight has values that are not finite"),
    ],
)
def test_weights_without_their_numbers_are_refused(tmp_path, harm, message):
    model = nn.Linear(3, 3)
    before = model.weight.clone()
    state = {name: harm(value) for name, value in nn.Linear(3, 3).state_dict().items()}
    torch.save({"model": state}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=message):
        LRFormerCheckpointer(model).load(str(tmp_path / "weights.pth"))
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "F"])
def test_label_maps_of_several_channels_are_refused(tmp_path, mode):
    Image.new(mode, (4, 4)).save(tmp_path / "label.tiff")
    with pytest.raises(DatasetError, match=rf"label.tiff: a label map has one channel.* {mode} "):
        read_label(str(tmp_path / "label.tiff"))


def test_label_maps_of_16_bits_are_read(tmp_path):
    label = np.array([[0, 300], [65535, 1]], np.uint16)
    Image.fromarray(label).save(tmp_path / "label.png")
    assert np.array_equal(read_label(str(tmp_path / "label.png")), label)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_test_image_ends_the_evaluation_by_name(tmp_path, capfd, workers):
    name = register_tiny(tmp_path)
    try:
        file = tmp_path / "3.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)).save(file)
        file.write_bytes(file.read_bytes()[:-200])
        cfg = tiny_config(tmp_path / "output")
        cfg.DATASETS.TRAIN, cfg.DATALOADER.NUM_WORKERS = (), workers
        torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "weights.pth")
        (tmp_path / "tiny.yaml").write_text(cfg.dump())
        argv = ["--config-file", tmp_path / "tiny.yaml", "--eval-only"]
        assert main([*map(str, argv), "MODEL.WEIGHTS", str(tmp_path / "weights.pth")]) == 2
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    error = capfd.readouterr().err
    assert "3.png" in error and "damaged" in error or "cannot read" in error, error
