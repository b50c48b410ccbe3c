"""Which prediction answers for which ground-truth segment (arXiv 2112.01527, section 3.3)."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.projects.point_rend.point_features import point_sample
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn


class HungarianMatcher(nn.Module):
    """Assigns predictions to targets one to one, so that the sum of their costs is least.

    The cost of a pair is its losses: minus the probability of the target's class, binary
    cross-entropy and dice of the masks, the latter two at random points of the image.
    """

    def __init__(self, cost_class: float, cost_mask: float, cost_dice: float, num_points: int):
        """
        Args:
            cost_class, cost_mask, cost_dice: weights of the three parts.
            num_points: points of an image, the same for all its masks.
        """
        super().__init__()
        self.cost_class = cost_class
        self.cost_mask = cost_mask
        self.cost_dice = cost_dice
        self.num_points = num_points

    @torch.no_grad()
    def costs(self, layers: Sequence[dict], targets: Sequence[dict]) -> Tensor:
        """The cost of every pair, computed where the predictions are and copied from there once.

        Args:
            layers: predictions of one or more layers, {"pred_logits": NxQx(classes + 1),
                "pred_masks": NxQxhxw logits}.
            targets: one {"labels": T int64, "masks": TxHxW float} an image. T may differ or
                be 0; the masks' extent is that of the predictions.

        Returns:
            layers x N x Q x (largest T), float32, on the CPU; 0 beyond an image's own T. Not finite
            where a prediction is not.
        """
        device = layers[0]["pred_logits"].device
        points = torch.rand(len(targets), self.num_points, 2, device=device)
        sampled = [
            point_sample(target["masks"][None], x[None], align_corners=False)[0]
            for target, x in zip(targets, points, strict=True)
        ]
        masks = nn.utils.rnn.pad_sequence(sampled, batch_first=True)
        labels = nn.utils.rnn.pad_sequence([x["labels"] for x in targets], batch_first=True)
        costs = [self._layer_costs(layer, points, labels, masks) for layer in layers]
        return torch.stack(costs).cpu()

    def _layer_costs(self, layer: dict, points: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
        """NxQxT costs of one layer for NxT labels and NxTxP mask values at NxPx2 points."""
        logits = point_sample(layer["pred_masks"].float(), points, align_corners=False)
        probability = layer["pred_logits"].float().softmax(-1)
        index = labels[:, None].expand(-1, probability.shape[1], -1)
        probability = probability.gather(-1, index)

        masks = masks.transpose(1, 2)
        # Cross-entropy is softplus(x) where the target is 0 and softplus(x) - x where it is 1.
        cross_entropy = F.softplus(logits).sum(-1, keepdim=True) - logits @ masks
        inside = logits.sigmoid()
        overlap = 2 * (inside @ masks) + 1
        dice = 1 - overlap / (inside.sum(-1, keepdim=True) + masks.sum(1, keepdim=True) + 1)
        return (
            self.cost_mask * cross_entropy / logits.shape[-1]
            + self.cost_dice * dice
            - self.cost_class * probability
        )

    @staticmethod
    def assign(costs: Tensor, counts: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """The cheapest assignment of one layer.

        Args:
            costs: NxQxT, finite, on the CPU.
            counts: how many of the T targets each image has.

        Returns:
            For every image the indices of queries and of targets, pair by pair, in the order of the
            targets; min(Q, count) pairs.
        """
        matches = []
        for cost, count in zip(costs.numpy(), counts, strict=True):
            queries, targets = linear_sum_assignment(cost[:, :count])
            order = np.argsort(targets)
            matches.append((torch.from_numpy(queries[order]), torch.from_numpy(targets[order])))
        return matches

    def forward(self, predictions: dict, targets: Sequence[dict]) -> list[tuple[Tensor, Tensor]]:
        """:meth:`costs` and :meth:`assign` of a single layer."""
        counts = [len(target["labels"]) for target in targets]
        return self.assign(self.costs([predictions], targets)[0], counts)
