"""What the command lines in tools/ and datasets/ share: options, overrides and exit codes.

One dialect: overrides of the config come last, as KEY VALUE pairs; lists are separated by spaces;
data types are called as PyTorch calls them. The exit code is 0; 1 if the work was done in part or
failed in the middle; 2 if the arguments, a config, a file or the data are at fault; 130 after
Ctrl-C.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

OVERRIDES = "KEY VALUE pairs that override the config come last: SOLVER.IMS_PER_BATCH 8."


def run(work: Callable[[], int | None]) -> int:
    """The exit code of a tool's ``work``; what a user can mend is one line on standard error.

    Args:
        work: returns an exit code, or None for 0. ValueError and OSError tell of what the user
            gave (a config, weights, a dataset, an option), FloatingPointError of a training that
            diverged. Any other exception is a bug and keeps its traceback.
    """
    try:
        return work() or 0
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError, FloatingPointError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1 if isinstance(error, FloatingPointError) else 2


def one_line(error: object) -> str:
    return " ".join(str(error).split())


def parser(description: str, epilog: str = "") -> argparse.ArgumentParser:
    """An argument parser that keeps the epilog's lines as they are."""
    return argparse.ArgumentParser(
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_model_options(group, weights: bool = True, config_required: bool = True) -> None:
    """``--config-file``, ``--weights`` and ``--device``, to a parser or a group of its options."""
    group.add_argument(
        "--config-file",
        required=config_required,
        metavar="FILE",
        help="a path, one below configs/, or a model's name for --data",
    )
    if weights:
        group.add_argument("--weights", metavar="FILE", help="checkpoint; default: MODEL.WEIGHTS")
    group.add_argument("--device", help="cpu, cuda, cuda:1, …; default: a GPU if there is one")
    add_data_option(group)


def add_data_option(group) -> None:
    """``--data``, which :func:`lrformer.data.own.with_data` turns into KEY VALUE pairs."""
    group.add_argument("--data", metavar="FILE", help="a yaml of your own data (docs/own_data.md)")


def check_model_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse a model without weights, or without a config unless it was exported."""
    # Not above: what only needs the exit codes runs without PyTorch.
    from lrformer.inference.exported import SUFFIXES

    if not args.weights and "MODEL.WEIGHTS" not in args.opts[::2]:
        parser.error("no weights: give --weights FILE; an untrained model's predictions are random")
    if not args.config_file and Path(args.weights or "").suffix not in SUFFIXES:
        parser.error("--config-file is required, but for weights that export.py wrote")


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse ``argv`` (that of the process where it is None) with KEY VALUE pairs at its end.

    Returns:
        The parser's namespace, with the pairs as the list ``opts``.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    start = next((i for i, text in enumerate(argv) if _is_key(text)), len(argv))
    args = parser.parse_args(argv[:start])
    args.opts = argv[start:]
    misplaced = [text for text in args.opts[::2] if text.startswith("-")]
    if misplaced:
        parser.error(f"{misplaced[0]} comes after a KEY VALUE pair; options come before")
    return args


def _is_key(text: str) -> bool:
    """Whether it names a config key, as a file of that name does not."""
    # Not above: what only needs the exit codes runs without detectron2.
    from detectron2.config import CfgNode, get_cfg

    section, dot, _ = text.partition(".")
    value = get_cfg().get(section) if text.isupper() else None
    is_key = bool(dot) == isinstance(value, CfgNode)
    return value is not None and is_key and not Path(text).exists()
