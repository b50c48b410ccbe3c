"""What tools/train_net.py does: from a command line to a trained or evaluated model."""

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from lrformer import cli
from lrformer.checkpoint import check_weights_exist
from lrformer.config import find_config, load_cfg
from lrformer.data.own import register_data, with_data
from lrformer.evaluation import BEST_METRICS, RESULTS_FILES, evaluated_tasks, output_folder
from lrformer.inference import RuntimeOptions
from lrformer.modeling.build import load_model
from lrformer.ops.host_memory import keep_freed_memory
from lrformer.report import Report

from .launch import Place, find_place, launch, prepare
from .lr_range import find_rate
from .machine import adapt_to_machine
from .output import claim, tolerate_lost_lines
from .trainer import Trainer

logger = logging.getLogger(__name__)

_EPILOG = """
Examples:

  train on the GPU, or on the CPU if there is none:
    train_net.py --config-file camvid/lrformer_t.yaml OUTPUT_DIR output/camvid
  continue after a break:
    train_net.py --config-file camvid/lrformer_t.yaml --resume OUTPUT_DIR output/camvid
  evaluate:
    train_net.py --config-file camvid/lrformer_t.yaml --eval-only \\
        MODEL.WEIGHTS output/camvid/model_best.pth
  evaluate faster, in bfloat16 where the device has it (see TEST.RUNTIME in config.py):
    train_net.py --config-file camvid/lrformer_t.yaml --eval-only \\
        MODEL.WEIGHTS output/camvid/model_best.pth TEST.RUNTIME.DTYPE auto
  a page with scores, curves, and the best and worst images (also with --eval-only):
    train_net.py --config-file camvid/lrformer_t.yaml --report output/camvid/report \\
        OUTPUT_DIR output/camvid
  your own data (docs/own_data.md):
    train_net.py --config-file lrformer_s --data mine.yaml --weights lrformer_s_imagenet.pth
    train_net.py --config-file lrformer_s --data mine.yaml --find-lr
  eight GPUs, in three ways; the last is for SLURM:
    train_net.py --config-file ade20k/lrformer_s.yaml --num-gpus 8
    torchrun --nproc-per-node 8 tools/train_net.py --config-file ade20k/lrformer_s.yaml
    srun --ntasks-per-node 8 python tools/train_net.py --config-file ade20k/lrformer_s.yaml

Options come before the KEY VALUE pairs that override the config.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (that of the process where it is None).

    Returns:
        The exit code, see :mod:`lrformer.cli`; 1 if the training diverged.
    """
    parser = default_argument_parser(epilog=_EPILOG)
    parser.description = "Train or evaluate LRFormer."
    parser.add_argument(
        "--report",
        metavar="DIR",
        help="a page about the (last) evaluation: DIR/report.html",
    )
    cli.add_data_option(parser)
    parser.add_argument("--weights", metavar="FILE", help="MODEL.WEIGHTS: what to start from")
    text = "try learning rates for 100 iterations and say which one suits; trains nothing else"
    parser.add_argument("--find-lr", action="store_true", help=text)
    args = cli.parse(parser, argv)
    if not args.config_file:
        parser.error("--config-file is required, for example --config-file ade20k/lrformer_t.yaml")
    if args.find_lr and (args.eval_only or args.resume or args.report):
        parser.error("--find-lr tries rates alone: without --eval-only, --resume and --report")
    return cli.run(lambda: _launch(args))


def _launch(args: argparse.Namespace) -> None:
    place = find_place()
    cfg = _configure(args, place)
    # The first process writes for all, or starts the one that does.
    is_first = args.machine_rank == 0 if place is None else place.rank == 0
    with claim(cfg.OUTPUT_DIR, alone=not args.eval_only) if is_first else nullcontext():
        launch(run, cfg, args, place)


def run(cfg: CfgNode, args: argparse.Namespace) -> dict[str, Any]:
    """Train or evaluate, in each process.

    Args:
        cfg: not frozen.
        args: of detectron2's default parser.

    Returns:
        The results of the evaluation, see :meth:`Trainer.test`.

    Raises:
        ValueError, OSError: the config's values, the weights or the data cannot be used.
    """
    _set_up(cfg, args)
    adapt_to_machine(cfg)
    if args.data and comm.get_world_size() > 1:  # a process has catalogs of its own
        register_data(cfg, args.data)
    cfg.freeze()
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    if cfg.DATASETS.TEST:
        # The evaluation is perhaps hours later.
        options = RuntimeOptions.from_cfg(cfg)
        options.check(cfg.MODEL.DEVICE)
        if options.engine != "torch" and not args.eval_only:
            raise ValueError(
                f"TEST.RUNTIME.ENGINE {options.engine} is for --eval-only: a training would export "
                "the model at every evaluation; leave it torch"
            )
    if args.find_lr:
        logger.info(find_rate(cfg))
        return {}
    report = Report(cfg, args.report) if args.report else None
    if args.eval_only:
        Trainer.verify_datasets(cfg, cfg.DATASETS.TEST)
        for name in cfg.DATASETS.TEST:
            evaluated_tasks(cfg, name)  # for its errors, before the weights are read
        evaluators = report.build_evaluators() if report else None
        results = Trainer.test(cfg, load_model(cfg), evaluators)
    else:
        trainer = Trainer(cfg)
        trainer.last_evaluators = report.build_evaluators() if report else None
        trainer.resume_or_load(resume=args.resume)
        results = trainer.train()
    if comm.is_main_process():
        _summarize(cfg, results, trained=not args.eval_only)
        if report:
            weights = cfg.MODEL.WEIGHTS if args.eval_only else _last_weights(cfg)
            for file in report.write(args.config_file, weights):
                logger.info(f"report: {file}")
    return results


def _configure(args: argparse.Namespace, place: Place | None) -> CfgNode:
    if args.weights:
        args.opts = [*args.opts, "MODEL.WEIGHTS", args.weights]
    args.opts = with_data(args)
    cfg = load_cfg(args.config_file, args.opts)
    args.config_file = str(find_config(args.config_file))  # which detectron2 reads
    if args.num_gpus == 0:
        cfg.MODEL.DEVICE = "cpu"
    prepare(args, place, cfg.MODEL.DEVICE)
    if args.eval_only and not cfg.DATASETS.TEST:
        raise ValueError("--eval-only: DATASETS.TEST is empty, there is nothing to evaluate on")
    _find_weights(cfg, args)
    return cfg


def _find_weights(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Check ``MODEL.WEIGHTS``; for ``--eval-only --resume`` set it to the last checkpoint.

    On the first machine: without a shared disk the others have neither.
    """
    if args.machine_rank > 0:
        return
    checkpointer = DetectionCheckpointer(nn.Identity(), cfg.OUTPUT_DIR)
    if args.resume and checkpointer.has_checkpoint():
        last = checkpointer.get_checkpoint_file()
        if args.eval_only and not Path(last).is_file():
            raise ValueError(
                f"--resume: {cfg.OUTPUT_DIR}/last_checkpoint names {Path(last).name}, which does "
                "not exist; write the name of another checkpoint into it, or remove it"
            )
        if args.eval_only:
            cfg.MODEL.WEIGHTS = last
        return
    if args.eval_only and not cfg.MODEL.WEIGHTS:
        raise ValueError(
            "--eval-only needs trained weights: add MODEL.WEIGHTS <file>, for example "
            f"MODEL.WEIGHTS {Path(cfg.OUTPUT_DIR) / 'model_final.pth'}"
        )
    if cfg.MODEL.WEIGHTS:
        check_weights_exist(cfg.MODEL.WEIGHTS)


def _set_up(cfg: CfgNode, args: argparse.Namespace) -> None:
    """detectron2's set-up, with the environment, config and tracebacks in ``log.txt`` only.

    On the terminal their hundreds of lines would hide everything else; what is not expected ends
    the process with its traceback anyway.
    """
    folder, rank = cfg.OUTPUT_DIR, comm.get_rank()
    setup_logger(folder, distributed_rank=rank, name="lrformer")
    # The calls that default_setup makes; they are cached, so that the handlers are known before.
    setup_logger(folder, distributed_rank=rank, name="fvcore")
    handlers = setup_logger(folder, distributed_rank=rank).handlers
    tolerate_lost_lines("lrformer", "fvcore", "detectron2")
    terminal = [h for h in handlers if getattr(h, "stream", None) is sys.stdout]
    levels = [handler.level for handler in terminal]
    for handler in terminal:
        handler.setLevel(logging.WARNING)
    try:
        default_setup(cfg, args)
    finally:
        for handler, level in zip(terminal, levels, strict=True):
            handler.setLevel(level)
            handler.addFilter(lambda record: not record.exc_info)
    logger.info(f"the environment and the whole config are in {Path(folder) / 'log.txt'}")


def _summarize(cfg: CfgNode, results: dict[str, Any], trained: bool) -> None:
    """The last lines: the scores, and where everything is."""
    names = cfg.DATASETS.TEST
    for name in names:
        scores = results if len(names) == 1 else results[name]
        for task in evaluated_tasks(cfg, name):
            group, metric = BEST_METRICS[task].split("/")
            if group in scores:
                file = output_folder(cfg, name) / RESULTS_FILES.get(task, "")
                details = f" (each class: {file})" if file.is_file() else ""
                logger.info(f"{name}: {metric} {scores[group][metric]:.2f}{details}")
    if trained:
        last = _last_weights(cfg)
        best = Path(cfg.OUTPUT_DIR) / "model_best.pth"
        also = f", the best ones in {best}" if best.is_file() else ""
        logger.info(f"last weights in {last}{also}")


def _last_weights(cfg: CfgNode) -> str:
    return DetectionCheckpointer(nn.Identity(), cfg.OUTPUT_DIR).get_checkpoint_file()
