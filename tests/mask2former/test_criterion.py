import math

import pytest
import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from lrformer.modeling.mask2former.criterion import SetCriterion
from lrformer.modeling.mask2former.matcher import HungarianMatcher

CLASSES, POINTS = 4, 200
WEIGHTS = {"loss_ce": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}


def criterion(weights=WEIGHTS, points=POINTS):
    matcher = HungarianMatcher(cost_class=2, cost_mask=5, cost_dice=5, num_points=points)
    return SetCriterion(
        CLASSES,
        matcher=matcher,
        weight_dict=weights,
        eos_coef=0.1,
        num_points=points,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
    )


def predictions(images=2, queries=10, layers=1, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def layer():
        return {
            "pred_logits": torch.randn(
                images, queries, CLASSES + 1, generator=generator
            ).requires_grad_(),
            "pred_masks": torch.randn(images, queries, 8, 12, generator=generator).requires_grad_(),
        }

    return {**layer(), "aux_outputs": [layer() for _ in range(layers - 1)]}


def targets(*counts, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "labels": torch.randint(0, CLASSES, (n,), generator=generator),
            "masks": torch.randn(n, 32, 48, generator=generator) > 0.3,
        }
        for n in counts
    ]


@pytest.fixture
def same_points(monkeypatch):
    """Random points depend on nothing but how many are drawn."""

    def rand(*size, device=None):
        generator = torch.Generator().manual_seed(size[-2])
        return torch.empty(size[-2:]).uniform_(generator=generator).expand(size).clone()

    monkeypatch.setattr(torch, "rand", rand)


@pytest.mark.parametrize("counts", [(3, 5), (1, 0), (14, 2), (0, 0)])
def test_losses_and_gradients_equal_those_of_transformers(same_points, counts):
    modeling = pytest.importorskip("transformers.models.mask2former.modeling_mask2former")
    from transformers import Mask2FormerConfig

    config = Mask2FormerConfig(
        num_labels=CLASSES,
        class_weight=2.0,
        mask_weight=5.0,
        dice_weight=5.0,
        no_object_weight=0.1,
        train_num_points=POINTS,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
    )
    oracle = modeling.Mask2FormerLoss(config, {})
    wanted = targets(*counts)

    ours = predictions(layers=3)
    losses = criterion(dict.fromkeys(WEIGHTS, 1.0))(ours, wanted)
    sum(losses.values()).backward()

    theirs = predictions(layers=3)
    auxiliary = [
        {"class_queries_logits": x["pred_logits"], "masks_queries_logits": x["pred_masks"]}
        for x in theirs["aux_outputs"]
    ]
    expected = oracle(
        theirs["pred_masks"],
        theirs["pred_logits"],
        [x["masks"].float() for x in wanted],
        [x["labels"] for x in wanted],
        auxiliary,
    )
    sum(expected.values()).backward()

    renamed = {k.replace("cross_entropy", "ce"): v for k, v in expected.items()}
    assert set(losses) == set(renamed)
    for name, loss in losses.items():
        torch.testing.assert_close(loss, renamed[name], msg=lambda m, n=name: f"{n}: {m}")
    for a, b in zip([ours, *ours["aux_outputs"]], [theirs, *theirs["aux_outputs"]], strict=True):
        for key in ("pred_logits", "pred_masks"):
            torch.testing.assert_close(a[key].grad, b[key].grad, msg=lambda m, k=key: f"{k}: {m}")


def test_matching_equals_that_of_transformers(same_points):
    modeling = pytest.importorskip("transformers.models.mask2former.modeling_mask2former")
    outputs, wanted = predictions(images=3), targets(4, 0, 17)
    got = HungarianMatcher(2, 5, 3, POINTS)(
        outputs, [{**x, "masks": x["masks"].float()} for x in wanted]
    )
    expected = modeling.Mask2FormerHungarianMatcher(2, 5, 3, POINTS)(
        outputs["pred_masks"],
        outputs["pred_logits"],
        [x["masks"].float() for x in wanted],
        [x["labels"] for x in wanted],
    )
    assert [len(queries) for queries, _ in got] == [4, 0, 10]
    for a, b in zip(got, expected, strict=True):
        assert dict(zip(a[0].tolist(), a[1].tolist(), strict=True)) == dict(
            zip(b[0].tolist(), b[1].tolist(), strict=True)
        )


def test_losses_by_hand():
    # Masks that are the same everywhere, so that it does not matter where they are sampled. The
    # padding of grid_sample would show at the border: points are kept off it.
    outputs = predictions(images=1, queries=2)
    outputs["pred_masks"] = torch.tensor([3.0, -1.0]).view(1, 2, 1, 1).expand(1, 2, 8, 12)
    outputs["pred_logits"] = torch.tensor([[[0.0] * 5, [0, 0, 0, 0, 1.0]]])
    wanted = [{"labels": torch.tensor([2]), "masks": torch.ones(1, 32, 48)}]
    with pytest.MonkeyPatch.context() as patch:
        rand = torch.rand
        patch.setattr(torch, "rand", lambda *size, **kw: 0.25 + 0.5 * rand(*size, **kw))
        losses = criterion()(outputs, wanted)
        ((queries, _),) = criterion().matcher(outputs, wanted)

    assert queries.tolist() == [0]  # a better mask and a higher probability of class 2
    sure = 1 / (1 + math.exp(-3))
    assert losses["loss_mask"].item() == pytest.approx(5 * math.log(1 + math.exp(-3)), rel=1e-4)
    dice = 1 - (2 * POINTS * sure + 1) / (POINTS * sure + POINTS + 1)
    assert losses["loss_dice"].item() == pytest.approx(5 * dice, rel=1e-4)
    right = -math.log(1 / 5)
    no_object = -math.log(math.e / (4 + math.e))
    assert losses["loss_ce"].item() == pytest.approx(2 * (right + 0.1 * no_object) / 1.1, rel=1e-4)


def test_assignment_is_the_cheapest_of_all():
    from itertools import permutations

    cost = torch.rand(1, 5, 3, generator=torch.Generator().manual_seed(3))
    ((queries, wanted),) = HungarianMatcher.assign(cost, [3])
    got = cost[0, queries, wanted].sum().item()
    everyone = permutations(range(5), 3)
    best = min(sum(cost[0, q, t].item() for t, q in enumerate(p)) for p in everyone)
    assert got == pytest.approx(best) and wanted.tolist() == [0, 1, 2]


def test_order_of_the_images_does_not_matter(same_points):
    # A batch shares one padded cost matrix; an image must not see its neighbour's targets.
    outputs, wanted = predictions(), targets(2, 6)
    flipped = {k: v.flip(0) for k, v in outputs.items() if k != "aux_outputs"}
    losses = criterion()(outputs, wanted)
    other = criterion()({**flipped, "aux_outputs": []}, wanted[::-1])
    for name in losses:
        torch.testing.assert_close(losses[name], other[name])


@pytest.mark.parametrize("counts", [(0, 0), (0, 3), (25, 1)])
def test_images_without_objects_and_with_more_objects_than_queries(counts):
    outputs = predictions(layers=2)
    losses = criterion()(outputs, targets(*counts))
    sum(losses.values()).backward()
    assert all(x.isfinite() for x in losses.values())
    # Workers of a distributed training wait for every gradient.
    for layer in (outputs, *outputs["aux_outputs"]):
        assert layer["pred_logits"].grad.isfinite().all()
        assert layer["pred_masks"].grad.isfinite().all()
    if sum(counts) == 0:
        assert losses["loss_mask"].item() == losses["loss_dice"].item() == 0


def test_losses_are_normalised_by_the_masks_of_all_workers(monkeypatch, same_points):
    outputs, wanted = predictions(), targets(2, 1)
    alone = criterion()(outputs, wanted)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda x: x.add_(9))  # the other's masks
    together = criterion()(outputs, wanted)
    for name in ("loss_mask", "loss_dice"):
        torch.testing.assert_close(together[name] * (3 + 9) / 2, alone[name] * 3)
    torch.testing.assert_close(together["loss_ce"], alone["loss_ce"])


@pytest.mark.parametrize(
    ("layer", "key", "counts", "name"),
    [
        (None, "pred_logits", (2, 3), "loss_ce"),
        (None, "pred_masks", (2, 3), "loss_mask"),
        (1, "pred_masks", (2, 3), "loss_mask_1"),
        (0, "pred_logits", (2, 3), "loss_ce_0"),
        (0, "pred_logits", (0, 0), "loss_ce_0"),
    ],
)
def test_nan_names_the_loss_and_the_iteration(layer, key, counts, name):
    outputs = predictions(layers=3)
    part = outputs if layer is None else outputs["aux_outputs"][layer]
    part[key] = part[key].detach().clone()
    part[key][0, 3] = float("nan")
    with EventStorage(start_iter=17), pytest.raises(FloatingPointError) as error:
        criterion()(outputs, targets(*counts))
    assert str(error.value).startswith(f"{name} is NaN or infinite at iteration 17,")


def test_half_precision_predictions_are_judged_in_float32(same_points):
    outputs, wanted = predictions(), targets(3, 2)
    half = {k: v.detach().bfloat16() for k, v in outputs.items() if k != "aux_outputs"}
    exact = {k: v.float() for k, v in half.items()}
    with torch.autocast("cpu", torch.bfloat16):
        got = criterion()({**half, "aux_outputs": []}, wanted)
    expected = criterion()({**exact, "aux_outputs": []}, wanted)
    for name in expected:
        torch.testing.assert_close(got[name], expected[name])
