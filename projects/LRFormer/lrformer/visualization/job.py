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
from lrformer.data.reading import read_image

from .label_maps import LabelMapWriter
from .picture import Prediction, Style, draw_picture
from .sources import Source
from .truth import read_truth
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
        predict: RGB uint8 H x W x 3 to what ``task`` says: a class map H x W (a
            :class:`~lrformer.Predictor` gives it), instances, or (panoptic map, segments' infos).
        metadata: detectron2 metadata with the classes' names and colours.
        output: folder to write to; made where it does not exist.
        style: how the pictures look.
        suffix: of the pictures: ".png", ".jpg" or another that Pillow writes.
        label_maps: also write the predictions themselves to ``output/label_maps``, see
            :class:`~lrformer.visualization.label_maps.LabelMapWriter`; those of a video's frames
            are named ``name/000000``.
        task: "sem_seg", "instances" or "panoptic_seg".
    """

    predict: Callable[[np.ndarray], Prediction]
    metadata: Any
    output: Path
    style: Style = Style()
    suffix: str = ".png"
    label_maps: bool = False
    task: str = "sem_seg"

    def run(self, sources: Sequence[Source]) -> Result:
        """Draw every source; what cannot be read is reported on standard error and skipped.

        Raises:
            OutputError: a picture would overwrite an input or another picture; nothing is drawn.
        """
        writer = self._writer()
        self._check_outputs(sources, writer)
        result = Result()
        only_video = len(sources) == 1 and sources[0].is_video  # which has a bar of its own
        for source in tqdm(sources, unit="file", disable=only_video):
            try:
                if source.is_video:
                    self._draw_video(source, writer)
                else:
                    self._draw_image(source, writer)
                result.drawn += 1
            except (DatasetError, VideoError) as error:
                result.problems.append(str(error))
                tqdm.write(f"skipped: {error}", file=sys.stderr)
        if writer is not None:
            writer.close()
        return result

    def _writer(self) -> LabelMapWriter | None:
        if not self.label_maps:
            return None
        return LabelMapWriter(self.output / "label_maps", self.task, self.metadata)

    def _draw_image(self, source: Source, writer: LabelMapWriter | None) -> None:
        image = read_image(str(source.path))
        truth = None
        if source.truth is not None:
            truth = read_truth(source.truth, self.task, image.shape[:2], self.metadata)
        predictions = {"prediction": self.predict(image)}
        if writer is not None:
            writer.write(predictions["prediction"], source.name, source.image_id)
        if truth is not None:
            predictions["ground truth"] = truth
        _save(draw_picture(image, predictions, self.metadata, self.style), self._picture_of(source))

    def _draw_video(self, source: Source, writer: LabelMapWriter | None) -> None:
        video = VideoReader(source.path)
        picture_file = self._picture_of(source)
        picture_file.parent.mkdir(parents=True, exist_ok=True)
        with VideoWriter(picture_file, video.fps) as video_writer:
            frames = tqdm(video, total=video.num_frames, unit="frame", desc=source.path.name)
            for number, frame in enumerate(frames):
                prediction = self.predict(frame)
                if writer is not None:
                    writer.write(prediction, source.name / f"{number:06d}")
                panels = {"prediction": prediction}
                video_writer.write(
                    draw_picture(frame, panels, self.metadata, self.style, video=True)
                )

    def _picture_of(self, source: Source) -> Path:
        return self.output / f"{source.name}{VIDEO_SUFFIX if source.is_video else self.suffix}"

    def _check_outputs(self, sources: Sequence[Source], writer: LabelMapWriter | None) -> None:
        inputs = {file.resolve() for source in sources for file in source.inputs}
        planned = set()
        for source in sources:
            files = [self._picture_of(source)]
            if writer is not None:
                files.extend(writer.files_of(source.name))
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
