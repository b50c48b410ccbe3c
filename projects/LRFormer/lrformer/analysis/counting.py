"""Parameters, multiply-adds and activations of a model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
from fvcore.nn.jit_analysis import JitModelAnalysis
from fvcore.nn.jit_handles import generic_activation_jit
from torch import Tensor, nn

from ..engine.amp import cpu_has_bfloat16
from ..layers import LRFormerBlock
from ..modeling.mask2former.head import MaskFormerHead

_SDPA = "scaled_dot_product_attention"
_UPSAMPLING = "upsample_bilinear2d"
_POOLING = "adaptive_avg_pool2d"


def build_for_counting(cfg: CfgNode) -> nn.Module:
    """The model of ``cfg`` on the CPU with all values 0: what is counted does not depend on them.

    Drawing initial values is what takes time in building a large model, and counting takes a
    forward pass: it is in bfloat16 where the CPU computes in it.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    dtype = torch.bfloat16 if cpu_has_bfloat16() else torch.float32
    model = model.to(dtype).to_empty(device="cpu").eval()
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.zero_()
    return model


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in model.parameters())


@dataclass(frozen=True)
class Counts:
    """Multiply-adds of one image, as fvcore counts them (the paper's convention).

    fvcore counts a multiply-add as one, and beside matrix products and convolutions also
    normalisation, pooling and interpolation, but no activation functions, sums or softmax.

    Attributes:
        by_module: by module name; "" is the whole network.
        attention: of the encoder's attention as Tab. 12 has it: the products of queries with keys
            and of weights with values, and the upsampling of the result, without the linear layers.
        quadratic: of the same network with plain self-attention in place of LRSA, in the encoder
            and in the plain head: queries, keys and values are all positions of the map (four
            C x C linear layers, two products of N x N x C), nothing is pooled or upsampled.
    """

    by_module: Mapping[str, float]
    attention: float
    quadratic: float

    @property
    def total(self) -> float:
        return self.by_module[""]


class _PerPixel(nn.Module):
    """A detectron2 segmentation model from normalised images to the head's raw logits."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.backbone = model.backbone
        self.sem_seg_head = model.sem_seg_head
        self.train(model.training)

    def forward(self, images: Tensor):
        features = self.backbone(images)
        if not isinstance(self.sem_seg_head, MaskFormerHead):
            return self.sem_seg_head.layers(features)
        outputs = self.sem_seg_head.layers(features, aux=True)
        # The tracer takes no nested dicts.
        layers = [*outputs["aux_outputs"], outputs]
        return [layer[name] for layer in layers for name in ("pred_logits", "pred_masks")]


def count(model: nn.Module, height: int, width: int) -> Counts:
    """Count the multiply-adds of one image, in one forward pass.

    Args:
        model: a detectron2 model with ``backbone`` and ``sem_seg_head.layers``, or a backbone.
            LRFormer+ is counted with the predictions of all its decoder layers, as in the paper,
            although only training computes those.
        height, width: of the network's input.
    """
    network = _network(model)
    sizes: dict[str, tuple[int, ...]] = {}
    blocks = {n: m for n, m in network.named_modules() if isinstance(m, LRFormerBlock)}
    hooks = [
        block.register_forward_pre_hook(
            lambda _, inputs, name=name: sizes.update({name: tuple(map(int, inputs[0].shape))})
        )
        for name, block in blocks.items()
    ]
    analysis = FlopCountAnalysis(network, _images(model, height, width))
    analysis.set_op_handle(f"aten::{_SDPA}", _attention_products)
    try:
        by_module, operators = _run(analysis, network)
    finally:
        for hook in hooks:
            hook.remove()

    attention = 0.0
    quadratic = by_module[""]
    for name in blocks:
        products, upsampling = operators[name][_SDPA], operators[name][_UPSAMPLING]
        if not name.startswith("sem_seg_head."):
            attention += products + upsampling
        _, channels, *size = sizes[name]
        positions = math.prod(size)
        low_resolution = products + upsampling + operators[name][_POOLING]
        quadratic -= low_resolution + by_module[f"{name}.attn"]
        quadratic += 4 * positions * channels**2 + 2 * positions**2 * channels
    quadratic -= sum(flops for name, flops in by_module.items() if name.endswith("pyramid_convs"))
    return Counts(by_module, attention, quadratic)


def count_flops(model: nn.Module, height: int, width: int) -> Mapping[str, float]:
    """:attr:`Counts.by_module` of :func:`count`."""
    return count(model, height, width).by_module


def count_activations(model: nn.Module, height: int, width: int) -> Mapping[str, float]:
    """Values that convolutions and matrix products put out for one image, as fvcore counts them.

    Attention counts its output only: it is computed without the weights ever being stored.

    Args:
        model, height, width: of :func:`count`.

    Returns:
        Values by module name; "" is the whole network.
    """
    network = _network(model)
    analysis = ActivationCountAnalysis(network, _images(model, height, width))
    analysis.set_op_handle(f"aten::{_SDPA}", generic_activation_jit())
    return _run(analysis, network)[0]


def _network(model: nn.Module) -> nn.Module:
    return _PerPixel(model) if hasattr(model, "sem_seg_head") else model


def _images(model: nn.Module, height: int, width: int) -> Tensor:
    like = next(model.parameters())
    return torch.zeros(1, 3, height, width, device=like.device, dtype=like.dtype)


def _run(analysis: JitModelAnalysis, network: nn.Module) -> tuple[dict, dict]:
    """Counts by module, and by module and operator, in eval mode."""
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            return dict(analysis.by_module()), dict(analysis.by_module_and_operator())
    finally:
        network.train(training)


def _attention_products(inputs, outputs) -> int:
    """Both matrix products of scaled_dot_product_attention, which fvcore does not know."""
    query, key, value = (x.type().sizes() for x in inputs[:3])
    *batch, queries, dim = query
    return math.prod(batch) * queries * key[-2] * (dim + value[-1])
