"""From an image to its class map, instances or panoptic segments."""

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

from .ahead import map_ahead
from .build import build_inference_model
from .tasks import check_task, predicted_tasks, tasks_of
from .wrapper import class_maps_of, sem_seg_of

logger = logging.getLogger(__name__)

Image = np.ndarray | str | PathLike


class Predictor:
    """Segments RGB images with a model, prepared as the test mapper prepares them.

    Attributes:
        metadata: detectron2 metadata of the first test dataset: ``stuff_classes``,
            ``stuff_colors``, ``ignore_label``; ``thing_classes`` of a dataset with instances.
        tasks: what is predicted, of "sem_seg", "instances" and "panoptic_seg"; None where it is not
            known before the first image.

    Examples::

        predictor = Predictor.from_config_file("camvid/lrformer_t.yaml", "model_final.pth")
        class_map = predictor("street.jpg")  # H x W
        name = predictor.metadata.stuff_classes[class_map[0, 0]]

    LRFormer+ with ``MODEL.MASK_FORMER.TEST.INSTANCE_ON`` or ``PANOPTIC_ON``::

        output = predictor.predict("street.jpg")
        masks = output["instances"].pred_masks  # N x H x W
        panoptic_seg, segments_info = output["panoptic_seg"]  # H x W, list of dicts
    """

    @configurable
    def __init__(
        self,
        model: nn.Module,
        *,
        augmentations: Sequence[T.Augmentation] = (),
        image_format: str = "RGB",
        metadata: Any = None,
        tasks: Sequence[str] | None = None,
    ) -> None:
        """Also ``Predictor(cfg, model)``, which takes the arguments from a config.

        Args:
            model: takes detectron2's list of {"image", "height", "width"} and returns a list of
                dicts, for class maps with "sem_seg": K x height x width; it is put into eval mode.
            augmentations: applied to every image, usually a resize.
            image_format: order of the channels that the model takes, "RGB" or "BGR".
            metadata: names and colours of the classes; none where it is None.
            tasks: what the model predicts; None where it is not known.
        """
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"INPUT.FORMAT is {image_format!r}, expected RGB or BGR")
        self.model = model.eval()
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format = image_format
        self.metadata = metadata if metadata is not None else MetadataCatalog.get("__nonexist__")
        self.tasks = None if tasks is None else tuple(tasks)

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module) -> dict:
        return {
            "model": build_inference_model(cfg, model),
            "augmentations": build_test_augmentation(cfg),
            "image_format": cfg.INPUT.FORMAT,
            "metadata": _metadata(cfg),
            "tasks": predicted_tasks(cfg),
        }

    @classmethod
    def from_config_file(
        cls,
        config_file: str | Path,
        weights: str | Path | None = None,
        device: str | None = None,
        opts: Sequence = (),
    ) -> "Predictor":
        """Build the model, load its weights, and run it as the config's ``TEST`` keys say.

        ``TEST.RUNTIME`` chooses its data type, ``torch.compile`` and CUDA graphs.

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
            TypeError, ValueError: it is no such array, or a file that cannot be read; or the model
                does not predict ``sem_seg``.
        """
        return self._class_maps([self._prepare(image, "sem_seg")])[0]

    def scores(self, image: Image) -> Tensor:
        """The scores of every class and pixel: what the model returns, logits or probabilities.

        Args:
            image: as above.

        Returns:
            K x H x W tensor on the model's device, at the image's own size.
        """
        x = self._prepare(image, "sem_seg")
        (output,) = self._run([x])
        return sem_seg_of(output, (x["height"], x["width"]), self.model)

    def predict(self, image: Image, *tasks: str) -> dict[str, Any]:
        """All that the model predicts for an image, as detectron2's ``DefaultPredictor`` gives it.

        Args:
            image: as above.
            tasks: what has to be among it: "sem_seg", "instances", "panoptic_seg".

        Returns:
            The model's dict, on the model's device, at the image's own size: "sem_seg", scores
            K x H x W; "instances", ``Instances`` with ``pred_masks``, ``pred_boxes``, ``scores``
            and ``pred_classes``; "panoptic_seg", (H x W segment ids, list of {"id", "isthing",
            "category_id", "score"}). Ids of classes are indices into the metadata's
            ``stuff_classes`` or, of things, ``thing_classes``.

        Raises:
            TypeError, ValueError: as above, or the model does not predict one of ``tasks``.
        """
        (output,) = self._run([self._prepare(image, *tasks)])
        for task in tasks:
            check_task(task, output, self.model)
        return output

    def predict_stream(
        self, images: Iterable[Image], batch_size: int = 1, ahead: int = 4
    ) -> Iterator[dict[str, Any]]:
        """:meth:`predict` for many images; see :meth:`predict_many` for the order and batches."""
        for batch in self._batches(images, batch_size, ahead):
            yield from self._run(batch)

    def predict_many(
        self, images: Iterable[Image], batch_size: int = 1, ahead: int = 4
    ) -> Iterator[np.ndarray]:
        """Class maps of many images, one after the other and in their order.

        Images are read and resized in threads while the model runs. They are taken from ``images``
        only as they are needed, so that it may be endless.

        Args:
            images: arrays or paths, as above.
            batch_size: how many go through the model at once. Only neighbours that have the same
                size after the resize share a batch: padding one to the other's size would change
                its prediction.
            ahead: how many images are prepared before the model needs them; with 0 an image is
                taken when the one before it is done, for a camera.

        Raises:
            TypeError, ValueError: as for one image, in the place of its class map.
        """
        for batch in self._batches(images, batch_size, ahead, "sem_seg"):
            yield from self._class_maps(batch)

    def _batches(
        self, images: Iterable[Image], batch_size: int, ahead: int, *tasks: str
    ) -> Iterator[list[dict]]:
        batch: list[dict] = []
        try:
            for x in map_ahead(lambda image: self._prepare(image, *tasks), images, ahead):
                if batch and batch[0]["image"].shape != x["image"].shape:
                    yield batch
                    batch = []
                batch.append(x)
                if len(batch) == batch_size:
                    yield batch
                    batch = []
        except Exception:
            if batch:  # The images before the one at fault.
                yield batch
            raise
        if batch:
            yield batch

    @torch.inference_mode()
    def _class_maps(self, batch: list[dict]) -> list[np.ndarray]:
        return [class_map.cpu().numpy() for class_map in class_maps_of(self.model, batch)]

    @torch.inference_mode()
    def _run(self, batch: list[dict]) -> list[dict[str, Any]]:
        return self.model(batch)

    def _prepare(self, image: Image, *tasks: str) -> dict:
        """The model's input; fails where it is known already that a task is not predicted."""
        for task in tasks if self.tasks is not None else ():
            check_task(task, self.tasks, self.model)
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
    named, predicted = _num_names(metadata, cfg), cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if named not in (0, predicted):
        logger.warning(
            f"the model predicts {predicted} classes (MODEL.SEM_SEG_HEAD.NUM_CLASSES), but "
            f"{names[0]} (DATASETS.TEST) names {named}: names and colours may be wrong"
        )
    return metadata


def _num_names(metadata: Any, cfg: CfgNode) -> int:
    """For how many of the classes that SEM_SEG_HEAD predicts the metadata has a name."""
    stuff = len(metadata.get("stuff_classes", ()))
    tasks = tasks_of(cfg)
    if tasks is None or "instances" not in tasks:
        return stuff
    things = len(metadata.get("thing_classes", ()))
    # The classes of instances are things; those of a panoptic dataset are in both lists.
    return things if tasks == ("instances",) else stuff or things
