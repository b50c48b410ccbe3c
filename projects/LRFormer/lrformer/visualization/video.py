"""Reading and writing video files with OpenCV."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

# Of the videos that are written: what OpenCV's wheels can encode on every platform.
SUFFIX = ".mp4"
_CODEC = "mp4v"


class VideoError(ValueError):
    """A video cannot be read or written."""


class VideoReader:
    """The frames of a video, H x W x 3 RGB uint8, in order.

    Attributes:
        fps: frames per second, or 25 where the file does not say.
        num_frames: how many the file says it has, or None where it does not say.

    Raises:
        VideoError: the file is no video that OpenCV can read, or it has no frame.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise VideoError(f"cannot read the video {path}: it is damaged or of an unknown format")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps < math.inf else 25.0
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.num_frames = int(count) if 0 < count < math.inf else None

    def __iter__(self) -> Iterator[np.ndarray]:
        read, frame = self._capture.read()
        if not read:
            raise VideoError(f"cannot read the video {self._path}: not one frame can be decoded")
        while read:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            read, frame = self._capture.read()
        self._capture.release()


@contextmanager
def write_video(path: Path, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends a frame, H x W x 3 RGB uint8, to a new MPEG-4 video.

    All frames have one size; an odd side is repeated at its end, as codecs need. After an exception
    no file is left.

    Raises:
        VideoError: this build of OpenCV cannot write such videos.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    writer = cv2.VideoWriter()

    def write(frame: np.ndarray) -> None:
        frame = np.pad(frame, [(0, side % 2) for side in frame.shape[:2]] + [(0, 0)], mode="edge")
        if not writer.isOpened():
            codec = cv2.VideoWriter_fourcc(*_CODEC)
            writer.open(str(partial), codec, fps, (frame.shape[1], frame.shape[0]))
        if not writer.isOpened():
            raise VideoError(
                f"cannot write the video {path}: OpenCV {cv2.__version__} here has no encoder for "
                f"{_CODEC}; the wheels opencv-python(-headless) have one"
            )
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    try:
        yield write
        writer.release()
        os.replace(partial, path)
    finally:
        writer.release()
        partial.unlink(missing_ok=True)
