#!/usr/bin/env python3
"""Memory and files of a long training or prediction: python tests/fire/soak.py train --minutes 60

A small LRFormer on 64 made-up images, with the data loader's worker, evaluations and checkpoints;
or its predictor on images of 20 sizes. The exit code is 1 where the memory of the last three
quarters of the time, in tenths, leaves its median by more than 2 %, or files are left open.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
OPTIONS = "MODEL.DEVICE cpu MODEL.LRFORMER.EMBED_DIMS [16,16,20,32] MODEL.SEM_SEG_HEAD.CONVS_DIM 32"
TRAINING = (
    "INPUT.MIN_SIZE_TRAIN (64,96) INPUT.CROP.ENABLED False INPUT.RESIZE_RATIO_RANGE [] "
    "INPUT.MIN_SIZE_TEST 64 SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 10000000 SOLVER.WARMUP_ITERS 0 "
    "SOLVER.CHECKPOINT_PERIOD 200 TEST.EVAL_PERIOD 200 DATALOADER.NUM_WORKERS 1"
)


def _train(folder: Path) -> list[str]:
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for number in range(64):
        label = random.integers(0, 3, (6, 8), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
        image = np.stack([label * 80 + random.integers(0, 60, label.shape)] * 3, -1)
        Image.fromarray(image.astype(np.uint8)).save(folder / f"images/{number}.jpg")
        Image.fromarray(label).save(folder / f"masks/{number}.png")
    data = folder / "data.yaml"
    init = [sys.executable, ROOT / "tools" / "data.py", "init", folder, "--output", data]
    subprocess.run(init, check=True, stdout=subprocess.DEVNULL)
    train = [sys.executable, ROOT / "tools" / "train_net.py", "--config-file", "lrformer_t"]
    options = f"{OPTIONS} {TRAINING} OUTPUT_DIR {folder / 'output'}"
    return [*map(str, [*train, "--data", data]), *options.split()]


def _predict() -> None:
    import numpy as np

    import lrformer

    model = lrformer.build_model("models/lrformer_t.yaml", device="cpu", opts=OPTIONS.split())
    cfg = lrformer.load_cfg("models/lrformer_t.yaml", OPTIONS.split())
    predictor = lrformer.Predictor(cfg, model)
    random = np.random.default_rng(0)
    images = [
        random.integers(0, 256, (*side, 3), np.uint8) for side in random.integers(1, 600, (20, 2))
    ]
    while True:
        for image in images:
            predictor(image)


def _usage(pid: int) -> tuple[float, int]:
    """Megabytes and open files of a process and those that it started."""
    pids = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    megabytes, files = 0.0, 0
    for each in pids:
        try:
            text = Path(f"/proc/{each}/smaps_rollup").read_text()
            files += len(os.listdir(f"/proc/{each}/fd"))
        except (FileNotFoundError, ProcessLookupError):  # a worker that has ended
            continue
        megabytes += int(text.split("Pss:")[1].split()[0]) / 1024
    return megabytes, files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["train", "predict", "predicting"])
    parser.add_argument("--minutes", type=float, default=60)
    args = parser.parse_args()
    if args.what == "predicting":
        return _predict()
    with tempfile.TemporaryDirectory() as folder, open(f"{folder}/printed", "w") as printed:
        again = [sys.executable, __file__, "predicting"]
        command = _train(Path(folder)) if args.what == "train" else again
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT)
        samples = []
        end = time.monotonic() + 60 * args.minutes
        while time.monotonic() < end and process.poll() is None:
            time.sleep(1)
            samples.append(_usage(process.pid))
        if process.poll() is not None:
            print(Path(folder, "printed").read_text()[-2000:], file=sys.stderr)
            return 1
        process.terminate()
        process.wait()
    return _judge(args.what, args.minutes, samples[len(samples) // 4 :])


def _judge(what: str, minutes: float, samples: list[tuple[float, int]]) -> int:
    # Means of a tenth: an evaluation needs other memory than an iteration, for a moment.
    size = len(samples) // 10
    tenths = [samples[i * size : (i + 1) * size] for i in range(10)]
    memory = [statistics.mean(megabytes for megabytes, _ in tenth) for tenth in tenths]
    files = [max(number for _, number in tenth) for tenth in tenths]
    median = statistics.median(memory)
    spread = max(abs(value / median - 1) for value in memory)
    print(
        f"{what}, {minutes:g} minutes: {median:.0f} MB, {spread:.1%} at most from it "
        f"({memory[0]:.0f} MB first, {memory[-1]:.0f} MB last); files {files[0]} and {files[-1]}"
    )
    return int(spread > 0.02 or files[-1] > files[0])


if __name__ == "__main__":
    sys.exit(main())
