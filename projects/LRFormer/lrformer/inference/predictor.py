"""From an image to its class map."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from torch import Tensor, nn

from lrformer.data.mappers import build_test_augmentation
from lrformer.data.reading import read_image
from lrformer.modeling.build import inference_cfg, load_model

from .build import build_inference_model
from .wrapper import sem_seg_of

logger = logging.getLogger(__name__)

Image = np.ndarray | str | PathLike


class Predictor:
    """Segments RGB images with a model, prepared as the test mapper prepares them.

    Attributes:
        metadata: detectron2 metadata of the first test dataset: ``stuff_classes``,
            ``stuff_colors``, ``ignore_label``.

    Examples::

        predictor = Predictor.from_config_file("camvid/lrformer_t.yaml", "model_final.pth")
        class_map = predictor("street.jpg")  # H x W
        name = predictor.metadata.stuff_classes[class_map[0, 0]]
    """

    @configurable
    def __init__(
        self,
        model: nn.Module,
        *,
        augmentations: Sequence[T.Augmentation] = (),
        image_format: str = "RGB",
        metadata: Any = None,
    ) -> None:
        """Also ``Predictor(cfg, model)``, which takes the arguments from a config.

        Args:
            model: takes detectron2's list of {"image", "height", "width"} and returns a list of
                {"sem_seg": K x height x width}; it is put into eval mode.
            augmentations: applied to every image, usually a resize.
            image_format: order of the channels that the model takes, "RGB" or "BGR".
            metadata: names and colours of the classes; none where it is None.
        """
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"INPUT.FORMAT is {image_format!r}, expected RGB or BGR")
        self.model = model.eval()
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format = image_format
        self.metadata = metadata if metadata is not None else MetadataCatalog.get("__nonexist__")

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module) -> dict:
        return {
            "model": build_inference_model(cfg, model),
            "augmentations": build_test_augmentation(cfg),
            "image_format": cfg.INPUT.FORMAT,
            "metadata": _metadata(cfg),
        }

    @classmethod
    def from_config_file(
        cls,
        config_file: str | Path,
        weights: str | Path | None = None,
        device: str | None = None,
        opts: Sequence = (),
    ) -> "Predictor":
        """Build the model, load its weights, and wrap it as the config's ``TEST`` keys say.

        Args and errors: see :func:`lrformer.build_model`.
        """
        cfg = inference_cfg(config_file, weights, device, opts)
        return cls(cfg, load_model(cfg))

    def __call__(self, image: Image) -> np.ndarray:
        """The class of every pixel.

        Args:
            image: H x W x 3, RGB uint8, or the path of an image file (turned upright as its EXIF
                orientation says).

        Returns:
            H x W int64 array, at the image's own size.

        Raises:
            TypeError, ValueError: it is no such array, or a file that cannot be read.
        """
        return self.scores(image).argmax(dim=0).cpu().numpy()

    @torch.inference_mode()
    def scores(self, image: Image) -> Tensor:
        """The scores of every class and pixel: what the model returns, logits or probabilities.

        Args:
            image: as above.

        Returns:
            K x H x W tensor on the model's device, at the image's own size.
        """
        return self._run([self._prepare(image)])[0]

    def predict_many(self, images: Iterable[Image], batch_size: int = 1) -> Iterator[np.ndarray]:
        """Class maps of many images, one after the other and in their order.

        Images are taken from ``images`` only as they are needed, so that it may be endless.

        Args:
            images: arrays or paths, as above.
            batch_size: how many go through the model at once. Only neighbours that have the same
                size after the resize share a batch: padding one to the other's size would change
                its prediction.
        """
        batch: list[dict] = []
        for image in images:
            x = self._prepare(image)
            if batch and (len(batch) == batch_size or batch[0]["image"].shape != x["image"].shape):
                yield from self._class_maps(batch)
                batch = []
            batch.append(x)
        if batch:
            yield from self._class_maps(batch)

    def _class_maps(self, batch: list[dict]) -> list[np.ndarray]:
        return [scores.argmax(dim=0).cpu().numpy() for scores in self._run(batch)]

    @torch.inference_mode()
    def _run(self, batch: list[dict]) -> list[Tensor]:
        outputs = self.model(batch)
        sizes = [(x["height"], x["width"]) for x in batch]
        return [sem_seg_of(out, size, self.model) for out, size in zip(outputs, sizes, strict=True)]

    def _prepare(self, image: Image) -> dict:
        if isinstance(image, (str, PathLike)):
            image = read_image(str(image), "RGB")
        _check_image(image)
        height, width = image.shape[:2]
        if self.image_format == "BGR":
            image = image[:, :, ::-1]
        inputs = T.AugInput(np.ascontiguousarray(image))
        self.augmentations(inputs)
        tensor = torch.from_numpy(inputs.image.transpose(2, 0, 1).copy())
        return {"image": tensor, "height": height, "width": width}


def _check_image(image: Any) -> None:
    wanted = "expected an H x W x 3 uint8 array in RGB order, or a path"
    if not isinstance(image, np.ndarray):
        raise TypeError(f"the image is a {type(image).__name__}; {wanted}")
    if image.ndim != 3 or image.shape[2] != 3:
        hint = ""
        if image.ndim == 2:
            hint = "; for a grey image use numpy.stack([image] * 3, axis=-1)"
        elif image.ndim == 3 and image.shape[2] == 4:
            hint = "; drop the fourth channel with image[:, :, :3]"
        elif image.ndim == 3 and image.shape[0] == 3:
            hint = "; move the channels last with image.transpose(1, 2, 0)"
        raise ValueError(f"the image's shape is {image.shape}; {wanted}{hint}")
    if image.dtype != np.uint8:
        raise TypeError(
            f"the image's dtype is {image.dtype}; {wanted} (values from 0 to 255; the model "
            "normalises them itself)"
        )
    if image.size == 0:
        raise ValueError(f"the image is empty, its shape is {image.shape}; {wanted}")


def _metadata(cfg: CfgNode) -> Any:
    names = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
    if not names:
        return None
    metadata = MetadataCatalog.get(names[0])
    named, predicted = len(metadata.get("stuff_classes", ())), cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if named not in (0, predicted):
        logger.warning(
            f"the model predicts {predicted} classes (MODEL.SEM_SEG_HEAD.NUM_CLASSES), but "
            f"{names[0]} (DATASETS.TEST) names {named}: names and colours may be wrong"
        )
    return metadata
