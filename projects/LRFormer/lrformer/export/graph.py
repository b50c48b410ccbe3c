"""Semantic segmentation models as one function of a batch of images, of any size."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..inference.network import Network
from ..layers.common import resize
from ..ops import exportable
from ..ops.exportable import pad_to_multiple

RESULTS = ("logits", "scores", "classes")


class SegmentationGraph(nn.Module):
    """A detectron2 segmentation model, normalisation and padding included.

    Args:
        model: ``SemanticSegmentor`` or :class:`~lrformer.modeling.mask2former.MaskFormer`, in eval
            mode; it is copied.
        divisor: images are padded inside the graph to multiples of it, as the model pads them.
        dtype: of weights and computation.
        result: what to return, of :data:`RESULTS`.
        engine: of :func:`~lrformer.ops.exportable.exportable`.
    """

    def __init__(
        self,
        model: nn.Module,
        divisor: int,
        dtype: torch.dtype,
        result: str,
        engine: str | None = None,
    ):
        super().__init__()
        self.divisor, self.dtype, self.result = divisor, dtype, result
        network = Network(model.backbone, model.sem_seg_head)
        self.network = exportable(copy.deepcopy(network), engine).to(dtype)
        # Apart from the weights, so that images are normalised in float32 always.
        self.register_buffer("pixel_mean", model.pixel_mean.clone())
        self.register_buffer("pixel_std", model.pixel_std.clone())
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Nx3xHxW of 0..255 to NxKxhxw float32 logits or scores, or to NxHxW classes."""
        height, width = image.shape[-2:]
        x = (image.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std
        x = pad_to_multiple(x.to(self.dtype), self.divisor)
        outputs, size = self.network(x), None if self.result == "logits" else x.shape[-2:]
        if isinstance(outputs, dict):
            scores = mask_scores(outputs["pred_logits"], outputs["pred_masks"], size)
        elif isinstance(outputs, tuple):  # of a head that enlarges its logits itself
            scores = outputs[0]
        else:
            scores = outputs if size is None else resize(outputs, size)
        if self.result == "logits":
            return scores
        scores = scores[..., :height, :width]
        if self.result == "scores":
            return scores
        return scores.argmax(dim=1).to(torch.uint8 if scores.shape[1] <= 256 else torch.int32)

    @torch.no_grad()
    def stride(self) -> int:
        """Of the result in the padded image."""
        if self.result != "logits":
            return 1
        side = 2 * self.divisor  # of one there are maps of one pixel, which norms refuse
        image = torch.zeros(1, 3, side, side, device=self.pixel_mean.device)
        return side // self(image).shape[-1]


def mask_scores(class_logits: Tensor, masks: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Sum over queries of class probability times mask: the semantic scores of Mask2Former.

    Args:
        class_logits: NxQx(K + 1).
        masks: NxQxhxw logits.
        size: (height, width) to which masks are enlarged; None: not.

    Returns:
        NxKxHxW, float32.
    """
    masks = masks.float()
    if size is not None:
        masks = F.interpolate(masks, size, mode="bilinear", align_corners=False)
    weights = class_logits.float().softmax(-1)[..., :-1].transpose(1, 2)
    return (weights @ masks.sigmoid().flatten(2)).unflatten(-1, masks.shape[-2:])
