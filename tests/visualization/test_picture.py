"""Pictures: colours, outlines, where names may be written, and what a legend shows."""

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances

from lrformer.visualization import Style, draw_picture

SKY, ROAD = 0, 1
CAR, PERSON = 0, 1
STUFF_COLORS = [[70, 130, 180], [128, 64, 128], [20, 220, 60]]
THING_COLORS = [[0, 0, 200], [200, 20, 60]]
METADATA = Metadata(
    stuff_classes=["sky", "road", "grass with a very long name"],
    stuff_colors=STUFF_COLORS,
    thing_classes=["car", "person"],
    thing_colors=THING_COLORS,
    ignore_label=255,
)
SIZE = (240, 320)


def grey(size=SIZE):
    return np.full((*size, 3), 100, np.uint8)


def draw(prediction, image=None, video=False, **style):
    """The picture without legend and names, unless they are asked for."""
    style = Style(**{"names": False, "legend": False, **style})
    image = grey() if image is None else image
    return draw_picture(image, {"prediction": prediction}, METADATA, style, video=video)


def changed(drawn, other):
    return (drawn != other).any(axis=2)


def written(prediction):
    return changed(draw(prediction, names=True), draw(prediction))


def colors_of(picture):
    return {tuple(color) for color in picture.reshape(-1, 3).tolist()}


def box_mask(top, bottom, left, right, size=SIZE):
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def make_instances(*objects):
    """Instances of (mask, class, score)."""
    masks, classes, scores = zip(*objects, strict=True) if objects else ((), (), ())
    return Instances(
        SIZE,
        pred_masks=torch.from_numpy(np.array(masks, bool).reshape(-1, *SIZE)),
        pred_boxes=Boxes(torch.zeros(len(masks), 4)),
        pred_classes=torch.tensor(classes, dtype=torch.int64),
        scores=torch.tensor(scores, dtype=torch.float32),
    )


def make_panoptic(*segments):
    """A panoptic map of (mask, class, whether it is a thing), numbered from 1."""
    ids, info = np.zeros(SIZE, np.int32), []
    for number, (mask, label, thing) in enumerate(segments, 1):
        ids[mask] = number
        info.append({"id": number, "category_id": label, "isthing": thing})
    return ids, info


# Sky above road, a small patch of grass, and an ignored corner.
SCENE = np.full(SIZE, SKY)
SCENE[110:] = ROAD
SCENE[90:150, 150:170] = 2
SCENE[:40, :40] = 255


def test_colours_are_blended_and_ignored_pixels_left():
    drawn = draw(SCENE, alpha=0.25)
    assert drawn[200, 10].tolist() == [107, 91, 107]  # 100 + (128 - 100) / 4, ...
    assert drawn[10, 10].tolist() == [100, 100, 100]
    assert np.array_equal(draw(SCENE, alpha=0), grey())
    assert draw(SCENE, alpha=1)[100, 160].tolist() == STUFF_COLORS[2]


def test_a_name_is_written_where_it_fits_and_only_there():
    sem_seg = np.full(SIZE, 255)
    sem_seg[20:30] = SKY  # too low for its name
    sem_seg[60:84, :200] = ROAD  # just high enough
    sem_seg[150:, :20] = 2  # high enough, but too narrow
    pixels = written(sem_seg)
    assert np.unique(sem_seg[pixels]).tolist() == [ROAD]
    rows, columns = np.nonzero(pixels)
    assert 8 <= np.ptp(rows) <= 22 and 15 <= np.ptp(columns) <= 80  # can be read
    middle = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
    assert np.abs(np.subtract(middle, (71.5, 99.5))).max() < 3  # of the strip


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (37, 1200)])
def test_any_size(size):
    assert draw(np.ones(size, np.uint8), grey(size), names=True).shape == (*size, 3)


def test_classes_without_names_or_colours_can_be_drawn():
    image, sem_seg = np.zeros((64, 64, 3), np.uint8), np.full((64, 64), 200)
    sem_seg[32:] = 3
    drawn = draw_picture(image, {"prediction": sem_seg}, Metadata(), Style(alpha=1))
    assert drawn.shape[0] > 64
    assert drawn[0, 0].tolist() != drawn[40, 0].tolist()


def test_the_smaller_of_two_overlapping_instances_is_seen():
    large = (box_mask(40, 200, 40, 280), CAR, 0.9)
    small = (box_mask(100, 140, 100, 140), PERSON, 0.8)
    for objects in ((large, small), (small, large)):
        drawn = draw(make_instances(*objects), alpha=0.25)
        assert drawn[60, 60].tolist() == [75, 75, 125]  # 100 + (0 - 100) / 4, …
        assert drawn[120, 120].tolist() == [125, 80, 90]  # not tinted twice
        assert drawn[20, 20].tolist() == [100, 100, 100]


def test_things_have_a_thin_light_outline_inside():
    mask = box_mask(40, 200, 0, 100)
    drawn = draw(make_instances((mask, CAR, 1)))
    assert np.array_equal(changed(drawn, grey()), mask)
    inside = drawn[60, 50].astype(int)
    assert (drawn[40, 50] > inside + 40).all() and (drawn[60, 99] > inside + 40).all()
    # Neither further inside nor where the picture ends.
    assert drawn[42, 50].tolist() == drawn[60, 0].tolist() == inside.tolist()


def test_neighbours_of_a_class_differ_whatever_their_order():
    masks = [box_mask(50, 150, left, left + 40) for left in range(0, 320, 40)]
    for order in (range(8), reversed(range(8))):
        drawn = draw(make_instances(*[(masks[i], PERSON, 0.9) for i in order]), alpha=1)
        colors = drawn[100, 20::40].astype(int)
        assert colors[0].tolist() == THING_COLORS[PERSON]
        assert np.abs(np.diff(colors, axis=0)).max(axis=1).min() > 20
        # They stay the red that the legend shows.
        assert (colors.argmax(axis=1) == 0).all()


def test_instances_below_the_threshold_are_left_out():
    sure, doubtful = box_mask(10, 60, 10, 60), box_mask(100, 160, 100, 160)
    instances = make_instances((sure, CAR, 0.5), (doubtful, CAR, 0.49))
    assert np.array_equal(changed(draw(instances), grey()), sure)
    assert np.array_equal(changed(draw(instances, score_threshold=0.3), grey()), sure | doubtful)


def test_without_instances_the_picture_is_the_image():
    everywhere, nowhere = np.ones(SIZE, bool), np.zeros(SIZE, bool)
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    for objects in ([], [(everywhere, CAR, 0.1)], [(nowhere, CAR, 0.9)]):
        drawn = draw(make_instances(*objects), image, names=True, legend=True)
        assert np.array_equal(drawn, image)


def test_a_label_is_inside_where_it_fits_else_beside():
    large = box_mask(40, 120, 20, 200)
    pixels = written(make_instances((large, CAR, 0.93)))
    assert pixels.any() and not (pixels & ~large).any()

    small = (box_mask(150, 160, 200, 212), CAR, 0.93)
    rows, columns = np.nonzero(written(make_instances(small)))
    # "car 93 %" in one line, just above and centred.
    assert 8 <= np.ptp(rows) <= 20 and 40 <= np.ptp(columns) <= 90
    assert rows.min() >= 130 and rows.max() < 150
    assert abs((columns.min() + columns.max()) / 2 - 206) < 6
    # Below, where another instance is above.
    above = (box_mask(100, 150, 150, 260), PERSON, 0.8)
    assert written(make_instances(small, above))[160:180, 170:240].any()


def test_labels_neither_leave_the_picture_nor_cover_each_other():
    # Small instances in the corners, and two close to each other.
    places = [(0, 0), (0, 312), (232, 0), (232, 312), (120, 150), (120, 160)]
    objects = [(box_mask(y, y + 8, x, x + 8), CAR, 0.5 + 0.01 * x / 16) for y, x in places]
    each = [written(make_instances(one)) for one in objects]
    for pixels in each:
        columns = np.nonzero(pixels)[1]
        assert np.ptp(columns) > 40 and columns.min() > 0 and columns.max() < 319
    assert written(make_instances(*objects)).sum() > 0.8 * sum(pixels.sum() for pixels in each)


def test_panoptic_stuff_is_plain_things_are_outlined_and_nothing_is_the_image():
    segments = [
        (box_mask(40, 120, 0, 320), SKY, False),
        (box_mask(120, 240, 0, 320), ROAD, False),
        (box_mask(140, 220, 40, 120), CAR, True),
        (box_mask(140, 220, 120, 200), CAR, True),
        (box_mask(0, 0, 0, 0), PERSON, True),
        (box_mask(200, 210, 280, 290), PERSON, True),  # too small for its name
    ]
    panoptic = make_panoptic(*segments)
    drawn = draw(panoptic, alpha=0.5)
    assert (drawn[:40] == 100).all()
    assert (drawn[40:120] == [85, 115, 140]).all()
    assert (drawn[120:140] == [114, 82, 114]).all()
    assert drawn[180, 80].tolist() == [50, 50, 150]
    assert drawn[180, 160].tolist() != [50, 50, 150]
    assert drawn[180, 40].min() > 120  # outline
    # A name each in both stuff segments and both cars, and none where there is nothing.
    assert sorted(set(panoptic[0][written(panoptic)].tolist())) == [1, 2, 3, 4]


def test_the_legend_shows_the_classes_of_what_is_drawn():
    masks = box_mask(10, 60, 10, 60), box_mask(100, 150, 100, 150)
    sky, road, grass, car, person = (tuple(color) for color in STUFF_COLORS + THING_COLORS)
    for prediction, present in (
        (np.minimum(SCENE, ROAD), {sky, road}),
        (make_instances((masks[0], CAR, 0.9), (masks[1], PERSON, 0.3)), {car}),
        (make_panoptic((masks[0], ROAD, False)), {road}),
    ):
        shown = colors_of(draw(prediction, alpha=0, legend=True)[240:])
        assert shown & {sky, road, grass, car, person} == present


@pytest.mark.parametrize(
    "make",
    [
        lambda masks: np.where(np.any(masks, axis=0), ROAD, 255),
        lambda masks: make_instances(*[(mask, CAR, 0.9) for mask in masks]),
        lambda masks: make_panoptic(*[(mask, CAR, True) for mask in masks]),
    ],
    ids=["semantic", "instance", "panoptic"],
)
def test_the_frames_of_a_video_have_one_size_and_steady_colours(make):
    cars = [box_mask(50, 150, 100, 150), box_mask(50, 150, 200, 250)]
    groups = (cars[1:], cars, [np.zeros(SIZE, bool)])
    pictures = [draw(make(g), video=True, names=True, legend=True) for g in groups]
    assert len({picture.shape for picture in pictures}) == 1
    assert all(np.array_equal(picture[240:], pictures[0][240:]) for picture in pictures)
    # One that appears on its left does not change a car's colour, and no name jumps.
    assert np.array_equal(pictures[0][:240, 200:250], pictures[1][:240, 200:250])
    assert np.array_equal(pictures[2][:240], grey())


@pytest.mark.parametrize("width", [30, 320])
def test_a_video_of_many_classes_has_a_legend_of_three_rows(width):
    metadata = Metadata(stuff_classes=[f"class number {i}" for i in range(60)])
    size = (240, width)
    frames = [np.full(size, 7), np.arange(240 * width).reshape(size) % 60]
    pictures = [draw_picture(grey(size), {"p": f}, metadata, video=True) for f in frames]
    assert pictures[0].shape == pictures[1].shape and pictures[0].shape[0] < 240 + 100


def test_things_and_stuff_in_one_list_of_names():
    """COCO panoptic's metadata names all classes in both lists."""
    names, colors = ["car", "road"], THING_COLORS
    metadata = Metadata(
        thing_classes=names, stuff_classes=names, thing_colors=colors, stuff_colors=colors
    )
    prediction = make_panoptic((box_mask(0, 0, 0, 0), 1, False))
    swatches = draw_picture(grey(), {"p": prediction}, metadata, video=True)[240:]
    assert {tuple(c) for c in colors} <= colors_of(swatches)
    # Two swatches, not four.
    assert (swatches == colors[1]).all(axis=2).any(axis=0).sum() < 20


def test_a_larger_picture_has_larger_masks():
    mask = box_mask(40, 80, 40, 80)
    drawn = draw(make_instances((mask, CAR, 1)), scale=2, alpha=1)
    assert drawn[150, 150].tolist() == THING_COLORS[CAR]
    larger = np.kron(mask, np.ones((2, 2), bool))
    assert np.array_equal(changed(drawn, grey((480, 640))), larger)
