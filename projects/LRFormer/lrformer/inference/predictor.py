"""From an image to its class map, instances or panoptic segments."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import Metadata
from detectron2.data import transforms as T
from torch import nn

from lrformer.data import metadata_of
from lrformer.data.mappers import build_test_augmentation
from lrformer.data.reading import pixels_of, read_image
from lrformer.modeling.build import inference_cfg, load_model

from .ahead import map_ahead
from .exported import load_exported
from .runtime import build_inference_model
from .sliding_window import SlidingWindow
from .tasks import check_task, predicted_tasks, predicts_logits
from .wrapper import ClassMaps

logger = logging.getLogger(__name__)

Image = np.ndarray | str | PathLike


class Predictor:
    """Segments RGB images with a model, prepared as the test mapper prepares them.

    An image is an H x W x 3 uint8 array, or the path of a file (turned upright as its EXIF
    orientation says). Predictions are at its own size. TypeError and ValueError tell of another
    array, of a file that cannot be read, and of what the model does not predict.

    Attributes:
        metadata: detectron2 metadata of what the model is about, with ``stuff_classes`` or
            ``thing_classes`` and their colours.
        tasks: what is predicted, of "sem_seg", "instances", "panoptic_seg" and "referring"; None
            where it is not known before the first image.

    Examples::

        predictor = Predictor.from_config_file("camvid/lrformer_t.yaml", "model_final.pth")
        class_map = predictor("street.jpg")  # H x W
        name = predictor.metadata.stuff_classes[class_map[0, 0]]

        # LRFormer+ with MODEL.MASK_FORMER.TEST.INSTANCE_ON
        masks = predictor.predict("street.jpg", "instances")["instances"].pred_masks  # N x H x W
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
        requests: int = 1,
        logits: bool = True,
    ) -> None:
        """Also ``Predictor(cfg, model)``, which takes the arguments from a config.

        Args:
            model: takes detectron2's list of {"image", "height", "width"} and returns a list of
                dicts, for class maps with "sem_seg": K x height x width; it is put into eval mode.
            augmentations: applied to every image, usually a resize.
            image_format: order of the channels that the model takes, "RGB" or "BGR".
            metadata, tasks: see above.
            requests: how many batches the model is given at the same time, from as many threads.
            logits: whether "sem_seg" are logits; else they are in proportion to probabilities.
        """
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"INPUT.FORMAT is {image_format!r}, expected RGB or BGR")
        self.model = model.eval()
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format = image_format
        self.metadata = Metadata() if metadata is None else metadata
        self.tasks = None if tasks is None else tuple(tasks)
        self.requests = requests
        self.logits = logits

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module) -> dict:
        return {
            "model": build_inference_model(cfg, model),
            "augmentations": build_test_augmentation(cfg),
            "image_format": cfg.INPUT.FORMAT,
            "metadata": _metadata(cfg),
            "tasks": predicted_tasks(cfg),
            "requests": cfg.TEST.RUNTIME.REQUESTS,
            "logits": predicts_logits(cfg),
        }

    @classmethod
    def from_config_file(
        cls,
        config_file: str | Path,
        weights: str | Path | None = None,
        device: str | None = None,
        opts: Sequence = (),
    ) -> "Predictor":
        """:func:`lrformer.build_model`, run as the config's ``TEST`` keys say."""
        cfg = inference_cfg(config_file, weights, device, opts)
        return cls(cfg, load_model(cfg))

    @classmethod
    def from_exported(
        cls, path: str | Path, device: str | None = None, opts: Sequence = ()
    ) -> "Predictor":
        """Of a file of ``tools/export.py``, see :func:`~lrformer.inference.exported.load_exported`.

        It predicts "sem_seg"; a file of classes gives class maps only.
        """
        return cls(*load_exported(path, device, opts))

    def __call__(self, image: Image) -> np.ndarray:
        """The class of every pixel, H x W int64."""
        return next(self.predict_many([image], ahead=0))

    def predict(self, image: Image, *tasks: str, phrases: Sequence[str] = ()) -> dict[str, Any]:
        """All that the model predicts for an image, as detectron2's ``DefaultPredictor`` gives it.

        Args:
            image, tasks: see above.
            phrases: N phrases to segment, for "referring"; one that ends with "?" or "." is a whole
                sentence.

        Returns:
            The model's dict, on the model's device, with at least the ``tasks``: "sem_seg", scores
            K x H x W; "instances", ``Instances`` with ``pred_masks``, ``pred_boxes``, ``scores``
            and ``pred_classes``; "panoptic_seg", (H x W segment ids, list of {"id", "isthing",
            "category_id", "score"}); "referring", N x H x W bool. Ids of classes are indices into
            the metadata's ``stuff_classes`` or, of things, ``thing_classes``.
        """
        return next(self.predict_stream([image], *tasks, ahead=0, phrases=phrases))

    def to_probabilities(self, scores: torch.Tensor) -> torch.Tensor:
        """Class probabilities of the "sem_seg" that is predicted, K x H x W float32."""
        scores = scores.float()
        return scores.softmax(0) if self.logits else scores / scores.sum(0).clamp(min=1e-12)

    def predict_large(self, image: PIL.Image.Image, classes: np.ndarray) -> None:
        """Write the class of every pixel, in bounded memory, with ``TEST.SLIDING_WINDOW.ENABLED``.

        Args:
            image: upright, taken at its own size; :func:`lrformer.data.reading.open_upright`.
            classes: H x W integers to write to, see :meth:`SlidingWindow.write_class_map`.

        Raises:
            ValueError: the model does not predict in sliding windows.
        """
        if not isinstance(self.model, SlidingWindow):
            raise ValueError("large images need TEST.SLIDING_WINDOW.ENABLED True, without TEST.AUG")

        def read(y: int, x: int, height: int, width: int) -> torch.Tensor:
            window = image.crop((x, y, x + width, y + height))
            pixels = pixels_of(window, self.image_format).transpose(2, 0, 1)
            return torch.from_numpy(np.ascontiguousarray(pixels))

        self.model.write_class_map(classes, read)

    def predict_stream(
        self,
        images: Iterable[Image],
        *tasks: str,
        batch_size: int = 1,
        ahead: int = 4,
        phrases: Sequence[str] = (),
    ) -> Iterator[dict[str, Any]]:
        """:meth:`predict` for many images, in the way of :meth:`predict_many`."""
        for output in self._outputs(self.model, images, tasks, batch_size, ahead, phrases):
            for task in tasks:
                check_task(task, output, self.model)
            yield output

    def predict_many(
        self, images: Iterable[Image], batch_size: int = 1, ahead: int = 4
    ) -> Iterator[np.ndarray]:
        """Class maps of many images, in their order; what cannot be read is raised in its place.

        Args:
            images: may be endless; read and resized in threads while the model runs.
            batch_size: how many go through the model at once, of neighbours with the same size
                after the resize: padding one to another's size would change its prediction.
            ahead: how many images are prepared before the model needs them; with 0 an image is
                taken when the one before it is done, for a camera.
        """
        model = ClassMaps(self.model)
        for output in self._outputs(model, images, ("sem_seg",), batch_size, ahead):
            yield output["sem_seg_classes"].cpu().numpy()

    def _outputs(
        self,
        model: nn.Module,
        images: Iterable[Image],
        tasks: Sequence[str],
        batch_size: int,
        ahead: int,
        phrases: Sequence[str] = (),
    ) -> Iterator[dict[str, Any]]:
        asked = [{"phrase": x, "is_sentence": x.rstrip().endswith(("?", "."))} for x in phrases]
        batches = self._batches(images, tasks, batch_size, ahead)

        @torch.inference_mode()
        def run(batch: list[dict]) -> list[dict[str, Any]]:
            return model([x | {"referring": asked} for x in batch] if asked else batch)

        for outputs in map_ahead(run, batches, min(ahead, self.requests - 1), self.requests):
            yield from outputs

    def _batches(
        self, images: Iterable[Image], tasks: Sequence[str], batch_size: int, ahead: int
    ) -> Iterator[list[dict]]:
        errors = []

        def inputs() -> Iterator[dict]:
            try:
                yield from map_ahead(lambda image: self._prepare(image, tasks), images, ahead)
            except Exception as error:  # raised below, after the images before the one at fault
                errors.append(error)

        for _, same_size in groupby(inputs(), key=lambda x: x["image"].shape):
            while batch := list(islice(same_size, batch_size)):
                yield batch
        if errors:
            raise errors[0]

    def _prepare(self, image: Image, tasks: Sequence[str]) -> dict:
        """The model's input; fails where it is known already that a task is not predicted."""
        for task in tasks if self.tasks is not None else ():
            check_task(task, self.tasks, self.model)
        if isinstance(image, (str, PathLike)):
            image = read_image(str(image), "RGB")
        wanted = "expected an H x W x 3 uint8 array in RGB order, or a path"
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
            found = getattr(image, "dtype", "no array")
            raise TypeError(f"the image is a {type(image).__name__} ({found}); {wanted}")
        if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ValueError(f"the image's shape is {image.shape}; {wanted}")
        if self.image_format == "BGR":
            image = image[:, :, ::-1]
        inputs = T.AugInput(np.ascontiguousarray(image))
        self.augmentations(inputs)
        tensor = torch.from_numpy(inputs.image.transpose(2, 0, 1).copy())
        return {"image": tensor, "height": image.shape[0], "width": image.shape[1]}


def _metadata(cfg: CfgNode) -> Metadata | None:
    metadata, predicted = metadata_of(cfg), cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if metadata is not None:
        # The classes of instances are things; those of a panoptic dataset are in both lists.
        named = {len(metadata.get(key, ())) for key in ("stuff_classes", "thing_classes")} - {0}
        if named and predicted not in named:
            logger.warning(
                f"the model predicts {predicted} classes (MODEL.SEM_SEG_HEAD.NUM_CLASSES), but "
                f"{metadata.name} names {max(named)}: names and colours may be wrong"
            )
    return metadata
