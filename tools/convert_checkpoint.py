"""Convert checkpoints: other names, another format, for transformers, their mean."""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from lrformer import cli
from lrformer.checkpoint.convert import convert
from lrformer.config import load_cfg
from lrformer.data.own import with_data

_EPILOG = """
examples:
  convert_checkpoint.py lrformer_s_ade20k.pth --layout ours --output lrformer_s.safetensors
  convert_checkpoint.py output/camvid/model_final.pth --output model.pth
  convert_checkpoint.py output/camvid/model_best.pth --layout released --output released.pth
  convert_checkpoint.py output/camvid/model_00*.pth --average --output mean.pth
  convert_checkpoint.py model_best.pth --layout hf --config-file camvid/lrformer_t.yaml --output hf

MODEL.WEIGHTS takes all of these files as they are; nothing has to be converted to be loaded.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (that of the process where it is None); the exit code."""
    args = _parse(argv)

    def work() -> None:
        if args.layout == "hf":
            if importlib.util.find_spec("transformers") is None:
                raise ValueError("--layout hf needs transformers: pip install 'lrformer[hf]'")
            from lrformer.hf.convert import save_pretrained

            cfg = load_cfg(args.config_file, with_data(args))
            options = args.overwrite, args.allow_pickle, args.push_to_hub
            lines = save_pretrained(cfg, *args.input, args.output, *options)
        else:
            lines = convert(args.input, args.output, args.layout, args.overwrite, args.allow_pickle)
        print(*lines, sep="\n")

    return cli.run(work)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(__doc__, _EPILOG)
    parser.add_argument(
        "input",
        nargs="+",
        metavar="FILE",
        help="checkpoint: a path, URL or hf://owner/repository/file",
    )
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="FILE",
        help=".pth, .pt or .safetensors; of --layout hf a folder",
    )
    parser.add_argument(
        "--layout",
        choices=("ours", "released", "hf"),
        help="whose parameter names to write; default: the input's. hf: a folder for transformers",
    )
    parser.add_argument("--config-file", metavar="FILE", help="the model's, for --layout hf")
    parser.add_argument(
        "--push-to-hub", metavar="OWNER/REPOSITORY", help="with --layout hf: also upload the folder"
    )
    parser.add_argument("--average", action="store_true", help="write the mean of the inputs")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="also load pickles of more than tensors, which may run any code",
    )
    cli.add_data_option(parser)
    args = cli.parse(parser, argv)
    args.weights = args.input[0]
    if args.average != (len(args.input) > 1):
        parser.error(
            "--average needs several checkpoints"
            if args.average
            else f"{len(args.input)} checkpoints are given; add --average to write their mean"
        )
    is_folder = args.layout == "hf"
    if (args.config_file is not None) != is_folder or (is_folder and args.average):
        parser.error(
            "--layout hf, and nothing else, needs a --config-file, and takes one checkpoint"
        )
    if (args.push_to_hub or args.data or args.opts) and not is_folder:
        parser.error("--push-to-hub, --data and KEY VALUE pairs are for --layout hf")
    return args


if __name__ == "__main__":
    sys.exit(main())
