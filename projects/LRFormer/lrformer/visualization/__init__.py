"""Pictures of predictions; one drawing function a kind of prediction."""

from .drawing import SemSegVisualizer, draw_sem_seg
from .job import DrawJob, OutputError
from .picture import Style, draw_picture
from .sources import Source, collect, from_dataset, with_labels_from

__all__ = [
    "DrawJob",
    "OutputError",
    "SemSegVisualizer",
    "Source",
    "Style",
    "collect",
    "draw_picture",
    "draw_sem_seg",
    "from_dataset",
    "with_labels_from",
]
