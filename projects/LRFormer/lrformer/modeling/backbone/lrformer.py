"""LRFormer as a detectron2 backbone."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone

from ...layers import LRFormerEncoder
from ..norm import norm_layer
from .staged import StagedBackbone


@BACKBONE_REGISTRY.register()
class LRFormer(StagedBackbone, LRFormerEncoder, Backbone):
    """The LRFormer encoder with detectron2's interface: a dict of features of strides 4 to 32."""

    keys = "LRFORMER"

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        keys = cfg.MODEL.LRFORMER
        return {
            **super().from_config(cfg, input_shape),
            "layer_scale_init": keys.LAYER_SCALE_INIT,
            "pre_norm_blocks": keys.PRE_NORM_BLOCKS,
            "pooled_size": keys.POOLED_SIZE,
            "pyramid_sizes": keys.PYRAMID_SIZES,
            "positional_conv": keys.POSITIONAL_CONV,
            "ffn_conv": keys.FFN_CONV,
            "norm": norm_layer(keys.NORM, cfg.MODEL.DEVICE),
        }
