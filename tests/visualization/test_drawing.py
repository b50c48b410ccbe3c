"""Pictures of class maps: where names may be written, and what a legend shows."""

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from detectron2.utils.visualizer import VisImage, Visualizer

from lrformer.visualization import SegmentationVisualizer, Style, draw_picture, draw_sem_seg
from lrformer.visualization.layout import draw_legend

COLORS = [[70, 130, 180], [128, 64, 128], [220, 20, 60]]


@pytest.fixture
def metadata():
    name = "drawing_test_metadata"
    MetadataCatalog.pop(name, None)
    return MetadataCatalog.get(name).set(
        stuff_classes=["sky", "road", "person with a very long name"],
        stuff_colors=COLORS,
        ignore_label=255,
    )


@pytest.fixture
def scene():
    """A grey image; sky above road, a small person, and an ignored corner."""
    sem_seg = np.zeros((240, 320), np.int64)
    sem_seg[110:] = 1
    sem_seg[90:150, 150:170] = 2
    sem_seg[:40, :40] = 255
    return np.full((240, 320, 3), 100, np.uint8), sem_seg


def test_names_stay_inside_their_segments_and_small_segments_have_none(scene, metadata):
    image, sem_seg = scene
    plain = draw_sem_seg(image, sem_seg, metadata, names=False)
    named = draw_sem_seg(image, sem_seg, metadata, names=True)
    assert named.shape == image.shape
    written = (named != plain).any(axis=2)
    assert set(np.unique(sem_seg[written])) == {0, 1}
    for label in (0, 1):
        rows, columns = np.nonzero(written & (sem_seg == label))
        # One word in one place, large enough to be read.
        assert 8 <= np.ptp(rows) <= 30 and 15 <= np.ptp(columns) <= 80


def test_a_name_is_written_where_it_fits_and_only_there(metadata):
    sem_seg = np.full((240, 320), 255)
    sem_seg[20:30] = 0  # too low for its name
    sem_seg[60:84, :200] = 1  # just high enough
    sem_seg[150:, :20] = 2  # high enough, but too narrow
    image = np.full((240, 320, 3), 100, np.uint8)
    plain = draw_sem_seg(image, sem_seg, metadata, names=False)
    written = (draw_sem_seg(image, sem_seg, metadata, names=True) != plain).any(axis=2)
    assert np.unique(sem_seg[written]).tolist() == [1]
    rows, columns = np.nonzero(written)
    # "road" is in the middle of the strip.
    assert abs((rows.min() + rows.max()) / 2 - 71.5) < 3
    assert abs((columns.min() + columns.max()) / 2 - 99.5) < 3


def test_colours_are_blended_and_ignored_pixels_left(scene, metadata):
    image, sem_seg = scene
    drawn = draw_sem_seg(image, sem_seg, metadata, alpha=0.25, names=False)
    assert drawn[200, 10].tolist() == [107, 91, 107]  # 100 + (128 - 100) / 4, ...
    assert drawn[10, 10].tolist() == [100, 100, 100]
    assert np.array_equal(draw_sem_seg(image, sem_seg, metadata, alpha=0, names=False), image)
    opaque = draw_sem_seg(image, sem_seg, metadata, alpha=1, names=False)
    assert opaque[100, 160].tolist() == COLORS[2]


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (361, 481), (37, 1200)])
def test_any_size(size, metadata):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    sem_seg = np.ones(size, np.uint8)
    drawn = draw_sem_seg(image, sem_seg, metadata, alpha=0, names=True)
    assert drawn.shape == image.shape
    if min(size) < 10:  # too small for a name
        # What detectron2 gives back for an image with nothing drawn on it: matplotlib before 3.11
        # resamples it.
        assert np.array_equal(drawn, VisImage(image).get_image())


def test_it_is_one_of_detectron2s_visualizers(scene, metadata):
    image, sem_seg = scene
    visualizer = SegmentationVisualizer(image, metadata)
    assert isinstance(visualizer, Visualizer)
    output = visualizer.draw_sem_seg(sem_seg, area_threshold=10**6, alpha=0.6)
    drawn = draw_sem_seg(image, sem_seg, metadata, alpha=0.6, names=False)
    assert np.abs(output.get_image().astype(int) - drawn).mean() < 1


def test_classes_without_names_or_colours_can_be_drawn():
    metadata = MetadataCatalog.get("drawing_test_empty")
    image, sem_seg = np.zeros((64, 64, 3), np.uint8), np.full((64, 64), 200)
    sem_seg[32:] = 3
    drawn = draw_picture(image, {"prediction": sem_seg}, metadata, Style(alpha=1, names=False))
    assert drawn.shape[0] > 64
    assert drawn[0, 0].tolist() != drawn[40, 0].tolist()


def test_a_size_that_differs_is_named(scene, metadata):
    image, sem_seg = scene
    with pytest.raises(ValueError, match="class map is 120 x 320 and its image 240 x 320"):
        draw_sem_seg(image, sem_seg[:120], metadata)


def colors_of(picture):
    return {tuple(color) for color in picture.reshape(-1, 3).tolist()}


def test_a_legend_shows_the_classes_that_are_present(scene, metadata):
    image, sem_seg = scene
    drawn = draw_picture(image, {"prediction": np.minimum(sem_seg, 1)}, metadata, Style(alpha=0))
    legend = colors_of(drawn[240:])
    assert tuple(COLORS[0]) in legend and tuple(COLORS[1]) in legend
    assert tuple(COLORS[2]) not in legend


def test_a_legend_of_given_rows_names_the_rest():
    many = [(f"class number {i}", (i, 0, 0)) for i in range(60)]
    heights = [draw_legend(many[:n], 300, 14, rows=2).shape[0] for n in (0, 1, 60)]
    assert len(set(heights)) == 1
    assert draw_legend(many, 300, 14).shape[0] > 10 * heights[0]
    # A name that is wider than the legend does not hang it.
    long = [("person with a very long name", (220, 20, 60))]
    assert draw_legend(long, 50, 14, rows=1).shape[1] == 50


def test_the_frames_of_a_video_have_one_size_and_no_jumping_names(metadata):
    image = np.full((120, 300, 3), 90, np.uint8)
    frames = [np.full((120, 300), label) for label in (0, 1, 255)]
    pictures = [draw_picture(image, {"p": frame}, metadata, video=True) for frame in frames]
    assert len({p.shape for p in pictures}) == 1
    for picture in pictures:
        assert len(colors_of(picture[:120])) == 1
        assert np.array_equal(picture[120:], pictures[0][120:])
