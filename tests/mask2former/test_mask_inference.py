import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lrformer.modeling.mask2former.inference import (
    InstanceList,
    PanopticMap,
    SemanticMap,
)
from lrformer.modeling.mask2former.meta_arch import MaskFormer
from lrformer.ops import resize

CLASSES = 4


@pytest.fixture(autouse=True)
def _small_bands(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setitem(resize._BAND_VALUES, "cpu", 1000)


class Predictions(nn.Module):
    """Backbone and head of a model that predicts what it is given."""

    size_divisibility = 32
    num_classes = CLASSES

    def __init__(self, logits, masks):
        super().__init__()
        self.outputs = {"pred_logits": logits, "pred_masks": masks, "aux_outputs": []}

    def forward(self, x):
        return self.outputs


def model(logits, masks, **kwargs):
    stub = Predictions(logits, masks)
    return MaskFormer(
        backbone=stub,
        sem_seg_head=stub,
        criterion=None,
        pixel_mean=[0.0] * 3,
        pixel_std=[1.0] * 3,
        **kwargs,
    ).eval()


@pytest.mark.parametrize("before", [False, True])
def test_semantic_scores_equal_those_in_the_published_order(before):
    logits, masks = torch.randn(2, 9, CLASSES + 1), 3 * torch.randn(2, 9, 16, 24)
    images = [
        {"image": torch.zeros(3, 60, 90), "height": 31, "width": 45},
        {"image": torch.zeros(3, 64, 70)},
    ]
    got = model(logits, masks, sem_seg_postprocess_before_inference=before)(images)

    enlarged = F.interpolate(masks, (64, 96), mode="bilinear", align_corners=False)
    for i, (size, out) in enumerate([((60, 90), (31, 45)), ((64, 70), (64, 70))]):
        mask = enlarged[i : i + 1, :, : size[0], : size[1]]
        if before:
            mask = F.interpolate(mask, out, mode="bilinear", align_corners=False)
        weights = logits[i].softmax(-1)[:, :-1]
        expected = torch.einsum("qc,nqhw->nchw", weights, mask.sigmoid())
        if not before:
            expected = F.interpolate(expected, out, mode="bilinear", align_corners=False)
        torch.testing.assert_close(got[i]["sem_seg"], expected[0])
        assert set(got[i]) == {"sem_seg"}


def test_queries_are_never_all_at_full_size(monkeypatch):
    queries, side = 50, 256
    largest = 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel() * out.element_size())
            return out

    monkeypatch.setitem(resize._BAND_VALUES, "cpu", 2**18)
    logits, masks = torch.randn(1, queries, CLASSES + 1), torch.randn(1, queries, 64, 64)
    net = model(
        logits, masks, instance_on=True, panoptic_on=True, thing_classes=[0], max_instances=5
    )
    with Largest(), torch.no_grad():
        net([{"image": torch.zeros(3, side, side)}])
    assert largest < queries * side * side * 4 / 5


def class_logits(*labels):
    """Queries that are 80 % sure of a class each (CLASSES: of "no object")."""
    probability = torch.full((len(labels), CLASSES + 1), 0.2 / CLASSES)
    probability[range(len(labels)), labels] = 0.8
    return probability.log()


def run(task, masks):
    """Give a task masks of the final size, in two bands."""
    for band in (slice(0, 2), slice(2, masks.shape[1])):
        rows = masks[:, band].transpose(0, 1)
        task.add(band, rows, rows.sigmoid())
    return task.result()


def boxes(*corners, size=(4, 6), inside=2.0, outside=-2.0):
    masks = torch.full((len(corners), *size), outside)
    for mask, (x1, y1, x2, y2) in zip(masks, corners, strict=True):
        mask[y1:y2, x1:x2] = inside
    return masks


def test_semantic_map_by_hand():
    masks = boxes((0, 0, 3, 4), (3, 0, 6, 4))
    scores = run(SemanticMap(class_logits(1, 3), (4, 6)), masks)
    high, low = torch.tensor(2.0).sigmoid().item(), torch.tensor(-2.0).sigmoid().item()
    assert scores[1, 0, 0].item() == pytest.approx(0.8 * high + 0.05 * low)
    assert scores[3, 0, 0].item() == pytest.approx(0.05 * high + 0.8 * low)
    assert scores[0, 3, 5].item() == pytest.approx(0.05 * high + 0.05 * low)


def panoptic(logits, masks, overlap=0.8, threshold=0.5, things=(0, 1)):
    return run(PanopticMap(logits, tuple(masks.shape[1:]), threshold, overlap, things), masks)


def test_panoptic_merges_stuff_and_keeps_things_apart():
    masks = boxes((0, 0, 2, 2), (2, 0, 4, 2), (0, 2, 3, 4), (3, 2, 6, 4), (0, 0, 6, 4))
    segmentation, segments = panoptic(class_logits(1, 1, 3, 3, CLASSES), masks)
    assert [(s["id"], s["isthing"], s["category_id"]) for s in segments] == [
        (1, True, 1),
        (2, True, 1),
        (3, False, 3),
    ]
    assert segmentation.dtype == torch.int32
    assert segmentation.tolist() == [[1, 1, 2, 2, 0, 0]] * 2 + [[3] * 6] * 2


def test_panoptic_drops_a_segment_that_others_cover():
    masks = boxes((0, 0, 6, 4), (0, 0, 3, 4))
    masks[0, :, :3] = 1.0  # the first query is less sure there than the second
    logits = class_logits(1, 0)
    # Half of the first one's mask is left to it.
    assert [s["category_id"] for s in panoptic(logits, masks, overlap=0.4)[1]] == [1, 0]
    segmentation, segments = panoptic(logits, masks, overlap=0.6)
    assert [s["category_id"] for s in segments] == [0]
    assert segmentation.tolist() == [[1, 1, 1, 0, 0, 0]] * 4


@pytest.mark.parametrize("logits", [class_logits(CLASSES, CLASSES), class_logits(0, 1)])
def test_panoptic_without_any_sure_query_is_empty(logits):
    segmentation, segments = panoptic(logits, boxes((0, 0, 6, 4), (0, 0, 1, 1)), threshold=0.9)
    assert segments == [] and segmentation.abs().max() == 0


def test_panoptic_equals_the_published_rules_one_query_after_the_other():
    logits = 4 * torch.randn(30, CLASSES + 1)
    masks = F.interpolate(4 * torch.randn(1, 30, 5, 7) - 4, (40, 56), mode="bilinear")[0]
    things, threshold, overlap = (0, 2), 0.4, 0.3
    segmentation, segments = panoptic(logits, masks, overlap, threshold, things)

    scores, labels = logits.softmax(-1).max(-1)
    kept = [q for q in range(30) if labels[q] != CLASSES and scores[q] > threshold]
    inside = masks.sigmoid()[kept]
    winner = (scores[kept, None, None] * inside).argmax(0)
    expected, found, stuff, merged = torch.zeros(40, 56, dtype=torch.int32), [], {}, 0
    for i, query in enumerate(kept):
        won, whole = (winner == i).sum().item(), (inside[i] >= 0.5).sum().item()
        mask = (winner == i) & (inside[i] >= 0.5)
        if not mask.any() or won / whole < overlap:
            continue
        label = labels[query].item()
        if label in stuff:
            expected[mask] = stuff[label]
            merged += 1
            continue
        found.append((len(found) + 1, label))
        if label not in things:
            stuff[label] = len(found)
        expected[mask] = len(found)
    assert len(found) > 3 and merged > 0 and len(found) + merged < len(kept)
    assert [(s["id"], s["category_id"]) for s in segments] == found
    assert torch.equal(segmentation, expected)


def test_instances_by_hand():
    masks = boxes((0, 0, 2, 3), (3, 1, 6, 4))
    masks[1, 1, 3] = 0.5
    logits = class_logits(1, 2)
    instances = run(InstanceList(logits, (4, 6), max_instances=3), masks)
    assert instances.image_size == (4, 6) and len(instances) == 3
    assert set(instances.pred_classes[:2].tolist()) == {1, 2}
    second = instances[instances.pred_classes == 2]
    high, middle = torch.tensor(2.0).sigmoid().item(), torch.tensor(0.5).sigmoid().item()
    assert second.scores[0].item() == pytest.approx(0.8 * (8 * high + middle) / 9, rel=1e-5)
    assert second.pred_masks.dtype == torch.bool
    assert torch.equal(second.pred_masks[0], masks[1] > 0)
    assert second.pred_boxes.tensor[0].tolist() == [3, 1, 6, 4]


def test_instance_boxes_are_those_of_detectron2():
    masks = F.interpolate(torch.randn(1, 20, 5, 7), (23, 31), mode="bilinear")[0] - 0.8
    masks[3] = -1
    instances = run(InstanceList(torch.randn(20, CLASSES + 1), (23, 31), 40), masks)
    expected = BitMasks(instances.pred_masks).get_bounding_boxes()
    assert torch.equal(instances.pred_boxes.tensor, expected.tensor)


def test_only_things_are_instances_of_a_panoptic_model():
    masks = boxes((0, 0, 2, 2), (2, 0, 4, 2))
    instances = run(InstanceList(class_logits(1, 3), (4, 6), 100, classes=[0, 1]), masks)
    assert sorted(instances.pred_classes.tolist()) == [0, 0, 1, 1]


def test_model_without_a_task_or_without_things_is_refused():
    with pytest.raises(ValueError, match="SEMANTIC_ON, INSTANCE_ON and PANOPTIC_ON are all False"):
        model(None, None, semantic_on=False)
    with pytest.raises(ValueError, match="PANOPTIC_ON is True, but which classes are things"):
        model(None, None, panoptic_on=True)
