"""tools/export.py as a user runs it."""

import pytest

import export as tool
from lrformer.export import Check

T = "models/lrformer_t.yaml"


def test_arguments_reach_the_package(tmp_path, capsys, monkeypatch):
    asked = {}

    def export_model(model, path, options, sizes):
        asked.update(model=model, options=options, sizes=sizes)
        path.write_bytes(bytes(1_500_000))
        return [Check((64, 96), 2e-7, 1.0), Check((96, 64), None, 0.5)]

    monkeypatch.setattr(tool, "export_model", export_model)
    target = tmp_path / "new" / "model.onnx"
    arguments = ["--config-file", T, "--output", str(target), "--result", "classes"]
    arguments += ["--opset", "19", "--check-size", "64", "96", "--check-size", "96", "64"]
    opts = ["--opts", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3", "MODEL.LRFORMER.DEPTHS", "[1,1,1,1]"]
    assert tool.main([*arguments, *opts]) == 0
    assert not asked["model"].training
    assert asked["model"].sem_seg_head.predictor.out_channels == 3
    assert (asked["options"].output, asked["options"].opset) == ("classes", 19)
    assert asked["sizes"] == [[64, 96], [96, 64]]
    assert capsys.readouterr().out.splitlines() == [
        f"{target}: 1.5 MB",
        "checked at 64 x 96: relative error 2.0e-07, the same class at 100.000 % of the pixels",
        "checked at 96 x 64: the same class at 50.000 % of the pixels",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-file", "no/such.yaml", "--output", "m.pt2"], "no config file no/such.yaml"),
        (["--config-file", T, "--output", "m.pth"], "m.pth: which format is said by"),
        (["--config-file", T, "--output", "m.onnx", "--opset", "9"], "opset 9 is too old"),
        (
            ["--config-file", T, "--output", "m.pt2", "--weights", "none.pth"],
            "there is no file none.pth",
        ),
    ],
)
def test_what_cannot_be_exported(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert tool.main(arguments) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
