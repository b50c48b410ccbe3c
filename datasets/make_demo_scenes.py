"""Write the demo scenes, the embedded default dataset: street scenes with labels and objects."""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from demo.dataset import class_shares, write_demo_scenes
from lrformer.cli import run
from lrformer.data.prepare import argument_parser


def main(argv: list[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    number = partial(parser.add_argument, type=int)
    number("--train", dest="num_train", default=600, help="number of training scenes")
    number("--val", dest="num_val", default=80, help="number of held-out scenes")
    number("--height", default=192, help="of the images, in pixels")
    number("--width", default=256, help="of the images, in pixels")
    number("--seed", default=0, help="the same seed gives the same scenes")
    args = parser.parse_args(argv)

    def work() -> None:
        path, rendered = write_demo_scenes(**vars(args))
        reused = args.num_train + args.num_val - rendered
        print(f"{path}: {rendered} scenes rendered, {reused} reused")
        shares = class_shares(path).items()
        print("pixels: " + ", ".join(f"{name} {share:.1%}" for name, share in shares))

    return run(work)


if __name__ == "__main__":
    sys.exit(main())
