"""What tools/pretrain_imagenet.py does: from a command line to a trained or evaluated model."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import timm
import torch
import torch.distributed as dist
from timm.utils import ParseKwargs
from torch import nn

from lrformer import cli, precision
from lrformer.layers import VARIANTS

from .checkpoint import load_weights
from .data import build_loader, check_batch, class_names, open_folders, open_split
from .machine import Machine
from .recipe import RECIPES, Recipe, option
from .trainer import BEST, LAST, Pretraining, evaluate

logger = logging.getLogger(__name__)

_EPILOG = """
The dataset is a folder with train/<class>/*.jpg and val/<class>/*.jpg. ImageNet-22K has no
validation images: move some of the training images into val/.

A learning rate that is not given is the recipe's, scaled linearly with --batch-size. --output gets
last.pth and best.pth (by top-1), which can be MODEL.WEIGHTS of any config with the same backbone,
log.txt and summary.json.

Examples:

  torchrun --nproc-per-node 8 tools/pretrain_imagenet.py --data imagenet --model lrformer_tiny
  pretrain_imagenet.py --data imagenet --model lrformer_tiny --eval-only \\
      --weights output/pretrain/lrformer_tiny/best.pth
  pretrain_imagenet.py --data imagenet --model lrformer_large --recipe finetune \\
      --weights output/pretrain/22k/last.pth
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (that of the process where it is None).

    Returns:
        The exit code, see :mod:`lrformer.cli`.
    """
    args = _parser().parse_args(argv)
    try:
        return cli.run(lambda: run(args))
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


def run(args: argparse.Namespace) -> None:
    """Train or evaluate, in each process.

    Raises:
        OSError, ValueError: the arguments, the files or the data cannot be used.
        FloatingPointError: the training diverged.
    """
    output = Path(args.output or Path("output") / "pretrain" / args.model)
    for name, least in (("img_size", 1), ("workers", 0), ("seed", 0)):
        if getattr(args, name) < least:
            raise ValueError(f"{option(name)} must be at least {least}")
    values = {field.name: getattr(args, field.name) for field in fields(Recipe)}
    recipe = RECIPES[args.recipe].changed(**values)
    if args.eval_only and not args.weights:
        raise ValueError(f"--eval-only needs --weights, for example {output / BEST}")
    sets = [open_split(args.data, "val")] if args.eval_only else open_folders(args.data)
    classes = class_names(sets[0])
    machine = Machine.start(args.device, args.amp, args.workers)
    _log_to(output, machine.rank)
    model = _model(args, recipe, len(classes), machine.device)
    if args.eval_only:
        cfg = model.pretrained_cfg
        loader = build_loader(*sets, args.img_size, recipe, cfg, machine, is_training=False)
        scores = evaluate(model, loader, machine)
        logger.info(f"{args.weights}: top-1 {scores['top1']:.2f}, top-5 {scores['top5']:.2f}")
        if machine.rank == 0:
            text = json.dumps({"weights": args.weights, "images": len(sets[0]), **scores}, indent=1)
            (output / "eval.json").write_text(text, encoding="utf-8")
        return
    check_batch(recipe, len(sets[0]), machine.world_size)
    last = output / LAST
    if last.is_file() and not args.resume:
        raise ValueError(f"{last} exists; continue with --resume, or give another --output")
    settings = {name: getattr(args, name) for name in ("model", "img_size", "seed")}
    settings |= {"model_kwargs": dict(args.model_kwargs), "classes": classes}
    training = Pretraining(model, recipe, *sets, machine, output, settings)
    if last.is_file():
        training.resume(last)
    logger.info(
        f"{args.model}, {len(classes)} classes, {len(sets[0])} training and {len(sets[1])} "
        f"validation images at {args.img_size}x{args.img_size}, {machine.world_size} process(es) "
        f"on {machine.device.type}, {training.settings['dtype']}"
    )
    logger.info(f"recipe {args.recipe}: {recipe}")
    training.run()
    logger.info(f"last weights in {last}, the best ones in {output / BEST}")


def _model(
    args: argparse.Namespace, recipe: Recipe, num_classes: int, device: torch.device
) -> nn.Module:
    # The same weights in every process.
    torch.manual_seed(args.seed)
    try:
        options = {"drop_path_rate": recipe.drop_path, **args.model_kwargs}
        model = timm.create_model(args.model, num_classes=num_classes, **options)
    except TypeError as error:
        raise ValueError(f"--model-kwargs: {error}") from error
    if args.weights:
        problem = load_weights(model, args.weights, keep_classifier=args.eval_only)
        but = f", but the classifier starts anew: {problem}" if problem else ""
        logger.info(f"{args.weights} loaded{but}")
    model.set_grad_checkpointing(args.grad_checkpointing)
    return model.to(device, memory_format=torch.channels_last)


def _log_to(output: Path, rank: int) -> None:
    """Log to the terminal and to ``output``/log.txt, from the first process only."""
    handlers: list[logging.Handler] = [logging.NullHandler()]
    if rank == 0:
        output.mkdir(parents=True, exist_ok=True)
        handlers = [logging.StreamHandler(sys.stdout), logging.FileHandler(output / "log.txt")]
    logging.basicConfig(
        level=logging.INFO,
        format="[%(asctime)s] %(message)s",
        datefmt="%m/%d %H:%M:%S",
        handlers=handlers,
        force=True,
    )


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        "Pre-train LRFormer's backbone on ImageNet, with one process or torchrun.", _EPILOG
    )
    add = parser.add_argument
    add("--data", required=True, help="folder with train/ and val/")
    add("--model", default="lrformer_tiny", choices=list(VARIANTS))
    add("--recipe", default="imagenet1k", choices=list(RECIPES))
    add("--output", help="folder to write (default: output/pretrain/<model>)")
    add("--resume", action="store_true", help="continue from last.pth in --output, if it is there")
    add("--weights", help="weights to start from or to evaluate; a file or URL")
    add("--eval-only", action="store_true", help="evaluate --weights on val/")
    add("--img-size", type=int, default=224, help="pixels (default: %(default)s)")
    add("--device", help="cuda or cpu (default: cuda where there is one)")
    add("--amp", default="auto", choices=precision.NAMES, help="data type of mixed precision")
    add("--grad-checkpointing", action="store_true", help="less memory, more computation")
    cores = min(8, os.cpu_count() or 1)
    add("--workers", type=int, default=cores, help="that load images, for each process that trains")
    add("--seed", type=int, default=0, help="(default: %(default)s)")
    kwargs = {"nargs": "*", "default": {}, "action": ParseKwargs, "metavar": "NAME=VALUE"}
    add("--model-kwargs", **kwargs, help="arguments of the model, for example pooled_size=16")
    group = parser.add_argument_group(f"values of the recipes {', '.join(RECIPES)}")
    for field in fields(Recipe):
        values = [str(getattr(recipe, field.name)) for recipe in RECIPES.values()]
        text = ", ".join(values if len(set(values)) > 1 else values[:1])
        group.add_argument(option(field.name), type=field.type, help=f"(default: {text})")
    return parser
