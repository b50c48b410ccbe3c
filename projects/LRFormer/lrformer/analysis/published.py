"""The published formulation of what LRFormer+'s decoders compute in another way.

Outputs are the same up to rounding; time and memory differ, see
:mod:`lrformer.analysis.ablation`. It follows the description of Mask2Former (arXiv 2112.01527) and
its published behaviour.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.projects.point_rend.point_features import (
    get_uncertain_point_coords_with_randomness,
    point_sample,
)
from detectron2.structures import ImageList
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from ..layers import onednn
from ..modeling.mask2former import MaskFormer, ms_deform_attn, transformer_decoder
from ..modeling.mask2former.criterion import SetCriterion
from ..modeling.mask2former.matcher import HungarianMatcher

STEPS = ("inference", "training")


@contextmanager
def _replaced(owner: object, name: str, value: object) -> Iterator[None]:
    ours = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, ours)


def _deformable_attention() -> AbstractContextManager:
    """The samples of all levels in one tensor, weighted and summed, all kept for backward."""

    def attend(
        value: Tensor, shapes: Sequence, locations: Tensor, weights: Tensor, backend: str
    ) -> Tensor:
        n, _, heads, dim = value.shape
        queries = locations.shape[1]
        levels = value.float().split([h * w for h, w in shapes], dim=1)
        grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1).unbind(2)
        sampled = []
        for level, size, grid in zip(levels, shapes, grids, strict=True):
            maps = level.flatten(2).transpose(1, 2).reshape(n * heads, dim, *size)
            sampled.append(F.grid_sample(maps, grid, align_corners=False))
        weights = weights.transpose(1, 2).reshape(n * heads, 1, queries, -1)
        out = (torch.stack(sampled, dim=-2).flatten(-2) * weights).sum(-1)
        return out.view(n, heads * dim, queries).transpose(1, 2).contiguous().to(value.dtype)

    return _replaced(ms_deform_attn, "ms_deform_attn", attend)


@contextmanager
def _linear_layers() -> Iterator[None]:
    """By PyTorch's own matrix product, on CPUs too."""

    def never(x: Tensor, weight: Tensor) -> bool:
        return False

    with (
        _replaced(onednn, "computes_linear", never),
        _replaced(transformer_decoder, "computes_linear", never),
    ):
        yield


def _mask_resolution() -> AbstractContextManager:
    """Every layer's masks at full resolution, resized for attention, and all kept."""
    decoder = transformer_decoder.MultiScaleMaskedTransformerDecoder
    ours = decoder.forward

    def forward(self: nn.Module, maps: Sequence[Tensor], features: Tensor, aux: bool) -> dict:
        return ours(self, maps, features, aux=True)

    return _replaced(decoder, "forward", forward)


@contextmanager
def _masked_attention() -> Iterator[None]:
    """A mask for each head, and attention weights that are computed, averaged and returned."""

    def attend(
        self: nn.Module, query: Tensor, key: Tensor, value: Tensor, masks: Tensor | None = None
    ) -> Tensor:
        blocked = None
        if masks is not None:
            repeated = masks.sigmoid().flatten(2).unsqueeze(1).repeat(1, self.num_heads, 1, 1)
            blocked = repeated.flatten(0, 1) < 0.5
            blocked[torch.where(blocked.sum(-1) == blocked.shape[-1])] = False
        out, _ = F.multi_head_attention_forward(
            *(x.transpose(0, 1) for x in (query, key, value)),
            embed_dim_to_check=query.shape[-1],
            num_heads=self.num_heads,
            in_proj_weight=self.in_proj_weight,
            in_proj_bias=self.in_proj_bias,
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=self.out_proj.weight,
            out_proj_bias=self.out_proj.bias,
            training=self.training,
            need_weights=True,
            attn_mask=blocked,
        )
        return out.transpose(0, 1)

    with (
        _replaced(transformer_decoder, "_inside", lambda masks: masks),
        _replaced(transformer_decoder.MultiheadAttention, "forward", attend),
    ):
        yield


def _semantic_inference() -> AbstractContextManager:
    """All masks of the batch at the padded images' size, then a product over queries."""

    def forward(self: MaskFormer, batched_inputs: list[dict]) -> list[dict]:
        images = [x["image"].to(self.device) for x in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        images = ImageList.from_tensors(images, self.size_divisibility)
        outputs = self.sem_seg_head(self.backbone(images.tensor))
        classes = outputs["pred_logits"]
        masks = F.interpolate(
            outputs["pred_masks"], images.tensor.shape[-2:], mode="bilinear", align_corners=False
        )
        del outputs
        results = []
        for logits, mask, size, x in zip(
            classes, masks, images.image_sizes, batched_inputs, strict=True
        ):
            wanted = x.get("height", size[0]), x.get("width", size[1])
            if self.sem_seg_postprocess_before_inference:
                mask = sem_seg_postprocess(mask, size, *wanted)
            probability = logits.to(mask).softmax(-1)[:, :-1]
            scores = torch.einsum("qc,qhw->chw", probability, mask.sigmoid())
            if not self.sem_seg_postprocess_before_inference:
                scores = sem_seg_postprocess(scores, size, *wanted)
            results.append({"sem_seg": scores})
        return results

    return _replaced(MaskFormer, "forward", forward)


def _matching_and_losses() -> AbstractContextManager:
    """One layer and, for matching, one image after the other; points repeated for each mask."""

    def forward(self: SetCriterion, outputs: dict, targets: Sequence[dict]) -> dict[str, Tensor]:
        num_masks = max(sum(len(x["labels"]) for x in targets), 1)
        layers = {"": outputs} | {f"_{i}": x for i, x in enumerate(outputs["aux_outputs"])}
        losses = {}
        for suffix, layer in layers.items():
            with torch.autocast(layer["pred_logits"].device.type, enabled=False):
                indices = [
                    _match(self.matcher, logits.float(), masks.float(), target)
                    for logits, masks, target in zip(
                        layer["pred_logits"], layer["pred_masks"], targets, strict=True
                    )
                ]
                unweighted = _layer_losses(self, layer, targets, indices, num_masks)
            for name, loss in unweighted.items():
                losses[name + suffix] = self.weight_dict[name] * loss
        return losses

    return _replaced(SetCriterion, "forward", forward)


@torch.no_grad()
def _match(matcher: HungarianMatcher, logits: Tensor, masks: Tensor, target: dict) -> tuple:
    """Queries and targets of one image."""
    wanted = target["masks"].to(masks)[:, None]
    points = torch.rand(1, matcher.num_points, 2, device=masks.device)
    wanted = point_sample(wanted, points.repeat(len(wanted), 1, 1), align_corners=False)[:, 0]
    masks = point_sample(masks[:, None], points.repeat(len(masks), 1, 1), align_corners=False)[:, 0]

    inside = F.binary_cross_entropy_with_logits(masks, torch.ones_like(masks), reduction="none")
    outside = F.binary_cross_entropy_with_logits(masks, torch.zeros_like(masks), reduction="none")
    cross_entropy = torch.einsum("nc,mc->nm", inside, wanted)
    cross_entropy = cross_entropy + torch.einsum("nc,mc->nm", outside, 1 - wanted)
    masks = masks.sigmoid()
    overlap = 2 * torch.einsum("nc,mc->nm", masks, wanted)
    dice = 1 - (overlap + 1) / (masks.sum(-1)[:, None] + wanted.sum(-1)[None] + 1)
    cost = (
        matcher.cost_mask * cross_entropy / matcher.num_points
        - matcher.cost_class * logits.softmax(-1)[:, target["labels"]]
        + matcher.cost_dice * dice
    )
    return tuple(torch.from_numpy(x) for x in linear_sum_assignment(cost.cpu().numpy()))


def _layer_losses(
    criterion: SetCriterion, layer: dict, targets: Sequence[dict], indices: list, num_masks: int
) -> dict[str, Tensor]:
    """The three losses of one layer, not weighted."""
    logits = layer["pred_logits"].float()
    images = torch.cat([torch.full_like(queries, i) for i, (queries, _) in enumerate(indices)])
    queries, matched = (torch.cat(x) for x in zip(*indices, strict=True))
    labels = torch.cat([t["labels"][j] for t, (_, j) in zip(targets, indices, strict=True)])
    wanted = torch.full(logits.shape[:2], criterion.num_classes, device=logits.device)
    wanted[images, queries] = labels

    masks = layer["pred_masks"][images, queries].float()[:, None]
    target_masks = nn.utils.rnn.pad_sequence([x["masks"] for x in targets], batch_first=True)
    target_masks = target_masks.to(masks)[images, matched][:, None]
    with torch.no_grad():
        points = get_uncertain_point_coords_with_randomness(
            masks,
            lambda x: -x.abs(),
            criterion.num_points,
            criterion.oversample_ratio,
            criterion.importance_sample_ratio,
        )
        target_masks = point_sample(target_masks, points, align_corners=False)[:, 0]
    masks = point_sample(masks, points, align_corners=False)[:, 0]
    mask_loss = F.binary_cross_entropy_with_logits(masks, target_masks, reduction="none")
    masks = masks.sigmoid()
    overlap = 2 * (masks * target_masks).sum(-1)
    dice = 1 - (overlap + 1) / (masks.sum(-1) + target_masks.sum(-1) + 1)
    return {
        "loss_ce": F.cross_entropy(logits.transpose(1, 2), wanted, criterion.empty_weight),
        "loss_mask": mask_loss.mean(1).sum() / num_masks,
        "loss_dice": dice.sum() / num_masks,
    }


@dataclass(frozen=True)
class Optimisation:
    """Something that LRFormer+ computes more cheaply than the published code.

    Attributes:
        published: makes a context in which it is switched off, for all models of the process.
        steps: of :data:`STEPS`, those that it concerns.
    """

    published: Callable[[], AbstractContextManager]
    steps: Sequence[str]


OPTIMISATIONS = {
    "deformable attention": Optimisation(_deformable_attention, STEPS),
    "linear layers": Optimisation(_linear_layers, STEPS),
    "mask resolution": Optimisation(_mask_resolution, ("inference",)),
    "masked attention": Optimisation(_masked_attention, STEPS),
    "semantic inference": Optimisation(_semantic_inference, ("inference",)),
    "matching and losses": Optimisation(_matching_and_losses, ("training",)),
}


@contextmanager
def published(*names: str) -> Iterator[None]:
    """Switch these of the :data:`OPTIMISATIONS` off, in all models, until the context is left."""
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(OPTIMISATIONS[name].published())
        yield
