"""tools/convert_checkpoint.py: nothing is lost on the way there and back."""

import functools
import importlib.util
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lrformer.checkpoint import from_released, to_released

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
SHARED = ROOT.parent / "shared" / "reference" / "keys"
sys.path.append(str(DATA))

import deterministic_weights  # noqa: E402

TOOL = ROOT / "tools" / "convert_checkpoint.py"
spec = importlib.util.spec_from_file_location("convert_checkpoint", TOOL)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

KEYS = [f"lrformer_{v}{plus}.json" for plus in ("", "_plus") for v in ("t", "s", "b", "l", "xl")]


def run(*argv):
    return tool.main([str(arg) for arg in argv])


def keys_file(name):
    for file in (DATA / name, SHARED / name):
        if file.exists():
            return file
    pytest.skip(f"{name} is not shipped with the project")


@functools.cache
def weights_of(variant):
    arrays = deterministic_weights.state_dict(DATA / f"lrformer_{variant}.json")
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype, name
        assert torch.equal(got[name], tensor), name


@pytest.fixture
def small(tmp_path):
    """A part of a released file, with what a training left in it."""
    weights = {k: v for k, v in weights_of("t").items() if "block1" in k or "embed1" in k}
    content = {
        "state_dict": weights,
        "meta": {"CLASSES": ["wall", "sky"], "epoch": 3},
        "optimizer": {"state": {0: torch.zeros(3)}},
    }
    torch.save(content, tmp_path / "released.pth")
    return tmp_path / "released.pth", weights


@pytest.mark.parametrize("name", KEYS)
def test_names_and_shapes_go_there_and_back(name):
    shapes = json.loads(keys_file(name).read_text())
    # Each a number of its own, shown in the whole shape.
    weights = {k: torch.tensor(float(i)).expand(s) for i, (k, s) in enumerate(shapes.items())}
    ours, unknown = from_released(weights)
    assert unknown == [] and len(ours) == len(weights)
    back, unknown = to_released(ours)
    assert unknown == [] and list(back) == list(weights)
    for key, tensor in weights.items():
        assert back[key].shape == tensor.shape, key
        assert back[key].flatten()[:1].tolist() == tensor.flatten()[:1].tolist(), key


@pytest.mark.parametrize("variant", ["t", "t_plus"])
def test_files_go_there_and_back_in_both_formats(variant, tmp_path, capsys):
    weights = weights_of(variant)
    torch.save({"state_dict": weights, "meta": {"CLASSES": ["wall"]}}, tmp_path / "released.pth")
    steps = [
        ("released.pth", "ours.safetensors", "ours"),
        ("ours.safetensors", "ours.pth", None),
        ("ours.pth", "back.pth", "released"),
        ("back.pth", "back.safetensors", None),
    ]
    for source, target, layout in steps:
        options = ["--layout", layout] if layout else []
        assert run(tmp_path / source, "--output", tmp_path / target, *options) == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert_same(back["state_dict"], weights)
    assert back["meta"] == {"CLASSES": ["wall"]}
    assert_same(load_file(tmp_path / "back.safetensors"), weights)
    assert "backbone.stem.conv1.weight" in load_file(tmp_path / "ours.safetensors")
    lines = capsys.readouterr().out.splitlines()
    size = sum(t.nbytes for t in weights.values()) / 1e6
    kind = "LRFormer+" if "plus" in variant else "LRFormer"
    assert lines[0] == (
        f"read {tmp_path / 'released.pth'}: a released {kind} checkpoint (mmsegmentation layout), "
        "LRFormer-T (channels 48, 96, 240, 384; blocks 2, 2, 6, 3); "
        f"{len(weights)} tensors, {sum(t.numel() for t in weights.values()) / 1e6:.2f} M numbers, "
        f"{size:.1f} MB"
    )
    assert lines[1].startswith(f"wrote {tmp_path / 'ours.safetensors'}: a checkpoint of this proj")
    assert len(lines) == 2 * len(steps)


def test_an_imagenet_file_goes_there_and_back(tmp_path):
    weights = {
        name.removeprefix("backbone."): tensor
        for name, tensor in weights_of("t").items()
        if name.startswith("backbone.")
    }
    weights |= {"head.weight": torch.rand(10, 384), "head.bias": torch.rand(10)}
    torch.save({"model": weights}, tmp_path / "imagenet.pth")
    assert run(tmp_path / "imagenet.pth", "--layout", "ours", "--output", tmp_path / "a.pth") == 0
    ours = torch.load(tmp_path / "a.pth", weights_only=True)["model"]
    assert torch.equal(ours["stem.conv1.weight"], weights["patch_embed1.conv1.0.weight"])
    assert torch.equal(ours["head.weight"], weights["head.weight"])
    assert run(tmp_path / "a.pth", "--layout", "released", "--output", tmp_path / "b.pth") == 0
    assert_same(torch.load(tmp_path / "b.pth", weights_only=True)["model"], weights)


def test_the_state_of_the_training_is_left_out(small, tmp_path, capsys):
    file, weights = small
    assert run(file, "--output", tmp_path / "weights.pth") == 0
    content = torch.load(tmp_path / "weights.pth", weights_only=True)
    assert set(content) == {"state_dict", "meta"}
    assert_same(content["state_dict"], weights)
    assert "left out, as it is not weights: optimizer" in capsys.readouterr().out
    assert run(file, "--output", tmp_path / "weights.safetensors") == 0
    with safe_open(tmp_path / "weights.safetensors", "pt") as opened:
        metadata = opened.metadata()
    assert metadata["format"] == "pt" and set(metadata) == {"format", "meta"}
    assert json.loads(metadata["meta"]) == {"CLASSES": ["wall", "sky"], "epoch": 3}


def test_a_checkpoint_of_this_project_keeps_what_it_says_of_its_weights(tmp_path, capsys):
    weights, _ = from_released(weights_of("t"))
    best = {"metric": "sem_seg/mIoU", "value": 41.5, "iteration": 100}
    trainer = {"_trainer": {"optimizer": {"state": {0: torch.zeros(2)}}}}
    extras = {"best": best, "iteration": 99, "trainer": trainer}
    torch.save({"model": weights, **extras}, tmp_path / "model.pth")
    run(tmp_path / "model.pth", "--output", tmp_path / "model.safetensors")
    run(tmp_path / "model.safetensors", "--output", tmp_path / "again.pth")
    content = torch.load(tmp_path / "again.pth", weights_only=True)
    assert content.keys() == {"model", "best", "iteration"}
    assert content["best"] == best and content["iteration"] == 99
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
    assert_same(torch.load(tmp_path / "a.pth", weights_only=True)["model"], weights)
    assert (tmp_path / "a.pth").stat().st_size < 3000 < (tmp_path / "views.pth").stat().st_size


def test_parameters_that_released_models_lack_are_named(tmp_path, capsys):
    released = {k: v for k, v in weights_of("t_plus").items() if "embed" in k or "level" in k}
    weights, _ = from_released(released)
    weights["criterion.empty_weight"] = torch.ones(151)
    torch.save({"model": weights}, tmp_path / "ours.pth")
    assert run(tmp_path / "ours.pth", "--layout", "released", "--output", tmp_path / "r.pth") == 0
    assert "no such parameter (1): criterion.empty_weight" in capsys.readouterr().out
    got = torch.load(tmp_path / "r.pth", weights_only=True)["state_dict"]
    assert_same(got, released)


def test_the_mean(tmp_path, capsys):
    for number in (1, 2, 6):
        weights = {
            "backbone.stem.conv1.weight": torch.full((2, 2), float(number)),
            "backbone.stem.conv1.bias": torch.full((2,), number, dtype=torch.float16),
            "backbone.stem.norm1.num_batches_tracked": torch.tensor(number),
        }
        content = {"model": weights, "iteration": number, "best": {"value": number}}
        torch.save(content, tmp_path / f"{number}.pth")
    files = [tmp_path / f"{number}.pth" for number in (1, 2, 6)]
    assert run(*files, "--average", "--output", tmp_path / "mean.pth") == 0
    content = torch.load(tmp_path / "mean.pth", weights_only=True)
    assert set(content) == {"model"}  # no iteration, no score: they are not of these weights
    mean = content["model"]
    assert mean["backbone.stem.conv1.weight"].tolist() == [[3.0, 3.0], [3.0, 3.0]]
    assert mean["backbone.stem.conv1.bias"].dtype == torch.float16
    assert mean["backbone.stem.conv1.bias"].tolist() == [3.0, 3.0]
    assert mean["backbone.stem.norm1.num_batches_tracked"].item() == 1
    out = capsys.readouterr().out
    assert "mean of 3 checkpoints" in out and out.count("read ") == 3


def fails(capsys, *argv):
    assert run(*argv) == 2
    return capsys.readouterr().err


def test_a_pickle_becomes_safetensors(tmp_path):
    content = {"model": {"sem_seg_head.predictor.w": np.ones(3, "f4")}, "__author__": "someone"}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps(content))
    assert run(tmp_path / "zoo.pkl", "--output", tmp_path / "zoo.safetensors") == 0
    got = load_file(tmp_path / "zoo.safetensors")
    assert got["sem_seg_head.predictor.w"].tolist() == [1.0, 1.0, 1.0]


def test_a_pickle_of_more_needs_the_flag(tmp_path, capsys):
    torch.save({"model": {"a": torch.ones(1)}, "cfg": Path("x")}, tmp_path / "a.pth")
    argv = [tmp_path / "a.pth", "--output", tmp_path / "b.pth"]
    message = fails(capsys, *argv)
    assert "a.pth is refused" in message and "--allow-pickle" in message
    assert not (tmp_path / "b.pth").exists()
    assert run(*argv, "--allow-pickle") == 0
    assert set(torch.load(tmp_path / "b.pth", weights_only=True)) == {"model"}


def test_checkpoints_that_do_not_go_together_have_no_mean(small, tmp_path, capsys):
    file, weights = small
    ours, _ = from_released(weights)
    name = "backbone.block1.0.norm1.weight"
    save_file(ours, tmp_path / "ours.safetensors")
    torch.save(weights | {name: torch.ones(2)}, tmp_path / "shape.pth")
    for other in ("ours.safetensors", "shape.pth"):
        output = tmp_path / "mean.pth"
        message = fails(capsys, file, tmp_path / other, "--average", "--output", output)
        assert f"{other} is of another model than {file}" in message
    assert f"they differ in {name}" in message


def test_other_checkpoints_have_no_layout(tmp_path, capsys):
    torch.save({"fc.weight": torch.ones(1)}, tmp_path / "a.pth")
    argv = [tmp_path / "a.pth", "--layout", "released", "--output", tmp_path / "b.pth"]
    assert "a.pth: it is a checkpoint of another project" in fails(capsys, *argv)


def test_mixed_layouts_are_refused(small, tmp_path, capsys):
    _, weights = small
    torch.save(weights | from_released(weights)[0], tmp_path / "both.pth")
    message = fails(capsys, tmp_path / "both.pth", "--output", tmp_path / "b.pth")
    assert "both.pth: the names are a mixture of" in message


def test_no_file_is_overwritten_by_mistake(small, tmp_path, capsys):
    file, weights = small
    (tmp_path / "link.pth").symlink_to(file)
    for output in (file, tmp_path / "link.pth"):
        assert "is an input" in fails(capsys, file, "--output", output, "--overwrite")
    (tmp_path / "there.pth").write_text("mine")
    assert "there.pth exists" in fails(capsys, file, "--output", tmp_path / "there.pth")
    assert (tmp_path / "there.pth").read_text() == "mine"
    assert run(file, "--output", tmp_path / "there.pth", "--overwrite") == 0
    assert_same(torch.load(tmp_path / "there.pth", weights_only=True)["state_dict"], weights)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["none.pth", "--output", "b.pth"], "none.pth does not exist"),
        (["{file}", "--output", "{folder}/b.onnx"], "suffix has to be one of .pth, .pt, .safet"),
        (["{file}", "--output", "{folder}/none/b.pth"], "there is no folder"),
        (["{file}", "--output", "{folder}/d.pth"], "d.pth is a folder"),
    ],
)
def test_wrong_paths_are_named(small, tmp_path, capsys, argv, said):
    (tmp_path / "d.pth").mkdir()
    argv = [text.format(file=small[0], folder=tmp_path) for text in argv]
    message = fails(capsys, *argv)
    assert message.startswith("convert_checkpoint.py: error: ") and said in message


@pytest.mark.parametrize(
    ("argv", "said"),
    [(["a", "b"], "add --average"), (["a", "--average"], "--average needs several")],
)
def test_the_mean_is_asked_for(capsys, argv, said):
    with pytest.raises(SystemExit) as raised:
        run(*argv, "--output", "c.pth")
    assert raised.value.code == 2
    assert said in capsys.readouterr().err
