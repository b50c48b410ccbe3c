"""Pictures of instances and panoptic segments: colours, outlines, labels, legends."""

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from detectron2.utils.visualizer import Visualizer

from lrformer.visualization import (
    SegmentationVisualizer,
    Style,
    draw_instances,
    draw_panoptic_seg,
    draw_picture,
)
from lrformer.visualization.lettering import place_beside

CAR, PERSON = 0, 1
NAMES = ["car", "person"]
COLORS = [[0, 0, 200], [200, 20, 60]]
STUFF_COLORS = [[70, 130, 180], [128, 64, 128]]


@pytest.fixture
def metadata():
    name = "segments_test_metadata"
    MetadataCatalog.pop(name, None)
    return MetadataCatalog.get(name).set(
        thing_classes=NAMES,
        thing_colors=COLORS,
        stuff_classes=["sky", "road"],
        stuff_colors=STUFF_COLORS,
    )


def grey(height=240, width=320):
    return np.full((height, width, 3), 100, np.uint8)


def box_mask(top, bottom, left, right, size=(240, 320)):
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def make_instances(*objects, size=(240, 320)):
    """Instances of (mask, class, score)."""
    masks, classes, scores = zip(*objects, strict=True) if objects else ((), (), ())
    instances = Instances(size)
    instances.pred_masks = torch.from_numpy(np.array(masks, bool).reshape(-1, *size))
    instances.pred_boxes = Boxes(torch.zeros(len(masks), 4))
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    instances.scores = torch.tensor(scores, dtype=torch.float32)
    return instances


def changed(drawn, image):
    return (drawn != image).any(axis=2)


def test_the_smaller_of_two_overlapping_instances_is_seen(metadata):
    image = grey()
    large = (box_mask(40, 200, 40, 280), CAR, 0.9)
    small = (box_mask(100, 140, 100, 140), PERSON, 0.8)
    for objects in ((large, small), (small, large)):
        instances = make_instances(*objects)
        drawn = draw_instances(image, instances, metadata, alpha=0.25, names=False)
        assert drawn[60, 60].tolist() == [75, 75, 125]  # 100 + (0 - 100) / 4, …
        # Not tinted twice.
        assert drawn[120, 120].tolist() == [125, 80, 90]
        assert drawn[20, 20].tolist() == [100, 100, 100]


def test_things_have_a_thin_light_outline_inside(metadata):
    mask = box_mask(40, 200, 0, 100)
    drawn = draw_instances(grey(), make_instances((mask, CAR, 1)), metadata, names=False)
    assert np.array_equal(changed(drawn, grey()), mask)
    inside = drawn[60, 50].astype(int)
    assert (drawn[40, 50] > inside + 40).all()
    assert drawn[42, 50].tolist() == inside.tolist()
    # There is no boundary where the picture ends.
    assert drawn[60, 0].tolist() == inside.tolist()
    assert (drawn[60, 99] > inside + 40).all()


def test_neighbours_of_a_class_differ_whatever_their_order(metadata):
    masks = [box_mask(50, 150, left, left + 40) for left in range(0, 320, 40)]
    for order in (range(8), reversed(range(8))):
        instances = make_instances(*[(masks[i], PERSON, 0.9) for i in order])
        drawn = draw_instances(grey(), instances, metadata, alpha=1, names=False)
        colors = drawn[100, 20::40].astype(int)
        assert colors[0].tolist() == COLORS[PERSON]
        steps = np.abs(np.diff(colors, axis=0)).max(axis=1)
        assert steps.min() > 20
        # They stay the red that the legend shows.
        assert (colors.argmax(axis=1) == 0).all()


def test_instances_below_the_threshold_are_left_out(metadata):
    sure, doubtful = box_mask(10, 60, 10, 60), box_mask(100, 160, 100, 160)
    instances = make_instances((sure, CAR, 0.5), (doubtful, CAR, 0.49))
    drawn = draw_instances(grey(), instances, metadata, names=False)
    assert np.array_equal(changed(drawn, grey()), sure)
    drawn = draw_instances(grey(), instances, metadata, names=False, score_threshold=0.3)
    assert np.array_equal(changed(drawn, grey()), sure | doubtful)


@pytest.mark.parametrize("objects", [[], [(box_mask(0, 240, 0, 320), CAR, 0.1)]])
def test_without_instances_the_picture_is_the_image(metadata, objects):
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    drawn = draw_picture(image, {"prediction": make_instances(*objects)}, metadata)
    assert np.array_equal(drawn, image)


def test_an_instance_of_no_pixel_is_left_out(metadata):
    instances = make_instances((np.zeros((240, 320), bool), CAR, 0.9))
    assert np.array_equal(draw_instances(grey(), instances, metadata), grey())


def written_by(instances, metadata, image):
    plain = draw_instances(image, instances, metadata, names=False)
    return changed(draw_instances(image, instances, metadata), plain)


def test_a_label_is_inside_where_it_fits_else_beside(metadata):
    large = box_mask(40, 120, 20, 200)
    written = written_by(make_instances((large, CAR, 0.93)), metadata, grey())
    assert written.any() and not (written & ~large).any()

    small = box_mask(150, 160, 200, 212)
    written = written_by(make_instances((small, CAR, 0.93)), metadata, grey())
    assert not (written & small).any()
    rows, columns = np.nonzero(written)
    # "car 93 %" in one line, just above and centred.
    assert 8 <= np.ptp(rows) <= 20 and 40 <= np.ptp(columns) <= 90
    assert rows.min() >= 130 and rows.max() < 150
    assert abs((columns.min() + columns.max()) / 2 - 206) < 6


def test_labels_neither_leave_the_picture_nor_cover_each_other(metadata):
    # Small instances close to each other and in the corners.
    objects = [
        (box_mask(y, y + 8, x, x + 8), CAR, 0.5 + 0.01 * i)
        for i, (y, x) in enumerate([(0, 0), (0, 312), (232, 0), (232, 312), (120, 150), (120, 160)])
    ]
    image = grey()
    each = [written_by(make_instances(one), metadata, image) for one in objects]
    for written in each:
        rows, columns = np.nonzero(written)
        assert np.ptp(columns) > 40  # the whole label
        assert columns.min() > 0 and columns.max() < 319
    together = written_by(make_instances(*objects), metadata, image)
    # Those in the middle share no pixel row, or no column.
    rows = np.nonzero(together[:, 100:220].any(axis=1))[0]
    assert np.ptp(rows) > 20
    assert together.sum() > 0.8 * sum(written.sum() for written in each)


def test_a_place_beside_avoids_text_and_other_things():
    mask = box_mask(100, 120, 100, 140)
    nothing = np.zeros_like(mask)
    above = place_beside(mask, nothing, nothing, 10, 60)
    assert above == (90, 90, 150, 100)
    text = box_mask(95, 97, 90, 95)
    below = place_beside(mask, text, nothing, 10, 60)
    assert below == (90, 120, 150, 130)
    right = place_beside(mask, text, box_mask(120, 240, 0, 110), 10, 60)
    assert right == (140, 105, 200, 115)
    assert place_beside(np.ones_like(mask), nothing, nothing, 10, 60) is None


def test_panoptic_stuff_is_plain_things_are_outlined_and_nothing_is_the_image(metadata):
    ids = np.zeros((240, 320), np.int32)
    ids[40:120] = 1
    ids[120:] = 2
    ids[140:220, 40:120] = 3
    ids[140:220, 120:200] = 7
    info = [
        {"id": 1, "category_id": 0, "isthing": False},
        {"id": 2, "category_id": 1, "isthing": False},
        {"id": 3, "category_id": CAR, "isthing": True, "score": 0.9},
        {"id": 7, "category_id": CAR, "isthing": True, "score": 0.9},
        {"id": 9, "category_id": PERSON, "isthing": True, "score": 0.9},  # of no pixel
    ]
    image = grey()
    for panoptic_seg in (ids, torch.from_numpy(ids)):
        drawn = draw_panoptic_seg(image, panoptic_seg, info, metadata, alpha=0.5, names=False)
        assert (drawn[:40] == 100).all()
        sky, road = [85, 115, 140], [114, 82, 114]
        assert (drawn[40:120] == sky).all()
        assert (drawn[120:140] == road).all() and (drawn[:, 220:][120:] == road).all()
        assert drawn[180, 80].tolist() == [50, 50, 150]
        assert drawn[180, 160].tolist() != [50, 50, 150]
        assert drawn[180, 40].min() > 120  # outline
    named = changed(draw_panoptic_seg(image, ids, info, metadata, alpha=0.5), drawn)
    # A name each in both stuff segments and both cars, and none where there is nothing.
    assert [named[ids == i].any() for i in (0, 1, 2, 3, 7)] == [False, True, True, True, True]


def test_a_name_that_does_not_fit_its_panoptic_segment_is_left_out(metadata):
    ids = np.zeros((240, 320), np.int32)
    ids[100:110, 100:110] = 1
    for isthing in (False, True):
        info = [
            {"id": 1, "category_id": 0, "isthing": isthing},
            {"id": 2, "category_id": 0, "isthing": False},
        ]
        ids[200:] = 2
        plain = draw_panoptic_seg(grey(), ids, info, metadata, names=False)
        named = changed(draw_panoptic_seg(grey(), ids, info, metadata), plain)
        assert set(ids[named].tolist()) == {2}


def colors_of(picture):
    return {tuple(color) for color in picture.reshape(-1, 3).tolist()}


def test_the_legend_shows_the_classes_of_what_is_drawn(metadata):
    instances = make_instances(
        (box_mask(10, 60, 10, 60), CAR, 0.9), (box_mask(100, 150, 100, 150), PERSON, 0.3)
    )
    legend = draw_picture(grey(), {"prediction": instances}, metadata)[240:]
    assert tuple(COLORS[CAR]) in colors_of(legend)
    assert tuple(COLORS[PERSON]) not in colors_of(legend)

    ids = box_mask(10, 60, 10, 60).astype(np.int32)
    info = [{"id": 1, "category_id": 1, "isthing": False}]
    legend = draw_picture(grey(), {"prediction": (ids, info)}, metadata)[240:]
    assert tuple(STUFF_COLORS[1]) in colors_of(legend)
    assert not {tuple(COLORS[1]), tuple(STUFF_COLORS[0])} & colors_of(legend)


def test_things_and_stuff_in_one_list_of_names():
    """COCO panoptic's metadata names all classes in both lists."""
    metadata = MetadataCatalog.get("segments_test_one_list")
    if not metadata.get("stuff_classes"):
        metadata.set(thing_classes=["car", "road"], stuff_classes=["car", "road"])
        metadata.set(thing_colors=COLORS, stuff_colors=COLORS)
    ids = np.zeros((240, 320), np.int32)
    info = [{"id": 1, "category_id": 1, "isthing": False}]
    frames = [draw_picture(grey(), {"p": (ids, info)}, metadata, video=True) for _ in range(2)]
    swatches = frames[0][240:]
    assert {tuple(c) for c in COLORS} <= colors_of(swatches)
    # Two swatches, not four.
    assert (swatches == COLORS[1]).all(axis=2).any(axis=0).sum() < 20


@pytest.mark.parametrize("kind", ["instances", "panoptic"])
def test_the_frames_of_a_video_have_one_size_and_steady_colours(metadata, kind):
    first, second = box_mask(50, 150, 100, 150), box_mask(50, 150, 200, 250)
    pictures = []
    for masks in ([second], [first, second], []):
        if kind == "instances":
            prediction = make_instances(*[(mask, CAR, 0.9) for mask in masks])
        else:
            ids = np.zeros((240, 320), np.int32)
            for i, mask in enumerate(masks, 1):
                ids[mask] = i
            info = [{"id": i + 1, "category_id": CAR, "isthing": True} for i in range(len(masks))]
            prediction = (ids, info)
        pictures.append(draw_picture(grey(), {"p": prediction}, metadata, video=True))
    assert len({picture.shape for picture in pictures}) == 1
    assert all(np.array_equal(picture[240:], pictures[0][240:]) for picture in pictures)
    # One that appears on its left does not change a car's colour.
    assert np.array_equal(pictures[0][:240, 200:250], pictures[1][:240, 200:250])
    assert np.array_equal(pictures[2][:240], grey())


def test_a_larger_picture_has_larger_masks(metadata):
    mask = box_mask(40, 80, 40, 80)
    style = Style(scale=2, names=False, legend=False, alpha=1)
    drawn = draw_picture(grey(), {"p": make_instances((mask, CAR, 1))}, metadata, style)
    assert drawn.shape == (480, 640, 3)
    assert drawn[150, 150].tolist() == COLORS[CAR]
    assert np.array_equal(changed(drawn, grey(480, 640)), np.kron(mask, np.ones((2, 2), bool)))


def test_detectron2s_calls_work(metadata):
    """What projects call on detectron2's Visualizer."""
    instances = make_instances((box_mask(10, 60, 10, 160), CAR, 0.9))
    visualizer = SegmentationVisualizer(grey(), metadata, scale=2)
    assert isinstance(visualizer, Visualizer)
    assert visualizer.draw_instance_predictions(instances).get_image().shape == (480, 640, 3)
    ids = torch.from_numpy(box_mask(10, 60, 10, 160).astype(np.int32))
    info = [{"id": 1, "category_id": 0, "isthing": False}]
    drawn = SegmentationVisualizer(grey(), metadata).draw_panoptic_seg_predictions(ids, info)
    expected = draw_panoptic_seg(grey(), ids, info, metadata)
    assert np.abs(drawn.get_image().astype(int) - expected).mean() < 1


def test_what_does_not_fit_is_refused(metadata):
    instances = make_instances((box_mask(0, 5, 0, 5, (10, 10)), CAR, 0.9), size=(10, 10))
    with pytest.raises(ValueError, match="a mask is 10 x 10 and its image 240 x 320"):
        draw_instances(grey(), instances, metadata)
    with pytest.raises(ValueError, match="the panoptic map is 10 x 10 and its image 240 x 320"):
        draw_panoptic_seg(grey(), np.zeros((10, 10), int), [], metadata)
    instances.remove("pred_masks")
    with pytest.raises(ValueError, match="no pred_masks.*they have: pred_boxes"):
        draw_instances(grey(), instances, metadata)
