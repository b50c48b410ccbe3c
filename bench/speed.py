"""Inference time of models in variants, in turn in one process."""

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm

from .cases import PARTS, build_cases, build_plain
from .counting import count
from .meters import spread, time_in_turn
from .models import PEERS
from .options import add_run, parse_parts, prepare_run
from .report import Report, Table

_REMARKS = (
    "From normalised images to what the network has before it is enlarged to the images' size. All "
    "ran in turn in one process; times are medians over the rounds with quartiles, and the least. "
    "Ratios are formed in each round. Outputs were checked before.",
    "FLOPs: multiply-adds of one image, as fvcore counts them. Memory: at the peak of a call, "
    "beyond weights and images. Error: relative to the same model, eager and in float32.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help=f"a config or a peer ({', '.join(PEERS)}; pip install 'lrformer[peers]'), randomly "
        "initialised, or MODEL:VARIANT",
    )
    add_run(parser, PARTS, batch=1, rounds=15)


def report(args: argparse.Namespace) -> Report:
    """Raises ValueError, OSError for what cannot be timed or computes something else."""
    conditions = prepare_run(args)
    pairs = model_variants(args.models, args.variants)
    for model, variant in pairs:
        parse_parts(f"{model}:{variant}", variant, PARTS, args.device)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(args.batch, 3, *args.size, generator=generator).to(args.device)
    cases, costs = [], {}
    for model in tqdm(
        dict.fromkeys(model for model, _ in pairs), "building", leave=False, disable=None
    ):
        plain = build_plain(model, args.device, args.opts)
        costs[model] = count(plain, *args.size)
        cases += build_cases(model, plain, [v for m, v in pairs if m == model], images)
    cases.sort(key=lambda case: pairs.index((case.model, case.variant)))
    runs = {case.name: case.run for case in cases}
    times = time_in_turn(runs, args.rounds, device=args.device)
    records = [
        {
            "model": case.model,
            "variant": case.variant,
            "parameters": costs[case.model].parameters,
            "flops": int(costs[case.model].total),
            **spread("time", times[case.name]),
            "time_min": float(times[case.name].min()),
            "images_per_second": args.batch / float(np.median(times[case.name])),
            **spread("ratio", times[case.name] / times[cases[0].name]),
            "memory": case.memory,
            "error": case.error,
        }
        for case in cases
    ]
    return Report([Table(records, remarks=_REMARKS)], conditions, device=args.device)


def model_variants(models: Sequence[str], variants: Sequence[str]) -> list[tuple[str, str]]:
    """(model, variant) of each case; for peers, variants mean what is left without LRFormer's."""
    pairs = []
    for text in models:
        model, colon, variant = text.rpartition(":")
        if colon:
            pairs.append((model, variant))
            continue
        for variant in variants:
            parts = variant.split("+")
            if text in PEERS:
                parts = [part for part in parts if part != "accelerated"] or ["eager"]
            pairs.append((text, "+".join(parts)))
    return list(dict.fromkeys(pairs))
