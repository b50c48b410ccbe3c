"""Several processes of torchrun on the CPU, and what srun tells those that it starts."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lrformer.engine import run
from lrformer.engine.launch import Place, find_place

needs_gloo = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="needs torch.distributed with gloo",
)

# A small LRFormer without random numbers in training; a third of the pixels has no label.
CONFIG = """
_BASE_: {base}
MODEL:
  DEVICE: cpu
  LRFORMER: {{EMBED_DIMS: [8, 8, 8, 8], DEPTHS: [1, 1, 1, 1], NUM_HEADS: [1, 1, 1, 1],
             MLP_RATIOS: [2, 2, 2, 2], DROP_PATH_RATE: 0.0, NORM: {norm}}}
  SEM_SEG_HEAD: {{NUM_CLASSES: 3, CONVS_DIM: 16, DROPOUT: 0.0, NORM: {norm}}}
DATASETS: {{TRAIN: [tiny_sem_seg], TEST: [tiny_sem_seg]}}
DATALOADER: {{NUM_WORKERS: 0, ASPECT_RATIO_GROUPING: False}}
INPUT: {{MIN_SIZE_TRAIN: [32], MIN_SIZE_TEST: 32, RANDOM_FLIP: none}}
SOLVER: {{IMS_PER_BATCH: 2, MAX_ITER: 8, CHECKPOINT_PERIOD: 2, BASE_LR: 0.001}}
SEED: 3
"""


def _train(folder, processes, *options, norm="FrozenBN", crash=""):
    """Train in ``folder``; its losses by iteration, weights and scores."""
    folder.mkdir(exist_ok=True)
    text = CONFIG.format(norm=norm, base=run.find_config("models/lrformer_t.yaml"))
    (folder / "tiny.yaml").write_text(text)
    # Found by its path, because pytest imports no modules by name.
    command = [__file__, folder, crash, "--config-file", folder / "tiny.yaml"]
    command += ["OUTPUT_DIR", folder / "output"]
    if processes == 1:
        command = [sys.executable, *command]
    else:
        torchrun = ("torch.distributed.run", "--standalone", f"--nproc-per-node={processes}")
        command = [sys.executable, "-m", *torchrun, *options, *command]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    losses = json.loads((folder / "losses.json").read_text())
    weights = torch.load(folder / "output" / "model_final.pth", weights_only=True)["model"]
    scores = folder / "output" / "inference" / "tiny_sem_seg" / "sem_seg_results.json"
    return losses, weights, json.loads(scores.read_text()), done.stdout


@needs_gloo
@pytest.mark.slow
@pytest.mark.parametrize("norm", ["FrozenBN", "SyncBN"])
def test_two_processes_train_as_one(tmp_path, norm):
    one, two = (_train(tmp_path / str(number), number, norm=norm) for number in (1, 2))
    assert one[0].keys() == two[0].keys() == {str(i) for i in range(8)}
    for i, loss in one[0].items():
        print(f"{norm}, iteration {i}: one process {loss:.9f}, two {two[0][i]:.9f}")
        assert two[0][i] == pytest.approx(loss, rel=1e-5), (i, one[0], two[0])
    # SyncBN leaves biases before it without gradients but rounding, and detectron2's for CPUs keeps
    # variances for the evaluation that are a little smaller than those of PyTorch's.
    if norm == "FrozenBN":
        for name, tensor in one[1].items():
            torch.testing.assert_close(two[1][name], tensor, rtol=1e-4, atol=1e-5, msg=name)
        assert two[2]["mIoU"] == pytest.approx(one[2]["mIoU"], abs=1e-6)


@needs_gloo
@pytest.mark.slow
def test_torchrun_continues_after_a_lost_process(tmp_path):
    whole = _train(tmp_path / "whole", 2)
    broken = _train(tmp_path / "broken", 2, "--max-restarts=1", crash="5")
    assert "Starting training from iteration 4" in broken[3]
    for name, tensor in whole[1].items():
        torch.testing.assert_close(broken[1][name], tensor, rtol=0, atol=0)


def _process(folder, crash, argv):
    """What torchrun starts."""
    from detectron2.utils import comm

    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).parent / "conftest.py")
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    torch.set_num_threads(1)
    data = folder / f"data_{os.environ.get('RANK', 0)}"
    data.mkdir(exist_ok=True)
    tiny.register_tiny(data)
    label = data / "1_label.png"
    pixels = np.array(tiny.Image.open(label))
    pixels[:8] = 255
    tiny.Image.fromarray(pixels).save(label)
    losses = folder / "losses.json"

    class Recording(run.Trainer):
        def after_step(self):
            super().after_step()
            if comm.is_main_process():
                known = json.loads(losses.read_text()) if losses.is_file() else {}
                known[self.iter] = self.storage.latest()["total_loss"][0]
                losses.write_text(json.dumps(known))

        def run_step(self):
            first = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
            if crash and self.iter == int(crash) and comm.get_rank() == 1 and first:
                os.kill(os.getpid(), 9)
            super().run_step()

    run.Trainer = Recording
    return run.main(argv)


@pytest.mark.parametrize(
    "variables, place, address",
    [
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, None, None),  # in a batch script
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, Place(3, 4, 1, 2), None),
        ({"SLURM_STEP_NODELIST": "gpu[07-08]"}, Place(9, 16, 1, 8, True), "gpu07"),
        ({"SLURM_STEP_NODELIST": "a-1,b-[2,4]"}, Place(9, 16, 1, 8, True), "a-1"),
    ],
)
def test_the_place_of_a_process(variables, place, address):
    if address:
        variables |= {"SLURM_PROCID": "9", "SLURM_STEP_NUM_TASKS": "16", "SLURM_LOCALID": "1"}
        variables |= {"SLURM_STEP_TASKS_PER_NODE": "8(x2)", "SLURM_JOB_ID": "123456"}
    elif place:
        variables["LOCAL_WORLD_SIZE"] = "2"
    assert find_place(variables) == place
    assert variables.get("MASTER_ADDR") == address
    if address:
        assert place.machine == 1 and 1024 < int(variables["MASTER_PORT"]) < 32768


def test_different_numbers_of_tasks_are_refused():
    variables = {"SLURM_STEP_NUM_TASKS": "12", "SLURM_STEP_TASKS_PER_NODE": "8,4"}
    with pytest.raises(ValueError, match="--ntasks-per-node"):
        find_place(variables)


if __name__ == "__main__":
    sys.exit(_process(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
