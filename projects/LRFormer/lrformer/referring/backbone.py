"""What LISA sees images with: a backbone, and the neck that makes one map of its features."""

import timm
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from ..layers.common import resize

# What lets timm's transformers take images of any size.
_ANY_SIZE = {"vit": {"dynamic_img_size": True}, "swin": {"strict_img_size": False}}


class TimmBackbone(Backbone):
    """A model of timm with detectron2's interface: features "0", "1", …, coarser and coarser.

    Weights come by ``MODEL.WEIGHTS``. ValueError where timm has no such model.
    """

    size_divisibility = 32

    def __init__(self, name: str):
        super().__init__()
        if not timm.is_model(name):
            raise ValueError(f"MODEL.LISA.TIMM_BACKBONE: timm has no model {name!r}")
        options = _ANY_SIZE.get(name.partition("_")[0], {})
        self.model = timm.create_model(name, features_only=True, **options)
        self._last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised Nx3xHxW images to {feature: NxCxhxw}."""
        maps = [y.permute(0, 3, 1, 2) if self._last else y for y in self.model(x)]
        return dict(zip(self.output_shape(), maps, strict=True))

    def output_shape(self) -> dict[str, ShapeSpec]:
        info = self.model.feature_info
        shapes = zip(info.channels(), info.reduction(), strict=True)
        return {str(i): ShapeSpec(channels=c, stride=s) for i, (c, s) in enumerate(shapes)}


class Neck(nn.Module):
    """Maps of several strides to one, of stride 16.

    Each is projected and brought to the size of the result; their sum is smoothed as at the end of
    SAM's image encoder.
    """

    def __init__(self, in_channels: list[int], dim: int = 256):
        super().__init__()
        self.projections = nn.ModuleList(nn.Conv2d(c, dim, 1) for c in in_channels)
        self.smooth = nn.Sequential(
            LayerNorm2d(dim), nn.Conv2d(dim, dim, 3, padding=1, bias=False), LayerNorm2d(dim)
        )

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Maps NxCxhxw to Nxdimx``size``."""
        projected = [project(x) for project, x in zip(self.projections, maps, strict=True)]
        return self.smooth(sum(_to_size(x, size) for x in projected))


def _to_size(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.adaptive_avg_pool2d(x, size) if x.shape[-1] > size[-1] else resize(x, size)
