"""Checkpoints as folders of transformers, and back."""

import json
import re

import numpy as np
import PIL.Image
import pytest
import torch

pytest.importorskip("transformers")

from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline

import convert_checkpoint
import deterministic_weights
import lrformer
from lrformer.checkpoint.convert import convert
from lrformer.checkpoint.reading import read_weights
from lrformer.hf import LRFormerBackbone

IMAGE = torch.from_numpy(deterministic_weights.image(512, 512))


@pytest.fixture(scope="module")
def plain(released):
    return lrformer.build_model("ade20k/lrformer_t.yaml", released, "cpu")


@torch.no_grad()
def test_outputs_are_those_of_the_released_model_and_of_ours_to_the_last_bit(folder, plain):
    model = AutoModelForSemanticSegmentation.from_pretrained(folder)
    found = model(IMAGE, output_hidden_states=True)
    features = plain.backbone(IMAGE)
    assert torch.equal(found.logits, plain.sem_seg_head.layers(features))
    assert all(map(torch.equal, found.hidden_states[1:], features.values()))
    backbone = LRFormerBackbone.from_pretrained(folder, out_features=["stage2", "stage4"])
    expected = features["res3"], features["res5"]
    assert all(map(torch.equal, backbone(IMAGE).feature_maps, expected))
    reference = np.load("tests/data/lrformer_t_512x512.npz")
    flat = found.logits.flatten()
    got = flat[:: max(1, len(flat) // 16384)].numpy()
    assert np.linalg.norm(got - reference["logits"]) < 1e-4 * np.linalg.norm(reference["logits"])


def test_the_folder_is_weights_here_and_converts_back_to_the_released_file(
    folder, plain, released, tmp_path
):
    again = lrformer.build_model("ade20k/lrformer_t.yaml", folder, "cpu").state_dict()
    assert all(torch.equal(again[name], x) for name, x in plain.state_dict().items())
    convert([folder], tmp_path / "released.pth", "released")
    found, expected = (read_weights(x).weights for x in (tmp_path / "released.pth", released))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], x) for name, x in expected.items())


def test_classes_and_preparation_are_those_of_the_config(folder):
    config = json.loads((folder / "config.json").read_text())
    assert (config["id2label"]["0"], config["id2label"]["149"]) == ("wall", "flag")
    processor = AutoImageProcessor.from_pretrained(folder)
    image = np.random.default_rng(0).integers(256, size=(300, 400, 3), dtype=np.uint8)
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 512, 682)
    assert processor.image_mean == pytest.approx([0.485, 0.456, 0.406])


def test_the_pipeline_predicts_what_our_predictor_does(folder, released, tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(512, 544, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "image.png")
    predictor = lrformer.Predictor.from_config_file("ade20k/lrformer_t.yaml", released, "cpu")
    expected = predictor(str(tmp_path / "image.png"))
    segments = pipeline("image-segmentation", str(folder))(str(tmp_path / "image.png"))
    found, names = np.full(expected.shape, -1), predictor.metadata.stuff_classes
    for segment in segments:
        found[np.asarray(segment["mask"]) > 0] = names.index(segment["label"])
    assert len(segments) > 1 and np.mean(found == expected) > 0.9999


def test_the_card_has_what_was_measured(folder, plain, tmp_path):
    card = (folder / "README.md").read_text()
    assert "| parameters | 13.26 M |" in card and "| measured | nothing yet" in card
    best = {"metric": "sem_seg/mIoU", "value": 46.71, "iteration": 7}
    torch.save({"model": plain.state_dict(), "best": best}, tmp_path / "model_best.pth")
    options = f"--layout hf --config-file ade20k/lrformer_t.yaml --output {tmp_path / 'hf'}"
    assert convert_checkpoint.main([str(tmp_path / "model_best.pth"), *options.split()]) == 0
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "| measured | sem_seg/mIoU 46.71 after iteration 7 |" in card


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("ade20k/segformer_b0.yaml", "MODEL.BACKBONE.NAME is MixVisionTransformer; only LRFormer"),
        ("ade20k/lrformer_plus_t.yaml", "MODEL.META_ARCHITECTURE is MaskFormer; only Semantic"),
        ("ade20k/lrformer_s_ppm.yaml", "MODEL.SEM_SEG_HEAD.NAME is PPMHead; only LRHead"),
        ("ade20k/lrformer_s.yaml", "released LRFormer checkpoint .* holds LRFormer-T"),
    ],
)
def test_what_cannot_be_written_is_explained(released, tmp_path, capsys, config, reason):
    options = ["--layout", "hf", "--config-file", config, "--output", str(tmp_path / "hf")]
    assert convert_checkpoint.main([str(released), *options]) == 2
    assert re.search(reason, capsys.readouterr().err)
    assert not (tmp_path / "hf").exists()


def test_incomplete_weights_and_folders_with_files_are_refused(released, folder, tmp_path, capsys):
    weights = read_weights(released).weights
    torch.save({k: v for k, v in weights.items() if "conv_seg" not in k}, tmp_path / "part.pth")
    options = ["--layout", "hf", "--config-file", "ade20k/lrformer_t.yaml", "--output"]
    assert convert_checkpoint.main([str(tmp_path / "part.pth"), *options, str(tmp_path / "a")]) == 2
    assert "lacks 2 parameters: sem_seg_head.predictor.weight" in capsys.readouterr().err
    assert convert_checkpoint.main([str(released), *options, str(folder)]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_an_upload_that_fails_is_explained_and_leaves_the_folder(released, hub, tmp_path, capsys):
    options = f"--layout hf --config-file ade20k/lrformer_t.yaml --output {tmp_path / 'hf'}"
    options += " --push-to-hub owner/models"
    assert convert_checkpoint.main([str(released), *options.split()]) == 2
    assert "hf, but could not upload to owner/models: " in capsys.readouterr().err
    assert "hf://owner/models/model.safetensors" in (tmp_path / "hf/README.md").read_text()


def test_own_data_gives_the_names_of_classes(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        array = np.zeros((128, 160, 3)[: 3 if name == "images" else 2], np.uint8)
        PIL.Image.fromarray(array).save(tmp_path / name / "a.png")
    (tmp_path / "mine.yaml").write_text(
        "splits: {train: {images: images, labels: labels}}\nclasses: [background, roof]\n"
    )
    model = lrformer.build_model(
        "lrformer_t", device="cpu", opts=["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 2]
    )
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    options = f"--layout hf --config-file lrformer_t --data {tmp_path}/mine.yaml --output"
    assert (
        convert_checkpoint.main(
            [str(tmp_path / "model.pth"), *options.split(), str(tmp_path / "hf")]
        )
        == 0
    )
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["id2label"] == {"0": "background", "1": "roof"}
