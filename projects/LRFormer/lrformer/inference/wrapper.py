"""What sliding windows and test-time augmentation have in common; class maps of any model."""

import torch
from torch import Tensor, nn

from .class_map import argmax
from .tasks import check_task


class SemSegWrapper(nn.Module):
    """Runs a model several times an image and returns the mean, with the model's own interface."""

    def __init__(self, model: nn.Module) -> None:
        """
        Args:
            model: takes detectron2's list of {"image", "height", "width"} and returns a list of
                {"sem_seg": K x height x width}.
        """
        super().__init__()
        self.model = model
        # detectron2 restores a model's mode after evaluation; a fresh module says "training".
        self.training = model.training

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """
        Args:
            batched_inputs: one dict an image: "image", C x H x W, and the "height" and "width" to
                return (H and W where they are missing).

        Returns:
            One {"sem_seg": K x height x width, float32} an image, on the model's device.

        Raises:
            ValueError: the model returns no ``sem_seg``, or one of another size than asked for.
            RuntimeError: the model is in training mode.
        """
        if self.training:
            raise RuntimeError(
                f"{type(self).__name__} is for inference only; call .eval() on it first"
            )
        return [{"sem_seg": self._predict(x, *_output_size(x))} for x in batched_inputs]

    def _predict(self, x: dict, height: int, width: int) -> Tensor:
        raise NotImplementedError

    def _run(self, images: list[Tensor], height: int, width: int) -> list[Tensor]:
        """The model's ``sem_seg`` for each image, K x height x width."""
        outputs = self.model([{"image": x, "height": height, "width": width} for x in images])
        return [sem_seg_of(output, (height, width), self.model) for output in outputs]


class ClassMaps(nn.Module):
    """A model that gives the class of each pixel in place of the scores of all classes.

    It spares :class:`~lrformer.inference.network.PlainSegmentor` the scores at the image's size.
    """

    def __init__(self, model: nn.Module) -> None:
        """
        Args:
            model: returns ``sem_seg``.
        """
        super().__init__()
        self.model = model
        self.training = model.training

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """One {"sem_seg_classes": height x width int64} an image."""
        return [{"sem_seg_classes": x} for x in class_maps_of(self.model, batched_inputs)]


def class_maps_of(model: nn.Module, batched_inputs: list[dict]) -> list[Tensor]:
    """The class maps, height x width int64, that ``model`` predicts for a batch.

    Raises:
        ValueError: the model returns no ``sem_seg``, or one of another size than asked for.
    """
    if hasattr(model, "class_maps"):
        return model.class_maps(batched_inputs)
    outputs = model(batched_inputs)
    return [
        argmax(sem_seg_of(output, _output_size(x), model))
        for x, output in zip(batched_inputs, outputs, strict=True)
    ]


def _output_size(x: dict) -> tuple[int, int]:
    return x.get("height", x["image"].shape[-2]), x.get("width", x["image"].shape[-1])


def sem_seg_of(output: dict, size: tuple[int, int], model: nn.Module) -> Tensor:
    """The ``sem_seg`` that ``model`` returned for one image, K x height x width.

    Raises:
        ValueError: there is none, or it is not of the height and width ``size``.
    """
    check_task("sem_seg", output, model)
    sem_seg = output["sem_seg"]
    if sem_seg.dim() != 3 or tuple(sem_seg.shape[1:]) != size:
        raise ValueError(
            f"{type(model).__name__} was asked for 'sem_seg' of K x {size[0]} x {size[1]}, "
            f"but returned {' x '.join(map(str, sem_seg.shape))}"
        )
    return sem_seg
