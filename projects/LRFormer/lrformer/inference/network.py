"""A model in three steps: its images prepared, its network run, its predictions made.

The network is what an engine runs. Everything before and after it stays PyTorch.
"""

from contextlib import nullcontext
from typing import Any

import torch
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..layers.common import resize
from ..modeling.heads import PerPixelHead
from ..ops.resize import Size
from ..ops.route import is_stock
from .class_map import class_map


class Network(nn.Module):
    """Backbone and head as one function: normalised, padded Nx3xHxW images to float32 tensors.

    It takes a backbone's place in detectron2's models, whose batches are padded for it.

    Args:
        backbone, head: images to features, features to tensors.
        dtype: to compute in with ``torch.autocast``; None: that of the weights.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, dtype: torch.dtype | None = None):
        super().__init__()
        self.backbone, self.head, self.dtype = backbone, head, dtype
        self.size_divisibility = backbone.size_divisibility
        # Newer versions of detectron2 have them.
        self.padding_constraints = getattr(backbone, "padding_constraints", {})

    def forward(self, images: Tensor) -> Any:
        """What the head returns; of a :class:`PerPixelHead` its logits, not enlarged."""
        predict = self.head.layers if gives_logits(self.head) else self.head
        kind, dtype = images.device.type, self.dtype
        with nullcontext() if dtype is None else torch.autocast(kind, dtype):
            outputs = predict(self.backbone(images))
        return tree_map_only(Tensor, Tensor.float, outputs)


def gives_logits(head: nn.Module) -> bool:
    """Whether ``head(features)`` is nothing but its logits ``head.layers(features)``, enlarged."""
    stock = is_stock(head, type(head)) and isinstance(head, PerPixelHead)
    return stock and type(head).forward is PerPixelHead.forward


class LogitsModel(nn.Module):
    """A semantic segmentation model that can also give class maps, from logits at a stride.

    A subclass sets ``stride`` and says where the logits come from (:meth:`_logits`).
    """

    stride: int

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """One dict an image, {"image", "height", "width"} to {"sem_seg": K x height x width}."""
        return [
            {"sem_seg": sem_seg_postprocess(self._enlarge(logits), size, *output_size(x))}
            for logits, size, x in self._logits(batched_inputs)
        ]

    @torch.no_grad()
    def class_maps(self, batched_inputs: list[dict]) -> list[Tensor]:
        """height x width int64 of each image: where each pixel's score is highest."""
        return [
            class_map(logits, self.stride, size, output_size(x))
            for logits, size, x in self._logits(batched_inputs)
        ]

    def _logits(self, batched_inputs: list[dict]) -> list[tuple[Tensor, Size, dict]]:
        """Of each image the logits, its size in the network and its input."""
        raise NotImplementedError

    def _enlarge(self, logits: Tensor) -> Tensor:
        # Contiguous: in channels-last memory the crop that follows would be slow to resize.
        size = [side * self.stride for side in logits.shape[-2:]]
        return resize(logits[None].contiguous(), size)[0]


class PlainSegmentor(LogitsModel):
    """In place of detectron2's ``SemanticSegmentor`` for inference; it can also give class maps.

    Of ``model`` normalisation and the head's stride are used; ``network`` gives the head's logits.
    """

    def __init__(self, model: nn.Module, network: nn.Module):
        super().__init__()
        self.network = network
        self.stride = model.sem_seg_head.common_stride
        self.register_buffer("pixel_mean", model.pixel_mean, persistent=False)
        self.register_buffer("pixel_std", model.pixel_std, persistent=False)
        self.eval()

    def _logits(self, batched_inputs: list[dict]) -> list[tuple[Tensor, Size, dict]]:
        images = [x["image"].to(self.pixel_mean.device) for x in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        constraints = self.network.padding_constraints
        options = {"padding_constraints": constraints} if constraints else {}
        images = ImageList.from_tensors(images, self.network.size_divisibility, **options)
        sizes = [tuple(map(int, size)) for size in images.image_sizes]
        return list(zip(self.network(images.tensor), sizes, batched_inputs, strict=True))


def output_size(x: dict) -> Size:
    """Height and width to predict for one of detectron2's inputs."""
    return x.get("height", x["image"].shape[-2]), x.get("width", x["image"].shape[-1])
