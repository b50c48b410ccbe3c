"""Two processes on the CPU, through gloo."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch


def _run_two(folder):
    # importlib mode of pytest: processes find this file by its path, not by a module's name.
    command = [sys.executable, __file__, str(folder)]
    processes = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for rank in (0, 1)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    return [torch.load(folder / f"{rank}.pth", weights_only=True) for rank in (0, 1)]


@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="needs torch.distributed with gloo",
)
def test_two_processes_train_stop_and_resume_together(tmp_path):
    first, second = _run_two(tmp_path)
    # One process was told to stop in its fourth iteration; both did, after the same one.
    assert first["start_iter"] == second["start_iter"] == 4
    # BatchNorm's running statistics are each process's own; the learned weights are common.
    for name in ("predictor.weight", "backbone.0.weight", "backbone.1.weight"):
        torch.testing.assert_close(first["weights"][name], second["weights"][name], rtol=0, atol=0)
    # Each gets its own half of a batch of two: together all six images in three iterations.
    assert {len(batch) for batch in first["batches"] + second["batches"]} == {1}
    seen = [Path(batch[0]).name for batch in first["batches"][:3] + second["batches"][:3]]
    assert sorted(seen) == [f"{number}.png" for number in range(6)]
    # The main process has the scores of all images.
    assert first["mIoU"] is not None
    assert second["mIoU"] is None


def _process(folder, rank):
    from detectron2.engine import HookBase
    from detectron2.utils import comm
    from detectron2.utils.env import seed_all_rng

    from lrformer.engine import Trainer

    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).parent / "conftest.py")
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)

    class Stop(HookBase):
        def before_step(self):
            if rank == 1 and self.trainer.iter == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    comm._LOCAL_PROCESS_GROUP = torch.distributed.new_group([0, 1])
    (folder / f"data_{rank}").mkdir()
    tiny.register_tiny(folder / f"data_{rank}")
    cfg = tiny.tiny_config(folder / "output")

    def trainer(resume):
        seed_all_rng(cfg.SEED + rank)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=resume)
        return trainer

    stopped = trainer(resume=False)
    stopped.register_hooks([Stop()])
    with contextlib.suppress(KeyboardInterrupt):
        stopped.train()
    comm.synchronize()
    resumed = trainer(resume=True)
    results = resumed.train()
    torch.save(
        {
            "weights": resumed.model.module.state_dict(),
            "batches": stopped.model.module.batches,
            "start_iter": resumed.start_iter,
            "mIoU": results.get("sem_seg", {}).get("mIoU"),
        },
        folder / f"{rank}.pth",
    )
    # A group that detectron2 still holds when the interpreter ends may end it with an abort.
    comm._LOCAL_PROCESS_GROUP = None
    comm._get_global_gloo_group.cache_clear()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _process(Path(sys.argv[1]), int(sys.argv[2]))
