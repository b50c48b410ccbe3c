"""Pictures of predictions; one drawing function a kind of prediction."""

from .drawing import (
    SegmentationVisualizer,
    draw_instances,
    draw_panoptic_seg,
    draw_segments,
    draw_sem_seg,
)
from .job import DrawJob, OutputError
from .picture import Style, draw_picture
from .segments import Segment, segments_of_instances, segments_of_panoptic
from .sources import Source, collect, from_dataset, with_labels_from

__all__ = [
    "DrawJob",
    "OutputError",
    "Segment",
    "SegmentationVisualizer",
    "Source",
    "Style",
    "collect",
    "draw_instances",
    "draw_panoptic_seg",
    "draw_picture",
    "draw_segments",
    "draw_sem_seg",
    "from_dataset",
    "segments_of_instances",
    "segments_of_panoptic",
    "with_labels_from",
]
