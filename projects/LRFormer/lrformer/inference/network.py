"""A model's backbone and head as one function of the images, in a data type of its own."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from .class_map import Size, class_map

logger = logging.getLogger(__name__)

# Each recording keeps its activations on the GPU.
_MAX_RECORDINGS = 8


class Network(nn.Module):
    """Backbone and head: normalised Nx3xHxW images to what the head gives, in float32.

    It takes a backbone's place in detectron2's models, whose batches it pads as that does.

    Args:
        backbone: images to features.
        head: features to tensors; if it has ``layers``, to logits by these.
        dtype: to compute in with ``torch.autocast``; None: that of the weights.
        compile: with ``torch.compile``, for sizes that change.
        cuda_graphs: record the GPU's work for each size of batch and replay it.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        *,
        dtype: torch.dtype | None = None,
        compile: bool = False,
        cuda_graphs: bool = False,
    ) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.dtype = dtype
        self.size_divisibility = backbone.size_divisibility
        self.padding_constraints = getattr(backbone, "padding_constraints", {})
        self._run = self._compute
        if compile:
            self._run = torch.compile(self._compute, dynamic=True)
        if cuda_graphs:
            self._run = Recordings(self._run)

    def forward(self, images: Tensor) -> Any:
        context = nullcontext()
        if self.dtype is not None:
            # Casts that are kept for the next operation would not be part of a recording.
            keep = not isinstance(self._run, Recordings)
            context = torch.autocast(images.device.type, self.dtype, cache_enabled=keep)
        with context:
            output = self._run(images)
        return tree_map_only(Tensor, Tensor.float, output)

    def _compute(self, images: Tensor) -> Any:
        return getattr(self.head, "layers", self.head)(self.backbone(images))


class Recordings:
    """CUDA graphs of a function of one tensor, one for each shape of it.

    What is returned is overwritten by the next call with the same shape. Beyond eight shapes the
    function is called as it is.
    """

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self._function = function
        self._recorded: dict[torch.Size, tuple[Tensor, torch.cuda.CUDAGraph, Any]] = {}

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Any:
        if x.shape not in self._recorded:
            if len(self._recorded) == _MAX_RECORDINGS:
                return self._function(x)
            self._recorded[x.shape] = self._record(x)
            if len(self._recorded) == _MAX_RECORDINGS:
                logger.warning(
                    f"TEST.RUNTIME.CUDA_GRAPHS: {_MAX_RECORDINGS} sizes of batches are recorded; "
                    "others run without. Graphs are for images of a few sizes"
                )
        recorded, graph, output = self._recorded[x.shape]
        recorded.copy_(x)
        graph.replay()
        return output

    def _record(self, x: Tensor) -> tuple[Tensor, torch.cuda.CUDAGraph, Any]:
        # In inference mode the tensor could not be overwritten outside it later.
        with torch.inference_mode(False), torch.no_grad():
            recorded = x.clone()
            # Libraries choose their kernels in the first calls, which must not be recorded.
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self._function(recorded)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                output = self._function(recorded)
        return recorded, graph, output


class PlainSegmentor(nn.Module):
    """detectron2's ``SemanticSegmentor`` for inference, which can also give class maps.

    Args:
        model: with a head whose ``layers`` give logits of stride ``common_stride``.
        network: its backbone and ``layers``.
    """

    def __init__(self, model: nn.Module, network: Network) -> None:
        super().__init__()
        self.network = network
        self.stride = model.sem_seg_head.common_stride
        self.register_buffer("pixel_mean", model.pixel_mean, persistent=False)
        self.register_buffer("pixel_std", model.pixel_std, persistent=False)
        self.eval()

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """One dict an image, {"image", "height", "width"} to {"sem_seg": K x height x width}."""
        return [
            {"sem_seg": sem_seg_postprocess(self._enlarge(logits), size, *output_size)}
            for logits, size, output_size in self._logits(batched_inputs)
        ]

    @torch.no_grad()
    def class_maps(self, batched_inputs: list[dict]) -> list[Tensor]:
        """height x width int64 of each image: exactly where each pixel's score is highest."""
        return [
            class_map(logits, self.stride, size, output_size)
            for logits, size, output_size in self._logits(batched_inputs)
        ]

    def _enlarge(self, logits: Tensor) -> Tensor:
        # Contiguous: in channels-last memory the crop that follows would be slow to resize.
        return F.interpolate(
            logits[None].contiguous(),
            scale_factor=self.stride,
            mode="bilinear",
            align_corners=False,
        )[0]

    def _logits(self, batched_inputs: list[dict]) -> list[tuple[Tensor, Size, Size]]:
        """Of each image the logits, its size in the network and the size to predict it at."""
        images = [x["image"].to(self.device) for x in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        constraints = self.network.padding_constraints
        options = {"padding_constraints": constraints} if constraints else {}
        images = ImageList.from_tensors(images, self.network.size_divisibility, **options)
        sizes = [tuple(map(int, size)) for size in images.image_sizes]
        outputs = [
            (x.get("height", size[0]), x.get("width", size[1]))
            for x, size in zip(batched_inputs, sizes, strict=True)
        ]
        return list(zip(self.network(images.tensor), sizes, outputs, strict=True))
