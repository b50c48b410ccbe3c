"""What tools/pretrain_imagenet.py does: from a command line to a trained or evaluated model."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
import torch.distributed as dist
from timm.data import ImageDataset
from timm.utils import ParseKwargs, init_distributed_device
from torch import nn

from lrformer.layers.variants import VARIANTS

from . import recipe as recipes
from .checkpoint import load_weights
from .data import build_loader, check_batch, class_names, open_folders, open_split
from .recipe import RECIPES, Recipe
from .trainer import BEST, LAST, Machine, Pretraining, evaluate

logger = logging.getLogger(__name__)

_AMP = {"off": None, "bfloat16": torch.bfloat16, "float16": torch.float16}

_EPILOG = """
The dataset is a folder with train/<class>/*.jpg and val/<class>/*.jpg. ImageNet-22K has no
validation images: move some of the training images into val/.

A learning rate that is not given is the recipe's, scaled linearly with --batch-size. --output gets
last.pth and best.pth (by top-1), which can be MODEL.WEIGHTS of any config with the same backbone,
log.txt, summary.csv and summary.json.

Examples:

  LRFormer-T on ImageNet-1K with eight GPUs:
    torchrun --nproc-per-node 8 tools/pretrain_imagenet.py --data imagenet --model lrformer_tiny
  continue after a break:
    … the same command with --resume
  evaluate:
    pretrain_imagenet.py --data imagenet --model lrformer_tiny --eval-only \\
        --weights output/pretrain/lrformer_tiny/best.pth
  ImageNet-22K, then ImageNet-1K:
    pretrain_imagenet.py --data imagenet22k --model lrformer_large --recipe imagenet22k \\
        --output output/pretrain/22k
    pretrain_imagenet.py --data imagenet --model lrformer_large --recipe finetune \\
        --weights output/pretrain/22k/last.pth
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (that of the process where it is None).

    Returns:
        The exit status: 0; 2 if the arguments, the files or the data are at fault, with one line on
        standard error; 1 if the training diverged; 130 if it was stopped.
    """
    args = _parser().parse_args(argv)
    first = os.environ.get("RANK", "0") == "0"
    try:
        run(args)
    except (ValueError, OSError, FloatingPointError) as error:
        if first:
            print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, FloatingPointError) else 2
    except KeyboardInterrupt:
        return 130
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
    return 0


def run(args: argparse.Namespace) -> None:
    """Train or evaluate, in each process.

    Raises:
        ValueError: the arguments, the files or the data cannot be used.
        FloatingPointError: the training diverged.
    """
    output = Path(args.output or Path("output") / "pretrain" / args.model)
    recipe = RECIPES[args.recipe].changed(**{key: getattr(args, key) for key in recipes.names()})
    if args.eval_only:
        if not args.weights:
            raise ValueError(f"--eval-only needs --weights, for example {output / BEST}")
        splits = [open_split(args.data, "val")]
        classes = class_names(splits[0])
    else:
        *splits, classes = open_folders(args.data)
    machine = _machine(args)
    _log_to(output, machine.rank)
    model = _model(args, recipe, classes, machine.device)
    if args.eval_only:
        _evaluate(args, model, splits[0], recipe.batch_size, machine, output)
    else:
        _train(args, model, recipe, splits, classes, machine, output)


def _train(
    args: argparse.Namespace,
    model: nn.Module,
    recipe: Recipe,
    splits: Sequence[ImageDataset],
    classes: list[str],
    machine: Machine,
    output: Path,
) -> None:
    check_batch(recipe, len(splits[0]), machine.world_size)
    last = output / LAST
    if last.is_file() and not args.resume:
        raise ValueError(f"{last} exists; continue with --resume, or give another --output")
    training = Pretraining(
        model,
        recipe,
        *splits,
        img_size=args.img_size,
        settings={
            "model": args.model,
            "model_kwargs": dict(args.model_kwargs),
            "classes": classes,
        },
        machine=machine,
        output=output,
        seed=args.seed,
        log_interval=args.log_interval,
    )
    if last.is_file():
        training.resume(last)
    precision = str(machine.dtype or torch.float32).removeprefix("torch.")
    logger.info(
        f"{args.model}, {len(classes)} classes, {len(splits[0])} training and {len(splits[1])} "
        f"validation images at {args.img_size}x{args.img_size}, {machine.world_size} process(es) "
        f"on {machine.device.type}, {precision}"
    )
    logger.info(f"recipe {args.recipe}: {recipe}")
    training.run()
    logger.info(f"last weights in {last}, the best ones in {output / BEST}")


def _evaluate(
    args: argparse.Namespace,
    model: nn.Module,
    val_set: ImageDataset,
    batch_size: int,
    machine: Machine,
    output: Path,
) -> None:
    loader = build_loader(
        val_set,
        args.img_size,
        max(1, batch_size // machine.world_size),
        recipe=None,
        data_cfg=model.pretrained_cfg,
        device=machine.device,
        distributed=machine.world_size > 1,
        workers=machine.workers,
    )
    scores = evaluate(model, loader, machine)
    logger.info(f"{args.weights}: top-1 {scores['top1']:.2f}, top-5 {scores['top5']:.2f}")
    if machine.rank == 0:
        text = json.dumps({"weights": args.weights, "images": len(val_set), **scores}, indent=1)
        (output / "eval.json").write_text(text, encoding="utf-8")


def _model(
    args: argparse.Namespace, recipe: Recipe, classes: list[str], device: torch.device
) -> nn.Module:
    # The same weights in every process.
    torch.manual_seed(args.seed)
    try:
        model = timm.create_model(
            args.model,
            num_classes=len(classes),
            drop_path_rate=recipe.drop_path,
            **args.model_kwargs,
        )
    except TypeError as error:
        raise ValueError(f"--model-kwargs: {error}") from error
    if args.weights:
        problem = load_weights(model, args.weights, keep_classifier=args.eval_only)
        logger.info(
            f"{args.weights} loaded"
            + (f", but the classifier starts anew: {problem}" if problem else "")
        )
    model.set_grad_checkpointing(args.grad_checkpointing)
    return model.to(device, memory_format=torch.channels_last)


def _machine(args: argparse.Namespace) -> Machine:
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda"):
        found, needed = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", 0)) + 1
        if found < needed:
            raise ValueError(
                f"--device {device}: PyTorch finds {found} GPU(s), {needed} needed; --device cpu "
                "computes without"
            )
        torch.backends.cudnn.benchmark = True
    processes = argparse.Namespace(device=device)
    device = init_distributed_device(processes)
    if args.amp != "auto":
        dtype = _AMP[args.amp]
    elif device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = torch.bfloat16 if native else torch.float16
    else:
        dtype = None
    return Machine(device, processes.rank, processes.world_size, dtype, args.workers)


def _log_to(output: Path, rank: int) -> None:
    """Log to the terminal and to ``output``/log.txt, from the first process only."""
    log = logging.getLogger("lrformer")
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    log.propagate = False
    if rank:
        log.addHandler(logging.NullHandler())
        return
    output.mkdir(parents=True, exist_ok=True)
    log.setLevel(logging.INFO)
    formatter = logging.Formatter("[%(asctime)s] %(message)s", "%m/%d %H:%M:%S")
    for handler in (logging.StreamHandler(sys.stdout), logging.FileHandler(output / "log.txt")):
        handler.setFormatter(formatter)
        log.addHandler(handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Pre-train LRFormer's backbone on ImageNet, with one process or torchrun.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", required=True, help="folder with train/ and val/")
    add("--model", default="lrformer_tiny", choices=list(VARIANTS))
    add("--recipe", default="imagenet1k", choices=list(RECIPES))
    add("--output", help="folder to write (default: output/pretrain/<model>)")
    add("--resume", action="store_true", help="continue from last.pth in --output, if it is there")
    add("--weights", help="weights to start from or to evaluate; a file or URL")
    add("--eval-only", action="store_true", help="evaluate --weights on val/")
    add("--img-size", type=_at_least(1), default=224, help="pixels (default: %(default)s)")
    add("--device", help="cuda or cpu (default: cuda where there is one)")
    add(
        "--amp",
        default="auto",
        choices=["auto", *_AMP],
        help="mixed precision (default: bfloat16, or float16 on GPUs without it; off on a CPU)",
    )
    add("--grad-checkpointing", action="store_true", help="less memory, more computation")
    add(
        "--workers",
        type=_at_least(0),
        default=min(8, os.cpu_count() or 1),
        help="loading processes, for each process that trains (default: %(default)s)",
    )
    add("--seed", type=_at_least(0), default=0, help="(default: %(default)s)")
    add("--log-interval", type=_at_least(1), default=50, help="batches (default: %(default)s)")
    add(
        "--model-kwargs",
        nargs="*",
        default={},
        action=ParseKwargs,
        metavar="NAME=VALUE",
        help="arguments of the model, for example pooled_size=16",
    )
    group = parser.add_argument_group("values of the recipe")
    for name, kind in recipes.names().items():
        group.add_argument(
            recipes.option(name), type=kind, help=f"(default: {recipes.describe(name)})"
        )
    return parser


def _at_least(minimum: int):
    """An argparse type: integers from ``minimum``."""

    def whole_number(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, not {value}")
        return value

    return whole_number
