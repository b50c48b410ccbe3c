"""Other architectures, as Hugging Face's transformers builds them, randomly initialised."""

import importlib.util

from torch import Tensor, nn

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
_MASK2FORMER = "mask2former-swin-t"
PEERS = (*_SEGFORMERS, _MASK2FORMER)


class Peer(nn.Module):
    """Normalised Nx3xHxW images to what LRFormer's networks give.

    That is logits NxKxhxw at the network's own stride, or {"pred_logits": NxQx(K + 1),
    "pred_masks": NxQxhxw}.

    Args:
        model: of transformers.
        outputs: the names of its outputs, by ours; a string where there is only one.
    """

    size_divisibility = 32

    def __init__(self, model: nn.Module, outputs: str | dict[str, str]):
        super().__init__()
        self.model = model
        self.outputs = outputs

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        found = self.model(images)
        if isinstance(self.outputs, str):
            return found[self.outputs]
        return {ours: found[theirs] for ours, theirs in self.outputs.items()}


def build_peer(name: str, num_classes: int) -> Peer:
    """A peer in eval mode, on the CPU.

    Args:
        name: of :data:`PEERS`.
        num_classes: classes to predict.

    Raises:
        ValueError: there is none of that name.
        ImportError: transformers is not installed.
    """
    if name not in PEERS:
        raise ValueError(f"there is no peer {name!r}, only {', '.join(PEERS)}")
    if importlib.util.find_spec("transformers") is None:
        raise ImportError(
            f"{name} is built by transformers, which is not installed: pip install transformers"
        )
    peer = _mask2former(num_classes) if name == _MASK2FORMER else _segformer(name, num_classes)
    return peer.eval()


def _segformer(name: str, num_classes: int) -> Peer:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    sizes, depths, width = _SEGFORMERS[name]
    config = SegformerConfig(
        hidden_sizes=sizes,
        depths=depths,
        decoder_hidden_size=width,
        num_attention_heads=(1, 2, 5, 8),
        sr_ratios=(8, 4, 2, 1),
        mlp_ratios=(4, 4, 4, 4),
        num_labels=num_classes,
    )
    return Peer(SegformerForSemanticSegmentation(config), "logits")


def _mask2former(num_classes: int) -> Peer:
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        SwinConfig,
    )

    swin = SwinConfig(
        embed_dim=96,
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        window_size=7,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(backbone_config=swin, num_labels=num_classes)
    names = {"pred_logits": "class_queries_logits", "pred_masks": "masks_queries_logits"}
    return Peer(Mask2FormerForUniversalSegmentation(config), names)
