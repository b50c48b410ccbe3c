"""Pictures of predictions: classes, instances and panoptic segments over their images."""

from .drawing import SegmentationVisualizer
from .job import DrawJob
from .picture import Style, draw_picture
from .segments import Segment, segments_of
from .sources import Source, collect, from_dataset, with_labels_from, with_phrases

__all__ = [
    "DrawJob",
    "Segment",
    "SegmentationVisualizer",
    "Source",
    "Style",
    "collect",
    "draw_picture",
    "from_dataset",
    "segments_of",
    "with_labels_from",
    "with_phrases",
]
