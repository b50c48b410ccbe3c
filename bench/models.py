"""Models as functions of normalised images: ours from configs, others from Hugging Face."""

import importlib.util

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn

from lrformer.modeling.mask2former.head import MaskFormerHead
from lrformer.precision import has_bfloat16

# Hidden sizes, depths and the decoder's width: SegFormer (arXiv 2105.15203), appendix, Tab. 6. The
# FFN's expansion is 4 throughout, as in the released models.
_SEGFORMERS = {
    "segformer-b0": ((32, 64, 160, 256), (2, 2, 2, 2), 256),
    "segformer-b1": ((64, 128, 320, 512), (2, 2, 2, 2), 256),
    "segformer-b2": ((64, 128, 320, 512), (3, 4, 6, 3), 768),
    "segformer-b3": ((64, 128, 320, 512), (3, 4, 18, 3), 768),
    "segformer-b4": ((64, 128, 320, 512), (3, 8, 27, 3), 768),
    "segformer-b5": ((64, 128, 320, 512), (3, 6, 40, 3), 768),
}
PEERS = tuple(_SEGFORMERS)


class Network(nn.Module):
    """A detectron2 model from normalised Nx3xHxW images to what it has before enlarging it.

    That is a list of tensors: logits at the head's stride, or queries' logits and masks, with
    ``every_layer`` of all decoder layers, as in training.
    """

    def __init__(self, model: nn.Module, every_layer: bool = False):
        super().__init__()
        self.backbone, self.sem_seg_head = model.backbone, model.sem_seg_head
        self.every_layer = every_layer
        self.train(model.training)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.backbone(images)
        if not isinstance(self.sem_seg_head, MaskFormerHead):
            return [self.sem_seg_head.layers(features)]
        found = self.sem_seg_head.layers(features, aux=self.every_layer)
        layers = [*found["aux_outputs"], found] if self.every_layer else [found]
        return [layer[name] for layer in layers for name in ("pred_logits", "pred_masks")]


def build_for_counting(cfg: CfgNode) -> nn.Module:
    """The config's model in eval mode on the CPU, all values 0: counts do not depend on them.

    Drawing initial values is what takes time in building a large model, and counting takes a
    forward pass: it is in bfloat16 where the CPU computes in it.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    dtype = torch.bfloat16 if has_bfloat16("cpu") else torch.float32
    model = model.to(dtype).to_empty(device="cpu").eval()
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.zero_()
    return model


class Peer(nn.Module):
    """A model of transformers as a function like :class:`Network`."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.model(images).logits]


def build_peer(name: str, num_classes: int = 150) -> Peer:
    """One of :data:`PEERS`, randomly initialised, in eval mode; ValueError without transformers."""
    if importlib.util.find_spec("transformers") is None:
        raise ValueError(
            f"{name} is built by transformers, which is not installed: pip install transformers"
        )
    import transformers as hf

    sizes, depths, width = _SEGFORMERS[name]
    config = hf.SegformerConfig(
        hidden_sizes=sizes,
        depths=depths,
        decoder_hidden_size=width,
        num_attention_heads=(1, 2, 5, 8),
        sr_ratios=(8, 4, 2, 1),
        mlp_ratios=(4, 4, 4, 4),
        num_labels=num_classes,
    )
    return Peer(hf.SegformerForSemanticSegmentation(config)).eval()
