"""Mask2Former as a detectron2 model."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone, build_sem_seg_head
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import BitMasks, ImageList
from torch import Tensor, nn

from ...data import metadata_of, things_of
from ...ops.resize import resized_bands
from .criterion import SetCriterion
from .inference import InstanceList, PanopticMap, SemanticMap
from .matcher import HungarianMatcher


@META_ARCH_REGISTRY.register()
class MaskFormer(nn.Module):
    """Segmentation by classifying masks: semantic, instance and panoptic from one model."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        criterion: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int = 32,
        semantic_on: bool = True,
        instance_on: bool = False,
        panoptic_on: bool = False,
        object_mask_threshold: float = 0.0,
        overlap_threshold: float = 0.0,
        sem_seg_postprocess_before_inference: bool = False,
        max_instances: int = 100,
        thing_classes: Collection[int] | None = None,
    ):
        """
        Args:
            backbone, sem_seg_head: images to features, features to classes and masks.
            criterion: predictions and targets to losses.
            pixel_mean, pixel_std: of the images, a value a channel.
            size_divisibility: batches are padded to a multiple of it; below 0: the backbone's.
            semantic_on, instance_on, panoptic_on: what to predict.
            object_mask_threshold, overlap_threshold: of :class:`PanopticMap`.
            sem_seg_postprocess_before_inference: resize masks, not class scores, to the image's own
                size; always so where instances or panoptic segments are predicted too.
            max_instances: how many instances of an image to return.
            thing_classes: contiguous ids of the classes that are things, for panoptic predictions.

        Raises:
            ValueError: nothing is to be predicted, or things are not known but needed.
        """
        super().__init__()
        if not (semantic_on or instance_on or panoptic_on):
            raise ValueError(
                "MODEL.MASK_FORMER.TEST: SEMANTIC_ON, INSTANCE_ON and PANOPTIC_ON are all False; "
                "there is nothing to predict"
            )
        if panoptic_on and thing_classes is None:
            raise ValueError(
                "MODEL.MASK_FORMER.TEST.PANOPTIC_ON is True, but which classes are things is not "
                "known: no dataset of DATASETS.TRAIN or DATASETS.TEST is registered with "
                "'thing_dataset_id_to_contiguous_id' in its metadata"
            )
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.criterion = criterion
        self.size_divisibility = (
            backbone.size_divisibility if size_divisibility < 0 else size_divisibility
        )
        self.semantic_on = semantic_on
        self.instance_on = instance_on
        self.panoptic_on = panoptic_on
        self.object_mask_threshold = object_mask_threshold
        self.overlap_threshold = overlap_threshold
        self.sem_seg_postprocess_before_inference = (
            sem_seg_postprocess_before_inference or instance_on or panoptic_on
        )
        self.max_instances = max_instances
        self.thing_classes = thing_classes
        for name, value in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            value = torch.tensor(value, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, value, persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        backbone = build_backbone(cfg)
        head = build_sem_seg_head(cfg, backbone.output_shape())
        keys = cfg.MODEL.MASK_FORMER
        matcher = HungarianMatcher(
            cost_class=keys.CLASS_WEIGHT,
            cost_mask=keys.MASK_WEIGHT,
            cost_dice=keys.DICE_WEIGHT,
            num_points=keys.TRAIN_NUM_POINTS,
        )
        criterion = SetCriterion(
            cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            matcher=matcher,
            weight_dict={
                "loss_ce": keys.CLASS_WEIGHT,
                "loss_mask": keys.MASK_WEIGHT,
                "loss_dice": keys.DICE_WEIGHT,
            },
            eos_coef=keys.NO_OBJECT_WEIGHT,
            num_points=keys.TRAIN_NUM_POINTS,
            oversample_ratio=keys.OVERSAMPLE_RATIO,
            importance_sample_ratio=keys.IMPORTANCE_SAMPLE_RATIO,
        )
        return {
            "backbone": backbone,
            "sem_seg_head": head,
            "criterion": criterion,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "size_divisibility": keys.SIZE_DIVISIBILITY,
            "semantic_on": keys.TEST.SEMANTIC_ON,
            "instance_on": keys.TEST.INSTANCE_ON,
            "panoptic_on": keys.TEST.PANOPTIC_ON,
            "object_mask_threshold": keys.TEST.OBJECT_MASK_THRESHOLD,
            "overlap_threshold": keys.TEST.OVERLAP_THRESHOLD,
            "sem_seg_postprocess_before_inference": (
                keys.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE
            ),
            "max_instances": cfg.TEST.DETECTIONS_PER_IMAGE,
            "thing_classes": things_of(metadata_of(cfg)) if keys.TEST.PANOPTIC_ON else None,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Any]]:
        """As detectron2's models: in training a dict of losses, else one dict an image.

        Args:
            batched_inputs: one dict an image: "image", 3xHxW; in training "instances" of the same
                size with ``gt_classes`` (T, int64) and ``gt_masks`` (TxHxW bool, or ``BitMasks``):
                a semantic map is a mask for each of its classes, without the ignored pixels. In
                testing "height" and "width" of the prediction (H and W where they are missing).

        Returns:
            In testing, of these what the model is set to predict: "sem_seg", a score KxHxW for each
            class; "panoptic_seg", (HxW int32 numbers of segments, list of {"id", "isthing",
            "category_id", "score"}); "instances", with ``pred_masks``, ``pred_boxes``, ``scores``
            and ``pred_classes``.

        Raises:
            ValueError: the targets are missing or do not fit.
            FloatingPointError: a loss is not finite.
        """
        images = [x["image"].to(self.device) for x in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        images = ImageList.from_tensors(images, self.size_divisibility)
        padded_size = tuple(images.tensor.shape[-2:])
        targets = self._targets(batched_inputs, images) if self.training else None
        outputs = self.sem_seg_head(self.backbone(images.tensor))
        if self.training:
            return self.criterion(outputs, targets)
        return [
            self._predict(logits, masks, size, padded_size, x)
            for logits, masks, size, x in zip(
                outputs["pred_logits"],
                outputs["pred_masks"],
                images.image_sizes,
                batched_inputs,
                strict=True,
            )
        ]

    def _predict(
        self, logits: Tensor, masks: Tensor, size: tuple[int, int], padded_size: tuple, x: dict
    ) -> dict[str, Any]:
        """The predictions of one image of ``size``, from Qx(classes + 1) and Qxhxw logits."""
        height, width = x.get("height", size[0]), x.get("width", size[1])
        steps = [(padded_size, size)]
        if self.sem_seg_postprocess_before_inference:
            steps.append(((height, width), (height, width)))
        enlarged_size = steps[-1][1]

        tasks = {}
        if self.semantic_on:
            tasks["sem_seg"] = SemanticMap(logits, enlarged_size)
        if self.panoptic_on:
            tasks["panoptic_seg"] = PanopticMap(
                logits,
                enlarged_size,
                self.object_mask_threshold,
                self.overlap_threshold,
                self.thing_classes,
            )
        if self.instance_on:
            classes = self.thing_classes if self.panoptic_on else None
            tasks["instances"] = InstanceList(logits, enlarged_size, self.max_instances, classes)
        for band, values in resized_bands(masks, steps):
            inside = values.sigmoid()
            for task in tasks.values():
                task.add(band, values, inside)

        results = {name: task.result() for name, task in tasks.items()}
        if self.semantic_on and enlarged_size != (height, width):
            results["sem_seg"] = sem_seg_postprocess(results["sem_seg"], size, height, width)
        return results

    def _targets(self, batched_inputs: list[dict], images: ImageList) -> list[dict[str, Tensor]]:
        """{"labels": T, "masks": TxHxW bool} of each image, padded as the batch is."""
        targets = []
        for x, size in zip(batched_inputs, images.image_sizes, strict=True):
            labels, masks = _check_target(x, size, self.sem_seg_head.num_classes)
            height, width = size
            padded = masks.new_zeros((len(masks), *images.tensor.shape[-2:]), device=self.device)
            padded[:, :height, :width] = masks.to(self.device)
            targets.append({"labels": labels.to(self.device), "masks": padded})
        return targets


def _check_target(x: dict, size: tuple[int, int], num_classes: int) -> tuple[Tensor, Tensor]:
    """Labels and bool masks of one image's "instances"."""
    name = x.get("file_name", "an image")
    if "instances" not in x:
        raise ValueError(
            f"{name}: no 'instances' among its inputs ({', '.join(x)}); MaskFormer is trained on a "
            "mask for each segment, which the mapper named by INPUT.DATASET_MAPPER_NAME has to make"
        )
    labels, masks = x["instances"].gt_classes, x["instances"].gt_masks
    masks = masks.tensor if isinstance(masks, BitMasks) else masks
    if not isinstance(masks, Tensor):
        raise ValueError(
            f"{name}: gt_masks is {type(masks).__name__}, expected a tensor or BitMasks; set "
            "INPUT.MASK_FORMAT to 'bitmask'"
        )
    if tuple(masks.shape) != (len(labels), *size):
        raise ValueError(
            f"{name}: gt_masks is {tuple(masks.shape)}, but there are {len(labels)} gt_classes and "
            f"the image is {tuple(size)}"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"{name}: gt_classes are from {int(labels.min())} to {int(labels.max())}, but the "
            f"model has classes 0 to {num_classes - 1} (MODEL.SEM_SEG_HEAD.NUM_CLASSES)"
        )
    return labels, masks.bool()
