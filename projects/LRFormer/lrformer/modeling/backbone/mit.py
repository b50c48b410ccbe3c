"""MiT, SegFormer's encoder, as a detectron2 backbone."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone

from ...layers import MiTEncoder
from .staged import StagedBackbone


@BACKBONE_REGISTRY.register()
class MixVisionTransformer(StagedBackbone, MiTEncoder, Backbone):
    """MiT with detectron2's interface: a dict of features of strides 4 to 32."""

    keys = "MIT"

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        sr_ratios = {"sr_ratios": cfg.MODEL.MIT.SR_RATIOS}
        return super().from_config(cfg, input_shape) | sr_ratios
