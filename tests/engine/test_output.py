"""Full disks, folders that cannot be written, and two trainings in one folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lrformer.checkpoint import writing
from lrformer.engine import run

WEIGHTS = {"model": {"weight": torch.arange(1e5)}}


@pytest.fixture
def train(tiny_cfg, tmp_path):
    """Runs tools/train_net.py with more options; its exit code."""
    file = tmp_path / "tiny.yaml"
    file.write_text(tiny_cfg.dump())
    return lambda *argv: run.main(["--config-file", str(file), *map(str, argv)])


@pytest.fixture
def output(tiny_cfg):
    """The folder that is written, made already."""
    folder = Path(tiny_cfg.OUTPUT_DIR)
    folder.mkdir()
    return folder


def _full(file):
    """Let what is written to ``file`` meet a full disk."""
    file.symlink_to("/dev/full")


@pytest.mark.parametrize("name", ["model_0000003", "model_best", "model_final"])
def test_a_full_disk_is_one_message_and_leaves_the_checkpoint_before(train, output, capsys, name):
    _full(output / f"{name}.pth.partial")
    options = ("SOLVER.CHECKPOINT_PERIOD", 2, "TEST.EVAL_PERIOD", 3, "SOLVER.MAX_ITER", 5)
    assert train(*options) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    message = captured.err.splitlines()[-1]
    for part in (f"{output / name}.pth: No space left on device", "MB are left", "it needs 0.0 MB"):
        assert part in message
    assert not (output / f"{name}.pth").exists() and not list(output.glob("*.partial"))
    assert "Traceback" in (output / "log.txt").read_text()
    assert train("--resume", *options) == 0
    started = f"from iteration {4 if name == 'model_final' else 2}"
    assert started in capsys.readouterr().out


def test_logs_on_a_full_disk_end_with_a_warning(train, output, capsys):
    for name in ("log.txt", "metrics.json"):
        _full(output / name)
    assert train() == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        f"warning: {output / 'log.txt'} ends here: No space left on device"
    ]
    assert captured.out.count("loses metrics: [Errno 28] No space left") == 1
    assert (output / "model_final.pth").is_file()


@pytest.mark.parametrize("below", ["", "more/output"])
@pytest.mark.parametrize("options", [[], ["--eval-only", "MODEL.WEIGHTS", "model.pth"]])
def test_a_folder_that_is_a_file_is_named(train, tmp_path, capsys, below, options, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.pth").touch()
    Path("file").touch()
    assert train(*options, "OUTPUT_DIR", Path("file", below)) == 2
    assert f"OUTPUT_DIR {Path('file', below)} cannot be written: " in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_without_permission_is_named(train, output, capsys):
    output.chmod(0o500)
    assert train() == 2
    assert f"OUTPUT_DIR {output} cannot be written: Permission denied" in capsys.readouterr().err


def test_a_second_training_in_the_folder_is_refused_until_the_first_is_dead(train, output, capsys):
    code = "import sys, time; from lrformer.engine.output import claim; held = claim({!r}, True);"
    code = code.format(str(output)) + "print('claimed', flush=True); time.sleep(300)"
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert first.stdout.readline() == b"claimed\n"
        assert train() == 2
        assert f"{output}: another training (process {first.pid} on " in capsys.readouterr().err
        # What only reads checkpoints may run beside it.
        torch.save({"model": {}}, output / "model.pth")
        assert train("--eval-only", "MODEL.WEIGHTS", output / "model.pth") == 2
        assert "model.pth holds no tensors" in capsys.readouterr().err
    finally:
        first.kill()
        first.wait()
    assert train() == 0


def _cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def _zero(file):
    weight = torch.load(file, weights_only=True)["model"]["predictor.weight"].numpy().tobytes()
    data = file.read_bytes()
    file.write_bytes(data.replace(weight, bytes(len(weight))))


@pytest.mark.parametrize("harm", [_cut, _zero, Path.unlink, lambda file: file.write_bytes(b"")])
@pytest.mark.parametrize("name", ["model_0000005.pth", "model_final.pth"])
def test_resuming_goes_back_to_the_newest_whole_checkpoint(train, output, capsys, harm, name):
    assert train("SOLVER.CHECKPOINT_PERIOD", 2) == 0
    expected = torch.load(output / "model_final.pth", weights_only=True)
    # Of a training before, in the same folder.
    (output / "model_0000099.pth").write_bytes((output / "model_0000001.pth").read_bytes())
    os.utime(output / "model_0000099.pth", (0, 0))
    (output / "last_checkpoint").write_text(name)
    harmed = {"model_0000005.pth", name, "model_best.pth"}
    for file in harmed:
        harm(output / file)
    capsys.readouterr()
    assert train("--resume") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{output / name} cannot be resumed from (" in printed
    assert f"going back to {output / 'model_0000003.pth'}, the newest" in printed
    assert "Starting training from iteration 4" in printed
    if harm is not Path.unlink:
        assert {f"{name}.damaged", "model_best.pth.damaged"} <= set(os.listdir(output))
    again = torch.load(output / "model_final.pth", weights_only=True)
    for key, tensor in expected["model"].items():
        torch.testing.assert_close(again["model"][key], tensor, rtol=0, atol=0)


def test_without_a_whole_checkpoint_the_last_is_named_and_left(train, output, capsys):
    assert train("SOLVER.MAX_ITER", 1) == 0
    _cut(output / "model_final.pth")
    assert train("--resume") == 2
    assert f"{output / 'model_final.pth'} is damaged, cut off" in capsys.readouterr().err
    assert (output / "model_final.pth").is_file()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_file(tmp_path, number):
    class Ring:
        def __reduce__(self):
            signal.raise_signal(number)
            return int, (3,)

    arrived = []
    before = signal.signal(number, lambda *_: arrived.append((tmp_path / "model.pth").is_file()))
    try:
        writing.save(WEIGHTS | {"ring": Ring()}, tmp_path / "model.pth")
    finally:
        signal.signal(number, before)
    assert arrived == [True]
    saved = torch.load(tmp_path / "model.pth", weights_only=False)
    assert torch.equal(saved["model"]["weight"], WEIGHTS["model"]["weight"]) and saved["ring"] == 3
