"""Parameters and multiply-adds of a model."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn

from lrformer import load_cfg
from lrformer.layers import LRFormerBlock
from lrformer.layers.segformer import MiTBlock

from .models import Network, build_for_counting

_SDPA = "scaled_dot_product_attention"
_UPSAMPLING = "upsample_bilinear2d"


@dataclass(frozen=True)
class Counts:
    """Parameters, and multiply-adds of one image as fvcore counts them (the paper's convention).

    fvcore counts a multiply-add as one, and beside matrix products and convolutions also
    normalisation, pooling and interpolation, but no activation functions, sums or softmax.

    Attributes:
        parameters: frozen ones included.
        by_module: multiply-adds by module name; "" is the whole network.
        attention: of the encoder's attention as Tab. 12 has it: the products of queries with keys
            and of weights with values, and the upsampling of the result, without the linear layers.
        quadratic: of the same network with plain self-attention in place of LRSA, in the encoder
            and in the plain head: queries, keys and values are all positions of the map (four
            C x C linear layers, two products of N x N x C), nothing is pooled or upsampled.
    """

    parameters: int
    by_module: Mapping[str, float]
    attention: float
    quadratic: float

    @property
    def total(self) -> float:
        return self.by_module[""]


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def count(model: nn.Module, height: int, width: int) -> Counts:
    """Count the multiply-adds of one image, in one forward pass.

    Args:
        model: in eval mode: a detectron2 model with ``backbone`` and ``sem_seg_head.layers``, or a
            function of images, as a backbone. LRFormer+ is counted with the predictions of all its
            decoder layers, as in the paper, although only training computes those.
        height, width: of the network's input.
    """
    network = Network(model, every_layer=True) if hasattr(model, "sem_seg_head") else model
    sizes: dict[str, tuple[int, ...]] = {}
    blocks = {n: m for n, m in network.named_modules() if isinstance(m, LRFormerBlock)}
    hooks = [
        block.register_forward_pre_hook(
            lambda _, inputs, name=name: sizes.update({name: tuple(map(int, inputs[0].shape))})
        )
        for name, block in blocks.items()
    ]
    images = next(model.parameters()).new_zeros(1, 3, height, width)
    analysis = FlopCountAnalysis(network, images)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.set_op_handle(f"aten::{_SDPA}", _attention_products)
    analysis.set_op_handle(f"aten::{_UPSAMPLING}", _resizing(0, 4))
    analysis.set_op_handle("aten::adaptive_avg_pool2d", _resizing(1, 0))
    try:
        with torch.no_grad():
            flops, operators = analysis.by_module(), analysis.by_module_and_operator()
    finally:
        for hook in hooks:
            hook.remove()

    attention = sum(
        operators[name][_SDPA] + operators[name][_UPSAMPLING]
        for name, module in network.named_modules()
        if isinstance(module, (LRFormerBlock, MiTBlock)) and not name.startswith("sem_seg_head.")
    )
    quadratic = flops[""]
    for name, block in blocks.items():
        _, channels, *size = sizes[name]
        positions = math.prod(size)
        parts = (part for part, _ in block.named_children() if part != "attn")
        quadratic += sum(flops[f"{name}.{part}"] for part in parts) - flops[name]
        quadratic += 4 * positions * channels**2 + 2 * positions**2 * channels
    quadratic -= sum(flops[name] for name in flops if name.endswith("pyramid_convs"))
    return Counts(count_parameters(network), flops, attention, quadratic)


@cache
def counted(
    config: str, size: tuple[int, int], opts: tuple = (), backbone_only: bool = False
) -> Counts:
    """:func:`count` of a config's model or of its encoder alone, kept for the next time."""
    model = build_for_counting(load_cfg(config, opts))
    return count(model.backbone if backbone_only else model, *size)


def _attention_products(inputs, outputs) -> int:
    """Both matrix products of scaled_dot_product_attention, which fvcore does not know."""
    query, key, value = (x.type().sizes() for x in inputs[:3])
    *batch, queries, dim = query
    return math.prod(batch) * queries * key[-2] * (dim + value[-1])


def _resizing(per_input: int, per_output: int) -> Callable[[list, list], int]:
    """Pooling or interpolation as fvcore counts it; but nothing where the size stays."""

    def flops(inputs, outputs) -> int:
        before, after = inputs[0].type().sizes(), outputs[0].type().sizes()
        if before == after:
            return 0
        return per_input * math.prod(before) + per_output * math.prod(after)

    return flops
