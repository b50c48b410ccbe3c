"""How large a model is and what it computes."""

import math
from collections.abc import Mapping

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn


def build_for_counting(cfg: CfgNode) -> nn.Module:
    """The model of ``cfg`` on the CPU with all values 0: what is counted does not depend on them.

    Drawing initial values is what takes time in building a large model.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    model = model.to_empty(device="cpu").eval()
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.zero_()
    return model


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in model.parameters())


def _attention_flops(inputs, outputs) -> int:
    """Both matrix products of scaled_dot_product_attention, which fvcore does not know."""
    query, key, value = (x.type().sizes() for x in inputs[:3])
    *batch, queries, dim = query
    return math.prod(batch) * queries * key[-2] * (dim + value[-1])


class _PerPixel(nn.Module):
    """A detectron2 segmentation model from normalised images to the head's raw logits."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.backbone = model.backbone
        self.head = model.sem_seg_head

    def forward(self, images: Tensor):
        outputs = self.head.layers(self.backbone(images))
        if isinstance(outputs, Tensor):
            return outputs
        # The tracer takes no nested dicts.
        layers = [*outputs["aux_outputs"], outputs]
        return [layer[name] for layer in layers for name in ("pred_logits", "pred_masks")]


def count_flops(model: nn.Module, height: int, width: int) -> Mapping[str, float]:
    """Multiply-adds of one image, as fvcore counts them (the paper's convention).

    Args:
        model: a detectron2 model with ``backbone`` and ``sem_seg_head.layers``, or a backbone.
            LRFormer+ is counted with the predictions of all its decoder layers, as in the paper,
            although only training computes those.
        height, width: of the network's input.

    Returns:
        Multiply-adds by module name; "" is the whole network.
    """
    network = _PerPixel(model) if hasattr(model, "sem_seg_head") else model
    device = next(model.parameters()).device
    training = network.training
    analysis = FlopCountAnalysis(network.eval(), torch.zeros(1, 3, height, width, device=device))
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_flops)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with torch.no_grad():
        flops = dict(analysis.by_module())
    network.train(training)
    return flops
