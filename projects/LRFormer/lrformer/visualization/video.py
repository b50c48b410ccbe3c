"""Reading and writing video files with OpenCV."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

# The suffix of the videos that are written, and OpenCV's name for the codec: MPEG-4 in MP4 is what
# its wheels can encode on every platform.
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
        self.fps = fps if math.isfinite(fps) and fps > 0 else 25.0
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.num_frames = int(count) if math.isfinite(count) and count > 0 else None

    def __iter__(self) -> Iterator[np.ndarray]:
        empty = True
        while True:
            read, frame = self._capture.read()
            if not read:
                break
            empty = False
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        self._capture.release()
        if empty:
            raise VideoError(f"cannot read the video {self._path}: not one frame can be decoded")


class VideoWriter:
    """Writes frames of one size as MPEG-4; a context manager.

    The file appears under its name when all went well; after an exception nothing is left.

    Args:
        path: file to write, ending in ``.mp4``.
        fps: frames per second.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._partial = path.with_name(f"{path.stem}.partial{path.suffix}")
        self._fps = fps
        self._writer: cv2.VideoWriter | None = None

    def __enter__(self) -> "VideoWriter":
        return self

    def write(self, frame: np.ndarray) -> None:
        """Append a frame, H x W x 3 RGB uint8; an odd side is repeated at its end, as codecs need.

        Raises:
            VideoError: this build of OpenCV cannot write such videos.
        """
        frame = np.pad(frame, [(0, side % 2) for side in frame.shape[:2]] + [(0, 0)], mode="edge")
        height, width = frame.shape[:2]
        if self._writer is None:
            codec = cv2.VideoWriter_fourcc(*_CODEC)
            self._writer = cv2.VideoWriter(str(self._partial), codec, self._fps, (width, height))
            if not self._writer.isOpened():
                raise VideoError(
                    f"cannot write the video {self._path}: OpenCV {cv2.__version__} has no encoder "
                    f"for {_CODEC} here; the wheels opencv-python and opencv-python-headless have "
                    "one. Or split the video into images and draw those"
                )
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.release()
        if kind is None and self._partial.exists():
            os.replace(self._partial, self._path)
        else:
            self._partial.unlink(missing_ok=True)
