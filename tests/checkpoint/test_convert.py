"""tools/convert_checkpoint.py: nothing is lost on the way there and back."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import convert_checkpoint as tool
from lrformer.checkpoint import from_released


def run(*argv):
    return tool.main([str(arg) for arg in argv])


def read(file):
    return torch.load(file, weights_only=True)


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype, name
        assert torch.equal(got[name], tensor), name


@pytest.fixture
def small(tmp_path, released):
    """A part of a released file, with what a training left in it."""
    weights = {k: v for k, v in released("t").items() if "block1" in k or "embed1" in k}
    content = {
        "state_dict": weights,
        "meta": {"CLASSES": ["wall", "sky"], "epoch": 3},
        "optimizer": {"state": {0: torch.zeros(3)}},
    }
    torch.save(content, tmp_path / "released.pth")
    return tmp_path / "released.pth", weights


@pytest.mark.parametrize("kind", ["t", "t_plus", "imagenet"])
def test_files_go_there_and_back_in_both_formats(kind, tmp_path, capsys, released, imagenet):
    weights = imagenet if kind == "imagenet" else released(kind)
    key = "model" if kind == "imagenet" else "state_dict"
    torch.save({key: weights, "meta": {"CLASSES": ["wall"]}}, tmp_path / "released.pth")
    steps = [
        ("released.pth", "ours.safetensors", "ours"),
        ("ours.safetensors", "ours.pth", None),
        ("ours.pth", "back.pth", "released"),
        ("back.pth", "back.safetensors", None),
    ]
    for source, target, layout in steps:
        options = ["--layout", layout] if layout else []
        assert run(tmp_path / source, "--output", tmp_path / target, *options) == 0
    back = read(tmp_path / "back.pth")
    assert_same(back[key], weights)
    assert back["meta"] == {"CLASSES": ["wall"]}
    assert_same(load_file(tmp_path / "back.safetensors"), weights)
    prefix = "" if kind == "imagenet" else "backbone."
    assert f"{prefix}stem.conv1.weight" in load_file(tmp_path / "ours.safetensors")
    lines = capsys.readouterr().out.splitlines()
    assert str(tmp_path / "released.pth") in lines[0]
    assert "LRFormer-T (channels 48, 96, 240, 384; blocks 2, 2, 6, 3)" in lines[0]
    assert str(tmp_path / "ours.safetensors") in lines[1] and len(lines) == 2 * len(steps)


def test_the_state_of_the_training_is_left_out(small, tmp_path, capsys):
    assert run(small[0], "--output", tmp_path / "weights.safetensors") == 0
    assert_same(load_file(tmp_path / "weights.safetensors"), small[1])
    with safe_open(tmp_path / "weights.safetensors", "pt") as opened:
        metadata = opened.metadata()
    assert metadata.keys() == {"format", "meta"} and metadata["format"] == "pt"
    assert json.loads(metadata["meta"]) == {"CLASSES": ["wall", "sky"], "epoch": 3}
    assert "not weights: optimizer" in capsys.readouterr().out


def test_a_checkpoint_of_this_project_keeps_what_it_says_of_its_weights(tmp_path, capsys):
    kept = {"best": {"metric": "sem_seg/mIoU", "value": 41.5}, "iteration": 99}
    weights = {"backbone.stem.conv1.weight": torch.ones(2)}
    content = {"model": weights, **kept, "trainer": {"state": {0: torch.zeros(2)}}}
    torch.save(content, tmp_path / "model.pth")
    run(tmp_path / "model.pth", "--output", tmp_path / "model.safetensors")
    run(tmp_path / "model.safetensors", "--output", tmp_path / "again.pth")
    content = read(tmp_path / "again.pth")
    assert content == {"model": content["model"], **kept}
    assert "not weights: trainer" in capsys.readouterr().out


def test_shared_and_strided_memory_is_written_whole(tmp_path):
    whole = torch.arange(1000.0)
    weights = {
        "backbone.stem.conv1.weight": whole[:6].view(2, 3).t(),
        "backbone.stem.conv1.bias": whole[:6],
        "backbone.stem.conv2.bias": whole[:6],
    }
    torch.save({"model": weights}, tmp_path / "views.pth")
    for name in ("a.safetensors", "a.pth"):
        assert run(tmp_path / "views.pth", "--output", tmp_path / name) == 0
    assert_same(load_file(tmp_path / "a.safetensors"), weights)
    assert_same(read(tmp_path / "a.pth")["model"], weights)
    assert (tmp_path / "a.pth").stat().st_size < 3000 < (tmp_path / "views.pth").stat().st_size


def test_parameters_that_released_models_lack_are_named(tmp_path, capsys, released):
    weights = {k: v for k, v in released("t_plus").items() if "embed" in k or "level" in k}
    ours = from_released(weights)[0] | {"criterion.empty_weight": torch.ones(151)}
    torch.save({"model": ours}, tmp_path / "ours.pth")
    assert run(tmp_path / "ours.pth", "--layout", "released", "--output", tmp_path / "r.pth") == 0
    assert "no such parameter (1): criterion.empty_weight" in capsys.readouterr().out
    assert_same(read(tmp_path / "r.pth")["state_dict"], weights)


def test_the_mean(tmp_path, capsys):
    def weights(value, count):
        return {
            "backbone.stem.conv1.weight": torch.full((2, 2), value),
            "backbone.stem.conv1.bias": torch.full((2,), value, dtype=torch.float16),
            "backbone.stem.norm1.num_batches_tracked": torch.tensor(count),
        }

    files = [tmp_path / f"{number}.pth" for number in (1, 2, 6)]
    for file, number in zip(files, (1, 2, 6), strict=True):
        content = {"model": weights(float(number), number), "iteration": 1, "best": {"value": 1}}
        torch.save(content, file)
    assert run(*files, "--average", "--output", tmp_path / "mean.pth") == 0
    content = read(tmp_path / "mean.pth")
    assert set(content) == {"model"}  # no iteration, no score: they are not of these weights
    assert_same(content["model"], weights(3.0, 1))
    assert "mean of 3 checkpoints" in capsys.readouterr().out


def test_a_pickle_of_more_needs_the_flag(tmp_path, capsys):
    torch.save({"model": {"a": torch.ones(1)}, "cfg": Path("x")}, tmp_path / "a.pth")
    argv = [tmp_path / "a.pth", "--output", tmp_path / "b.pth"]
    assert run(*argv) == 2
    assert "--allow-pickle" in capsys.readouterr().err and not (tmp_path / "b.pth").exists()
    assert run(*argv, "--allow-pickle") == 0
    assert set(read(tmp_path / "b.pth")) == {"model"}


NAME = "backbone.block1.0.norm1.weight"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["none.pth", "--output", "b.pth"], "none.pth"),
        (["released.pth", "--output", "b.onnx"], "b.onnx"),
        (["released.pth", "--output", "none/b.pth"], "there is no folder none"),
        (["released.pth", "--output", "released.pth", "--overwrite"], "is an input"),
        (["released.pth", "--output", "link.pth", "--overwrite"], "is an input"),
        (["released.pth", "--output", "there.pth"], "there.pth exists"),
        (["both.pth", "--output", "b.pth"], "both.pth: the names are a mixture of"),
        (["other.pth", "--layout", "ours", "--output", "b.pth"], "other.pth is a checkpoint"),
        (["released.pth", "ours.pth", "--average", "--output", "b.pth"], "ours.pth is of another"),
        (["released.pth", "shape.pth", "--average", "--output", "b.pth"], f"differ in {NAME}"),
        (["a", "b", "--output", "c.pth"], "add --average"),
        (["a", "--average", "--output", "c.pth"], "--average needs several"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_no_file(
    small, tmp_path, capsys, monkeypatch, argv, said
):
    monkeypatch.chdir(tmp_path)
    file, weights = small
    ours = from_released(weights)[0]
    Path("there.pth").write_text("mine")
    Path("link.pth").symlink_to(file)
    torch.save(weights | ours, "both.pth")
    torch.save(ours, "ours.pth")
    torch.save(weights | {NAME: torch.ones(2)}, "shape.pth")
    torch.save({"fc.weight": torch.ones(1)}, "other.pth")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    try:
        code = run(*argv)
    except SystemExit as error:  # of argparse
        code = error.code
    assert code == 2
    assert said in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_overwriting_is_asked_for(small, tmp_path):
    (tmp_path / "there.safetensors").write_text("mine")
    assert run(small[0], "--output", tmp_path / "there.safetensors", "--overwrite") == 0
    assert_same(load_file(tmp_path / "there.safetensors"), small[1])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["released.pth", "there.safetensors"]
