"""Count parameters and FLOPs of LISA, part by part, without memory for its weights."""

import argparse
from collections.abc import Callable, Iterator

import torch
from detectron2.modeling import build_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lrformer import load_cfg
from lrformer.referring.model import STRIDE

from .counting import count_parameters
from .report import Record, Report, Table

CONFIGS = ("models/lisa_vit_l.yaml", "models/lisa_swin_l.yaml", "models/lisa_xl.yaml")
_WORDS = 40  # tokens of a question and its answer beside the image's


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = "default: with the backbones of the paper's Tab. 14"
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help=text)


def report(args: argparse.Namespace) -> Report:
    """Raises what ``load_cfg`` and building the model raise."""
    tables = [Table(list(records(config, args.opts)), config) for config in args.configs or CONFIGS]
    intro = (
        "One image of 1024 × 1024 and one phrase. FLOPs are multiply-adds of matrix products and "
        "convolutions, as PyTorch counts them."
    )
    return Report(tables, intro=intro)


def records(config: str, opts: list) -> Iterator[Record]:
    """Parameters and multiply-adds of each part of a config's model."""
    cfg = load_cfg(config, [*opts, "MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = build_model(cfg).eval()
        llava, decoder = model.language.llava, model.mask_decoder
        keys, side = cfg.MODEL.LISA, 1024 // STRIDE
        shapes = [model.backbone.output_shape()[name] for name in model.in_features]
        maps = [torch.zeros(1, s.channels, 1024 // s.stride, 1024 // s.stride) for s in shapes]
        embedding = torch.zeros(1, decoder.hidden_size, side, side)
        prompt = torch.zeros(1, 1, 1, decoder.hidden_size)
        pixels = torch.zeros(1, 3, keys.VISION.IMAGE_SIZE, keys.VISION.IMAGE_SIZE)
        tokens = torch.zeros(1, llava.config.image_seq_length + _WORDS, model.language.dim)

        def answer() -> None:
            llava.get_image_features(pixels)
            states = llava.model.language_model(inputs_embeds=tokens).last_hidden_state
            llava.lm_head(states)
            model.projection(states[:, 0])

        backbone = [model.backbone], lambda: model.backbone(torch.zeros(1, 3, 1024, 1024))
        neck = [model.neck], lambda: model.neck(maps, (side, side))
        decoding = (
            [model.prompt_encoder, decoder],
            lambda: decoder(embedding, embedding, prompt, embedding, multimask_output=False),
        )
        parts = {"backbone": backbone, "neck": neck, "SAM's mask decoder": decoding}
        parts["language model"] = [model.language, model.projection], answer
        found = [{"part": name, **_count(*part)} for name, part in parts.items()]
    yield from found
    sums = {key: sum(record[key] for record in found) for key in ("parameters", "flops")}
    yield {"part": "LISA", **sums}


def _count(modules: list[nn.Module], run: Callable[[], object]) -> dict[str, int]:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    parameters = sum(count_parameters(module) for module in modules)
    return {"parameters": parameters, "flops": counter.get_total_flops() // 2}
