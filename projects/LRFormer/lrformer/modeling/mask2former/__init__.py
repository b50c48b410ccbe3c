"""Mask2Former; importing this registers it with detectron2."""

from .head import MaskFormerHead
from .meta_arch import MaskFormer
from .pixel_decoder import MSDeformAttnPixelDecoder
from .transformer_decoder import (
    TRANSFORMER_DECODER_REGISTRY,
    MultiScaleMaskedTransformerDecoder,
)

__all__ = [
    "TRANSFORMER_DECODER_REGISTRY",
    "MSDeformAttnPixelDecoder",
    "MaskFormer",
    "MaskFormerHead",
    "MultiScaleMaskedTransformerDecoder",
]
