"""tools/export.py as a user runs it."""

import pytest

import export as tool
from lrformer.export import Check

T = "models/lrformer_t.yaml"


def test_arguments_reach_the_package(tmp_path, capsys, monkeypatch):
    def export_model(model, path, options, sizes):
        assert not model.training and model.sem_seg_head.predictor.out_channels == 3
        assert (options.output, options.opset) == ("classes", 19)
        path.write_bytes(bytes(1_500_000))
        return [Check(tuple(size), 2e-7, 1.0) for size in sizes]

    monkeypatch.setattr(tool, "export_model", export_model)
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
    ],
)
def test_what_cannot_be_exported(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert tool.main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not list(tmp_path.iterdir())
