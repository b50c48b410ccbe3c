"""RTFormer's encoder as a detectron2 backbone."""

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor

from ...layers import RTFormerEncoder
from ..norm import norm_layer
from .staged import STRIDES


@BACKBONE_REGISTRY.register()
class RTFormer(RTFormerEncoder, Backbone):
    """RTFormer with detectron2's interface: features res2 to res5, and "aux" for training."""

    strides = {**STRIDES, "aux": 8}

    @configurable
    def __init__(self, **encoder):
        """As :class:`lrformer.layers.RTFormerEncoder`."""
        super().__init__(**encoder)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        keys = cfg.MODEL.RTFORMER
        return {
            "in_chans": input_shape.channels,
            "width": keys.WIDTH,
            "pooled_size": keys.POOLED_SIZE,
            "scale_by_width": keys.SCALE_BY_WIDTH,
            "injection": keys.INJECTION,
            "drop_path_rate": keys.DROP_PATH_RATE,
            "norm": norm_layer(keys.NORM, cfg.MODEL.DEVICE, keys.NORM_MOMENTUM),
        }

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised Nx3xHxW images to {feature: NxCxceil(H/stride)xceil(W/stride)}."""
        return dict(zip(self.strides, self.forward_stages(x), strict=True))

    @property
    def size_divisibility(self) -> int:
        return 32

    def output_shape(self) -> dict[str, ShapeSpec]:
        dims = dict(zip(self.strides, self.embed_dims, strict=True))
        return {name: ShapeSpec(channels=dims[name], stride=s) for name, s in self.strides.items()}
