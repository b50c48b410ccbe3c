import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch

from lrformer.engine import run


@pytest.fixture
def config_file(tiny_cfg, tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(tiny_cfg.dump())
    return file


def _fails(capsys, *argv):
    """The one line on standard error of a command line that is refused."""
    assert run.main([str(arg) for arg in argv]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def test_train_resume_and_evaluate_give_the_same_score(config_file, tiny_cfg, capsys):
    output = Path(tiny_cfg.OUTPUT_DIR)
    results = output / "inference" / "tiny_sem_seg" / "sem_seg_results.json"

    def run_and_read(*argv):
        results.unlink(missing_ok=True)
        assert run.main(["--config-file", str(config_file), *argv]) == 0
        printed = capsys.readouterr().out
        (score,) = re.findall(r"tiny_sem_seg: mIoU ([\d.]+) \(each class: (.*)\)", printed)
        assert score[1] == str(results)
        assert json.loads(results.read_text())["mIoU"] == pytest.approx(float(score[0]), abs=0.005)
        return score[0], printed

    trained, printed = run_and_read("SOLVER.MAX_ITER", "40")
    assert f"last weights in {output / 'model_final.pth'}, the best ones in" in printed
    log = (output / "log.txt").read_text()
    assert "POLY_LR_POWER" in log
    assert "POLY_LR_POWER" not in printed
    assert printed.count("Starting training from iteration 0") == 1
    evaluated, _ = run_and_read("--eval-only", "MODEL.WEIGHTS", str(output / "model_final.pth"))
    assert evaluated == trained
    evaluated, _ = run_and_read("--eval-only", "--resume")
    assert evaluated == trained
    _, printed = run_and_read("--resume", "SOLVER.MAX_ITER", "42")
    assert "Starting training from iteration 40" in printed


def test_another_training_in_the_folder_is_told(config_file, tiny_cfg, capsys):
    argv = ["--config-file", str(config_file), "SOLVER.MAX_ITER", "1"]
    run.main(["--resume", *argv])
    assert f"nothing to resume in {tiny_cfg.OUTPUT_DIR}" in capsys.readouterr().out
    run.main(argv)
    assert f"{tiny_cfg.OUTPUT_DIR} holds another training" in capsys.readouterr().out


def test_a_config_that_cannot_be_read(config_file, tmp_path, capsys):
    message = _fails(capsys, "--config-file", tmp_path / "none.yaml")
    assert str(tmp_path / "none.yaml") in message

    broken = tmp_path / "broken.yaml"
    broken.write_text("SOLVER: [1,\nMODEL: 2")
    assert "broken.yaml is no valid yaml" in _fails(capsys, "--config-file", broken)
    for nothing in ("", "- 1", "_BASE_: 3"):
        broken.write_text(nothing)
        message = _fails(capsys, "--config-file", broken)
        assert "broken.yaml, or a file that it is based on, is not a mapping of keys" in message
    broken.write_text("SOLVER:\n  MAX_ITERS: 5")
    assert "SOLVER.MAX_ITERS" in _fails(capsys, "--config-file", broken)
    broken.write_text("_BASE_: gone.yaml")
    assert "gone.yaml" in _fails(capsys, "--config-file", broken)


@pytest.mark.parametrize("key", ["OUTPUT_DIR", "_BASE_"])
def test_a_config_runs_no_code(config_file, tmp_path, capsys, key):
    ran, bad = tmp_path / "ran", tmp_path / "bad.yaml"
    bad.write_text(f"{key}: !!python/object/apply:os.system ['touch {ran}']\n")
    derived = tmp_path / "derived.yaml"
    derived.write_text("_BASE_: [tiny.yaml, bad.yaml]\n")
    for file in (bad, derived):
        message = _fails(capsys, "--config-file", file)
        assert f'python/object/apply:os.system\' in "{bad}", line 1' in message
    assert not ran.exists()


def test_aliases_fill_no_memory(tmp_path, capsys):
    bomb = tmp_path / "bomb.yaml"
    lists = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 10)]
    for text in ("\n".join(["l0: &l0 x", *lists]), "SOLVER: &a {BASE_LR: *a}", "SOLVER: &a [*a]"):
        bomb.write_text(text)
        assert "aliases repeat it" in _fails(capsys, "--config-file", bomb)
    bomb.write_text("TEST: {SLIDING_WINDOW: {CROP_SIZE: &s [64, 64], STRIDE: *s}}")
    assert run.load_cfg(bomb).TEST.SLIDING_WINDOW.STRIDE == [64, 64]


def test_tuples_of_published_configs_are_understood(config_file, tmp_path):
    config_file.write_text("INPUT: {MIN_SIZE_TRAIN: !!python/tuple [480, 512]}")
    assert run.load_cfg(config_file).INPUT.MIN_SIZE_TRAIN == (480, 512)


@pytest.mark.parametrize(
    "opts, message",
    [
        (["SOLVER.MAX_ITERS", "5"], "SOLVER.MAX_ITERS"),
        (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER"),
        (["SOLVER.MAX_ITER"], "overrides come in pairs"),
        (["DATASETS.TRAIN", "('nowhere',)"], "no dataset named 'nowhere'"),
        (["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "4"], "NUM_CLASSES is 4, but tiny_sem_seg has 3"),
        (["SOLVER.OPTIMIZER", "LION"], "SOLVER.OPTIMIZER"),
        (["MODEL.WEIGHTS", "gone.pth"], "there is no file of weights gone.pth"),
    ],
)
def test_values_that_cannot_be_used(config_file, capsys, opts, message):
    assert message in _fails(capsys, "--config-file", config_file, *opts)


def test_evaluation_needs_weights_and_a_dataset(config_file, tiny_cfg, capsys):
    argv = ["--config-file", config_file, "--eval-only"]
    assert "--eval-only needs trained weights" in _fails(capsys, *argv)
    assert "needs trained weights" in _fails(capsys, *argv, "--resume")
    message = _fails(capsys, *argv, "MODEL.WEIGHTS", "gone.pth")
    assert "there is no file of weights gone.pth" in message
    assert "DATASETS.TEST is empty" in _fails(capsys, *argv, "DATASETS.TEST", "()")
    output = Path(tiny_cfg.OUTPUT_DIR)
    output.mkdir()
    (output / "last_checkpoint").write_text("model_0000007.pth")
    message = _fails(capsys, *argv, "--resume")
    assert "last_checkpoint names model_0000007.pth, which does not exist" in message


def test_several_processes_need_as_many_gpus(config_file, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    argv = ["--config-file", config_file, "--num-gpus", "2", "MODEL.DEVICE", "cuda"]
    assert "without a GPU use --num-gpus 1" in _fails(capsys, *argv)


def test_the_config_file_is_required(capsys):
    with pytest.raises(SystemExit, match="2"):
        run.main([])
    assert "--config-file is required" in capsys.readouterr().err


def test_a_diverged_training_is_one_line_and_status_1(config_file, capsys):
    assert run.main(["--config-file", str(config_file), "SOLVER.BASE_LR", "1e38"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "iteration=" in error and "loss_sem_seg" in error


def test_a_stopped_training_tells_how_to_continue(config_file, tiny_cfg, capsys, monkeypatch):
    run_step = run.Trainer.run_step

    def stopped(trainer):
        if trainer.iter == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        run_step(trainer)

    monkeypatch.setattr(run.Trainer, "run_step", stopped)
    assert run.main(["--config-file", str(config_file)]) == 130
    printed = capsys.readouterr().out
    assert "stopped after iteration 2 of 6; --resume continues there" in printed
