#!/usr/bin/env python3
"""Write the demo scenes, the embedded default dataset: street scenes with labels and objects."""

from __future__ import annotations

import argparse
import os
import sys

from lrformer.data.demo_scenes import DemoScenesError, class_shares, write_demo_scenes


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--root",
        default=os.environ.get("DETECTRON2_DATASETS", "datasets"),
        help="folder of all datasets; the scenes go to ROOT/demo_scenes "
        "(default: $DETECTRON2_DATASETS, else ./datasets)",
    )
    parser.add_argument("--train", type=int, default=600, help="number of training scenes")
    parser.add_argument("--val", type=int, default=80, help="number of held-out scenes")
    parser.add_argument("--height", type=int, default=192, help="of the images, in pixels")
    parser.add_argument("--width", type=int, default=256, help="of the images, in pixels")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same scenes")
    parser.add_argument("--workers", type=int, help="number of processes (default: all CPU cores)")
    options = parser.parse_args(arguments)
    try:
        written = write_demo_scenes(
            options.root,
            num_train=options.train,
            num_val=options.val,
            height=options.height,
            width=options.width,
            seed=options.seed,
            workers=options.workers,
        )
        shares = class_shares(written.path)
    except DemoScenesError as error:
        print(f"make_demo_scenes: {error}", file=sys.stderr)
        return 1
    print(f"{written.path}: {written.rendered} scenes rendered, {written.reused} reused")
    print("pixels: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
