"""tools/export.py as a user runs it."""

from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image

import export as tool
import visualize
from lrformer import build_model, load_cfg
from lrformer.export import Check

T = "models/lrformer_t.yaml"


def test_arguments_reach_the_package(tmp_path, capsys, monkeypatch):
    def export_model(cfg, model, path, options, sizes, calibration):
        assert not model.training and model.sem_seg_head.predictor.out_channels == 3
        assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 3 and not calibration
        assert (options.result, options.opset) == ("classes", 19)
        path.write_bytes(bytes(1_500_000))
        return [Check(tuple(size), 2e-7, 1.0) for size in sizes]

    monkeypatch.setattr(tool, "export_model", export_model)
    monkeypatch.setattr(tool, "check_file", lambda path, options: None)  # for its packages
    target = tmp_path / "new" / "model.onnx"
    arguments = ["--config-file", T, "--output", str(target), "--result", "classes"]
    arguments += ["--opset", "19", "--check-size", "64", "96", "--check-size", "96", "64"]
    arguments += ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3", "MODEL.LRFORMER.DEPTHS", "[1,1,1,1]"]
    assert tool.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{target}: 1.5 MB"
    assert "64 x 96: relative error 2.0e-07" in lines[1] and "96 x 64" in lines[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-file", "no/such.yaml", "--output", "m.pt2"], "no/such.yaml"),
        (["--config-file", T, "--output", "m.pth"], "m.pth: which format"),
        (["--config-file", T, "--output", "m.onnx", "--opset", "9"], "opset 9"),
        (["--config-file", T, "--output", "m.pt2", "--weights", "none.pth"], "none.pth"),
        (["--config-file", T, "--output", "m.xml", "--dtype", "bfloat16"], "TEST.RUNTIME.DTYPE"),
    ],
)
def test_what_cannot_be_exported(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert tool.main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not list(tmp_path.iterdir())


def test_int8_needs_images(capsys):
    with pytest.raises(SystemExit):
        tool.main(["--config-file", T, "--output", "model.xml", "--dtype", "int8"])
    assert "--calibrate NAME" in capsys.readouterr().err


# A file of torch.export, which needs no package; the others are tests/export's.
def test_a_file_is_drawn_as_its_model_is(tmp_path, tiny_opts, capsys):
    pixels = np.random.default_rng(0).integers(256, size=(48, 64, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "a.png")
    keys = tiny_opts | {
        "MODEL.LRFORMER.OUT_FEATURES": ["res2"],
        "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2"],
        "MODEL.LRFORMER.PYRAMID_SIZES": [8],
        "INPUT.MIN_SIZE_TEST": 40,
        "DATASETS.TEST": (),
        "DATASETS.TRAIN": (),
    }
    opts = list(chain(*keys.items()))
    config, model = tmp_path / "config.yaml", tmp_path / "model.pt2"
    config.write_text(load_cfg(T, opts).dump())
    torch.manual_seed(0)
    weights = {"model": build_model(T, opts=opts).state_dict()}
    torch.save(weights, tmp_path / "weights.pth")
    given = ["--config-file", str(config), "--weights", str(tmp_path / "weights.pth")]
    sizes = ["--check-size", "64", "70", "--result", "logits"]
    assert tool.main([*given, "--output", str(model), *sizes]) == 0

    outputs = {"of_model": given, "of_file": ["--weights", str(model)]}
    for folder, source in outputs.items():
        inputs = ["--input", str(tmp_path / "images"), "--output", str(tmp_path / folder)]
        assert visualize.main([*source, *inputs]) == 0
    drawn = [np.asarray(Image.open(tmp_path / folder / "a.png")) for folder in outputs]
    assert (drawn[0] != drawn[1]).mean() < 1e-3

    with pytest.raises(SystemExit):
        visualize.main(["--weights", str(tmp_path / "weights.pth"), *inputs])
    assert "--config-file is required" in capsys.readouterr().err
    loaded = build_model(str(config), str(model))
    assert loaded.info.min_size == 40 and loaded.info.classes == []
