"""Drawing many files: predict, draw, write, and tell what could not be read."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from lrformer.data import DatasetError
from lrformer.data.reading import check_label, read_image, read_label

from .picture import Style, draw_picture
from .sources import Source
from .video import SUFFIX as VIDEO_SUFFIX
from .video import VideoError, VideoReader, VideoWriter


class OutputError(ValueError):
    """A picture would be written over an input or over another picture."""


@dataclass
class Result:
    """What :func:`draw_sources` did: how many files it drew, and a line for each it could not."""

    drawn: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DrawJob:
    """Draws a model's predictions on files.

    ``output/name.png`` is the picture of the source ``name``, ``output/name.mp4`` that of a video.

    Args:
        predict: RGB uint8 H x W x 3 to class map H x W; a :class:`~lrformer.Predictor` is one.
        metadata: detectron2 metadata with the classes' names and colours.
        output: folder to write to; made where it does not exist.
        style: how the pictures look.
        suffix: of the pictures: ".png", ".jpg" or another that Pillow writes.
        label_maps: also write class indices as PNG files of 8 bits (16 for labels above 255):
            ``output/label_maps/name.png``, for a video ``output/label_maps/name/000000.png``.
    """

    predict: Callable[[np.ndarray], np.ndarray]
    metadata: Any
    output: Path
    style: Style = Style()
    suffix: str = ".png"
    label_maps: bool = False

    def run(self, sources: Sequence[Source]) -> Result:
        """Draw every source; what cannot be read is reported on standard error and skipped.

        Raises:
            OutputError: a picture would overwrite an input or another picture; nothing is drawn.
        """
        self._check_outputs(sources)
        result = Result()
        only_video = len(sources) == 1 and sources[0].is_video  # which has a bar of its own
        for source in tqdm(sources, unit="file", disable=only_video):
            try:
                if source.is_video:
                    self._draw_video(source)
                else:
                    self._draw_image(source)
                result.drawn += 1
            except (DatasetError, VideoError) as error:
                result.problems.append(str(error))
                tqdm.write(f"skipped: {error}", file=sys.stderr)
        return result

    def _draw_image(self, source: Source) -> None:
        image = read_image(str(source.path))
        truth = self._read_label(source.label_file, image) if source.label_file else None
        class_maps = {"prediction": self.predict(image)}
        if self.label_maps:
            _save_label_map(class_maps["prediction"], self._label_map_of(source))
        if truth is not None:
            class_maps["ground truth"] = truth
        _save(draw_picture(image, class_maps, self.metadata, self.style), self._picture_of(source))

    def _draw_video(self, source: Source) -> None:
        video = VideoReader(source.path)
        picture_file = self._picture_of(source)
        picture_file.parent.mkdir(parents=True, exist_ok=True)
        with VideoWriter(picture_file, video.fps) as writer:
            frames = tqdm(video, total=video.num_frames, unit="frame", desc=source.path.name)
            for number, frame in enumerate(frames):
                class_map = self.predict(frame)
                if self.label_maps:
                    folder = self._label_map_of(source).with_suffix("")
                    _save_label_map(class_map, folder / f"{number:06d}.png")
                maps = {"prediction": class_map}
                writer.write(draw_picture(frame, maps, self.metadata, self.style, video=True))

    def _read_label(self, file: Path, image: np.ndarray) -> np.ndarray:
        label = read_label(str(file))
        num_classes = len(self.metadata.get("stuff_classes", ())) or 2**16
        ignored = self.metadata.get("ignore_label", 255)
        check_label(label, str(file), num_classes, ignored, image.shape[:2])
        return label

    def _picture_of(self, source: Source) -> Path:
        return self.output / f"{source.name}{VIDEO_SUFFIX if source.is_video else self.suffix}"

    def _label_map_of(self, source: Source) -> Path:
        return self.output / "label_maps" / f"{source.name}.png"

    def _check_outputs(self, sources: Sequence[Source]) -> None:
        inputs = {p.resolve() for s in sources for p in (s.path, s.label_file) if p is not None}
        planned = set()
        for source in sources:
            files = [self._picture_of(source)]
            if self.label_maps:
                files.append(self._label_map_of(source))
            for file in files:
                if file.resolve() in inputs:
                    raise OutputError(
                        f"{file} would be overwritten, but it is an input; give another folder for "
                        "the output"
                    )
                if file in planned:
                    raise OutputError(
                        f"{file} would be written twice, the second time for {source.path}; draw "
                        "that one on its own"
                    )
                planned.add(file)


def _save(picture: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(file, quality=95)


def _save_label_map(class_map: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    dtype = np.uint8 if class_map.max() <= 255 else np.uint16
    Image.fromarray(class_map.astype(dtype)).save(file)
