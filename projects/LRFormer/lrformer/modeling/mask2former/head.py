"""Mask2Former's head: pixel decoder and transformer decoder."""

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from ..heads.per_pixel import wanted_features
from .transformer_decoder import build_transformer_decoder


@SEM_SEG_HEADS_REGISTRY.register()
class MaskFormerHead(nn.Module):
    """Backbone features to a class and a mask for every query."""

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        pixel_decoder: nn.Module,
        transformer_predictor: nn.Module,
        deep_supervision: bool = True,
    ):
        """
        Args:
            num_classes: classes without "no object".
            pixel_decoder: gives mask features and maps (``forward_features``).
            transformer_predictor: gives classes and masks from them.
            deep_supervision: in training, predict after every layer.
        """
        super().__init__()
        self.num_classes = num_classes
        self.pixel_decoder = pixel_decoder
        self.predictor = transformer_predictor
        self.deep_supervision = deep_supervision

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        keys = cfg.MODEL.SEM_SEG_HEAD
        input_shape = wanted_features(cfg, input_shape)
        source = cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE
        if source != "multi_scale_pixel_decoder":
            raise ValueError(
                f"MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE is {source!r}; the decoders here take "
                "'multi_scale_pixel_decoder' only"
            )
        return {
            "num_classes": keys.NUM_CLASSES,
            "pixel_decoder": build_pixel_decoder(cfg, input_shape),
            "transformer_predictor": build_transformer_decoder(cfg, keys.CONVS_DIM),
            "deep_supervision": cfg.MODEL.MASK_FORMER.DEEP_SUPERVISION,
        }

    def forward(self, features: dict[str, Tensor]) -> dict:
        """:meth:`layers`."""
        return self.layers(features)

    def layers(self, features: dict[str, Tensor], aux: bool | None = None) -> dict:
        """Raw predictions.

        Args:
            features: NxCxhxw maps by name.
            aux: whether to return the predictions before the last layer too; None: where they are
                trained.

        Returns:
            {"pred_logits": NxQx(classes + 1), "pred_masks": NxQxHxW logits at stride 4,
            "aux_outputs": list of the same two for the layers before the last}.
        """
        if aux is None:
            aux = self.training and self.deep_supervision
        mask_features, maps = self.pixel_decoder.forward_features(features)
        return self.predictor(maps, mask_features, aux)


def build_pixel_decoder(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """The pixel decoder that MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME names.

    Raises:
        ValueError: there is none of that name.
    """
    name = cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME
    known = {n: c for n, c in SEM_SEG_HEADS_REGISTRY if hasattr(c, "forward_features")}
    if name not in known:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME is {name!r}; there is no such pixel decoder "
            f"here, only {', '.join(known)}"
        )
    return known[name](cfg, input_shape)
