"""Models around a model that predicts ``sem_seg``: their common part, and class maps."""

import time

import torch
from torch import Tensor, nn

from ..ops.resize import Size
from .class_map import argmax
from .network import LogitsModel, output_size
from .tasks import check_task


class SemSegWrapper(nn.Module):
    """Runs a model several times an image and returns the mean, with the model's own interface.

    That is detectron2's: a list of {"image", "height", "width"} to a list of {"sem_seg": K x height
    x width}.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        # detectron2 restores a model's mode after evaluation; a fresh module says "training".
        self.training = model.training

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """One {"sem_seg": K x height x width, float32} an image, on the model's device.

        Raises:
            ValueError: the model returns no ``sem_seg``, or one of another size than asked for.
            RuntimeError: the model is in training mode.
        """
        if self.training:
            raise RuntimeError(f"{type(self).__name__} is for inference: call .eval() on it first")
        return [{"sem_seg": self._predict(x["image"], *output_size(x))} for x in batched_inputs]

    def _predict(self, image: Tensor, height: int, width: int) -> Tensor:
        raise NotImplementedError

    def _run(self, images: list[Tensor], height: int, width: int) -> list[Tensor]:
        """The model's ``sem_seg`` for each image, K x height x width."""
        outputs = self.model([{"image": x, "height": height, "width": width} for x in images])
        return [sem_seg_of(output, (height, width), self.model) for output in outputs]


class ClassMaps(nn.Module):
    """A model's class of each pixel; spares :class:`LogitsModel` the scores at full size."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """One {"sem_seg_classes": height x width int64} an image; errors: as above."""
        if isinstance(self.model, LogitsModel):
            maps = self.model.class_maps(batched_inputs)
        else:
            outputs = zip(batched_inputs, self.model(batched_inputs), strict=True)
            maps = [argmax(sem_seg_of(found, output_size(x), self.model)) for x, found in outputs]
        return [{"sem_seg_classes": x} for x in maps]


class ConfidentClassMaps(nn.Module):
    """A model's class of each pixel with its probability, and how long the model took.

    Args:
        model: in eval mode.
        logits: whether that is what the model returns, see :func:`most_likely`.
    """

    def __init__(self, model: nn.Module, logits: bool) -> None:
        super().__init__()
        self.model, self.logits = model, logits
        self.training = model.training

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor | float]]:
        """One {"sem_seg_classes": height x width int64, "confidence": height x width float32,
        "seconds": the image's share} an image; errors: as above."""
        start = time.perf_counter()
        outputs = self.model(batched_inputs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = (time.perf_counter() - start) / len(batched_inputs)
        results = []
        for x, output in zip(batched_inputs, outputs, strict=True):
            scores = sem_seg_of(output, output_size(x), self.model)
            classes, confidence = most_likely(scores, self.logits)
            maps = {"sem_seg_classes": classes, "confidence": confidence}
            results.append({**maps, "seconds": seconds})
        return results


def most_likely(scores: Tensor, logits: bool) -> tuple[Tensor, Tensor]:
    """The class of each pixel, H x W int64, and its probability, H x W float32.

    Args:
        scores: K x H x W.
        logits: whether they are; else, not negative, they are in proportion to probabilities.
    """
    parts = []
    for rows in scores.split(64, dim=1):  # as what is made of all classes is large
        rows = rows.float()
        top, classes = rows.max(dim=0)
        if logits:
            probability = (top - rows.logsumexp(dim=0)).exp()
        else:
            probability = top / rows.sum(dim=0).clamp(min=torch.finfo(top.dtype).tiny)
        parts.append((classes, probability))
    classes, probabilities = (torch.cat(x) for x in zip(*parts, strict=True))
    return classes, probabilities


def sem_seg_of(output: dict, size: Size, model: nn.Module) -> Tensor:
    """The ``sem_seg`` that ``model`` returned for one image, of K x ``size``; else ValueError."""
    check_task("sem_seg", output, model)
    sem_seg = output["sem_seg"]
    if sem_seg.dim() != 3 or tuple(sem_seg.shape[1:]) != size:
        raise ValueError(
            f"{type(model).__name__} was asked for 'sem_seg' of K x {size[0]} x {size[1]}, "
            f"but returned {' x '.join(map(str, sem_seg.shape))}"
        )
    return sem_seg
