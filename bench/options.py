"""What the commands' options have in common."""

import argparse
from collections.abc import Iterable, Mapping
from functools import partial

import torch

from lrformer import precision
from lrformer.ops.accelerate import fast_forms
from lrformer.ops.host_memory import keep_freed_memory

# Parts of a variant, and the class of lrformer.ops.accelerate that each leaves plain.
WITHOUT = {f"no-{plain.__name__}": plain.__name__ for plain in fast_forms()}


def add_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size",
        nargs=2,
        type=partial(positive, unit=32),
        default=(512, 512),
        metavar=("HEIGHT", "WIDTH"),
        help="of the images, multiples of 32 (default: 512 512)",
    )


def add_run(
    parser: argparse.ArgumentParser, parts: Mapping[str, str], batch: int, rounds: int
) -> None:
    """Options of what runs on a device; the defaults are the first part, ``batch``, ``rounds``."""
    first, known = next(iter(parts)), "; ".join(f"{part}: {what}" for part, what in parts.items())
    variants = f"of each model; parts joined by + ({known}); default: {first}"
    parser.add_argument("--variants", nargs="+", default=[first], metavar="VARIANT", help=variants)
    add_size(parser)
    parser.add_argument("--batch", type=positive, default=batch, help=f"default: {batch}")
    parser.add_argument("--rounds", type=positive, default=rounds, help=f"default: {rounds}")
    parser.add_argument("--threads", type=positive, help="on the CPU (default: PyTorch's choice)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, … (default: cpu)")
    parser.add_argument(
        "--release-memory",
        action="store_true",
        help="let freed memory go back to the system, as our tools do not; for all alike (CPUs)",
    )


def prepare_run(args: argparse.Namespace) -> dict[str, object]:
    """Set threads and allocator; what a report tells of the options. ValueError: without a GPU."""
    kind = torch.device(args.device).type
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {args.device}: PyTorch finds no GPU; use cpu")
    if args.threads:
        torch.set_num_threads(args.threads)
    size = f"{args.size[0]} × {args.size[1]}"
    conditions = {"size": size, "batch": args.batch, "rounds": args.rounds}
    if kind == "cpu":
        kept = not args.release_memory and keep_freed_memory()
        conditions["freed memory"] = "kept" if kept else "released"
    return conditions


def parse_parts(name: str, variant: str, known: Mapping[str, str], device: str) -> frozenset[str]:
    """The parts of a variant, which "+" joins.

    Raises:
        ValueError: a part that is not known, or a data type that the device is slow in.
    """
    parts = frozenset(variant.split("+"))
    if unknown := sorted(parts - set(known)):
        raise ValueError(f"{name}: there is no {unknown[0]!r}, only {', '.join(known)}")
    if len(parts & set(precision.DTYPES)) > 1:
        raise ValueError(f"{name}: one data type at most")
    precision.check_native(dtype_of(parts), device, name)
    return parts


def dtype_of(parts: Iterable[str]) -> str:
    return next((part for part in parts if part in precision.DTYPES), "float32")


def positive(text: str, unit: int = 1) -> int:
    """A multiple of ``unit`` above 0, for argparse."""
    if not text.isdigit() or int(text) % unit or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a multiple of {unit} above 0, not {text!r}")
    return int(text)
