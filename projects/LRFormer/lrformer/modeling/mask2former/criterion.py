"""Mask2Former's training losses (arXiv 2112.01527, section 3.3)."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from detectron2.projects.point_rend.point_features import (
    get_uncertain_point_coords_with_randomness,
    point_sample,
)
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from .matcher import HungarianMatcher


class SetCriterion(nn.Module):
    """Classification of all queries, cross-entropy and dice of the matched ones' masks.

    Mask losses are computed at points, most of them where the prediction is uncertain (PointRend).
    """

    def __init__(
        self,
        num_classes: int,
        *,
        matcher: HungarianMatcher,
        weight_dict: Mapping[str, float],
        eos_coef: float,
        num_points: int,
        oversample_ratio: float,
        importance_sample_ratio: float,
    ):
        """
        Args:
            num_classes: classes without "no object".
            matcher: pairs predictions with targets.
            weight_dict: weights of "loss_ce", "loss_mask" and "loss_dice".
            eos_coef: weight of "no object" among the classes.
            num_points: points of a mask.
            oversample_ratio: how many times as many are drawn to choose from.
            importance_sample_ratio: share of the points that are the most uncertain ones; the rest
                is random.
        """
        super().__init__()
        self.num_classes = num_classes
        self.matcher = matcher
        self.weight_dict = dict(weight_dict)
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio
        class_weight = torch.ones(num_classes + 1)
        class_weight[-1] = eos_coef
        self.register_buffer("empty_weight", class_weight)

    def forward(self, outputs: dict, targets: Sequence[dict]) -> dict[str, Tensor]:
        """The weighted losses of every layer.

        Args:
            outputs: {"pred_logits": NxQx(classes + 1), "pred_masks": NxQxhxw logits, "aux_outputs":
                list of the same two for earlier layers}.
            targets: one {"labels": T int64, "masks": TxHxW bool} an image. H and W are the same for
                all and mean the extent of the predictions. T may be 0, or exceed Q: the targets
                that fit worst are then left out.

        Returns:
            "loss_ce", "loss_mask", "loss_dice", and the same with "_0", "_1", … for earlier layers.

        Raises:
            FloatingPointError: a loss is not finite; the message names it and the iteration.
        """
        layers = {"": outputs} | {f"_{i}": x for i, x in enumerate(outputs["aux_outputs"])}
        with torch.autocast(outputs["pred_logits"].device.type, enabled=False):
            masks = torch.cat([x["masks"] for x in targets]).float()
            counts = [len(x["labels"]) for x in targets]
            labels = [x["labels"] for x in targets]
            split = [
                {"labels": a, "masks": b} for a, b in zip(labels, masks.split(counts), strict=True)
            ]
            costs = self.matcher.costs(list(layers.values()), split)
            if not costs.isfinite().all():
                raise _not_finite(_guilty_loss(layers))
            indices = self._indices(costs, counts).to(masks.device)
            num_masks = _mean_over_workers(sum(counts), masks.device)

            losses = {}
            class_losses = self._class_losses(layers, torch.cat(labels), indices)
            for (suffix, layer), matched, loss in zip(
                layers.items(), indices, class_losses, strict=True
            ):
                images, queries, wanted = matched
                mask_losses = self._mask_losses(
                    layer["pred_masks"][images, queries].float(),
                    masks if len(wanted) == len(masks) else masks[wanted],
                    num_masks,
                )
                for name, value in {"loss_ce": loss, **mask_losses}.items():
                    losses[name + suffix] = self.weight_dict[name] * value
        finite = torch.stack(list(losses.values())).isfinite().tolist()
        if not all(finite):
            raise _not_finite(list(losses)[finite.index(False)])
        return losses

    def _indices(self, costs: Tensor, counts: Sequence[int]) -> Tensor:
        """layers x 3 x pairs: image, query, and target among those of the whole batch."""
        layers = []
        for layer in costs:
            start, parts = 0, []
            for image, (queries, wanted) in enumerate(self.matcher.assign(layer, counts)):
                images = torch.full_like(queries, image)
                parts.append(torch.stack([images, queries, wanted + start]))
                start += counts[image]
            layers.append(torch.cat(parts, dim=1))
        return torch.stack(layers)

    def _class_losses(self, layers: Mapping, labels: Tensor, indices: Tensor) -> Tensor:
        """Cross-entropy of each layer, a mean weighted by the classes' weights."""
        logits = torch.stack([layer["pred_logits"] for layer in layers.values()]).float()
        wanted = torch.full(logits.shape[:-1], self.num_classes, device=logits.device)
        layer = torch.arange(len(logits), device=logits.device)[:, None]
        wanted[layer, indices[:, 0], indices[:, 1]] = labels[indices[:, 2]]
        loss = F.cross_entropy(
            logits.flatten(0, 2), wanted.flatten(), weight=self.empty_weight, reduction="none"
        )
        return loss.view(len(logits), -1).sum(1) / self.empty_weight[wanted].flatten(1).sum(1)

    def _mask_losses(self, logits: Tensor, masks: Tensor, num_masks: Tensor) -> dict[str, Tensor]:
        """Losses of Mxhxw logits for MxHxW masks of 0 and 1."""
        if len(logits) == 0:
            # Nothing to learn, but the graph has to reach every parameter.
            return {"loss_mask": logits.sum(), "loss_dice": logits.sum()}
        logits, masks = logits[:, None], masks[:, None]
        with torch.no_grad():
            points = get_uncertain_point_coords_with_randomness(
                logits,
                lambda x: -x.abs(),
                self.num_points,
                self.oversample_ratio,
                self.importance_sample_ratio,
            )
            wanted = point_sample(masks, points, align_corners=False)[:, 0]
        logits = point_sample(logits, points, align_corners=False)[:, 0]
        cross_entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        inside = logits.sigmoid()
        overlap = 2 * (inside * wanted).sum(1) + 1
        dice = 1 - overlap / (inside.sum(1) + wanted.sum(1) + 1)
        return {
            "loss_mask": cross_entropy.mean(1).sum() / num_masks,
            "loss_dice": dice.sum() / num_masks,
        }


def _mean_over_workers(count: int, device: torch.device) -> Tensor:
    """The mean of a number over all processes, at least 1."""
    mean = torch.as_tensor(float(count), device=device)
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(mean)
        mean = mean / comm.get_world_size()
    return mean.clamp(min=1)


def _guilty_loss(layers: Mapping[str, dict]) -> str:
    """Name of the first loss whose predictions are not finite."""
    for suffix, layer in layers.items():
        for name, key in (("loss_ce", "pred_logits"), ("loss_mask", "pred_masks")):
            if not layer[key].isfinite().all():
                return name + suffix
    return "the matching cost"


def _not_finite(loss: str) -> FloatingPointError:
    try:
        when = f"at iteration {get_event_storage().iter}"
    except AssertionError:  # outside a training loop
        when = "in this batch"
    return FloatingPointError(
        f"{loss} is NaN or infinite {when}, because a prediction is. A lower SOLVER.BASE_LR, "
        "SOLVER.CLIP_GRADIENTS, or SOLVER.AMP.DTYPE 'bfloat16' instead of 'float16' may help; if "
        "it is so in the first iteration, look at MODEL.WEIGHTS and at the images"
    )
