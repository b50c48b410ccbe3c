#!/usr/bin/env python3
"""Parameters and multiply-adds of models, as a Markdown table.

python tools/analyze.py configs/ade20k/lrformer_*.yaml --size 512 512
"""

import argparse

from tabulate import tabulate

from lrformer import load_cfg
from lrformer.analysis import build_for_counting, count_flops, count_parameters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config_files", nargs="+", metavar="CONFIG", help="yaml files")
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        default=(512, 512),
        metavar=("HEIGHT", "WIDTH"),
        help="of the network's input, multiples of 32 (default: 512 512)",
    )
    parser.add_argument("--opts", nargs="+", default=[], help="KEY VALUE pairs over the configs")
    args = parser.parse_args()
    rows = []
    for config_file in args.config_files:
        model = build_for_counting(load_cfg(config_file, args.opts))
        flops = count_flops(model, *args.size)[""]
        rows.append([config_file, f"{count_parameters(model) / 1e6:.2f} M", f"{flops / 1e9:.1f} G"])
    print(f"Input {args.size[0]} x {args.size[1]}; FLOPs are multiply-adds.\n")
    print(tabulate(rows, headers=["config", "parameters", "FLOPs"], tablefmt="github"))


if __name__ == "__main__":
    main()
