"""Drawing many files: predict, draw, write, and tell what could not be read."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from lrformer.data import DatasetError
from lrformer.data.reading import read_image
from lrformer.inference.ahead import map_ahead

from .label_maps import LabelMapWriter
from .picture import Prediction, Style, draw_picture
from .sources import Source
from .truth import read_truth
from .video import SUFFIX as VIDEO_SUFFIX
from .video import VideoError, VideoReader, VideoWriter

# What cannot be read is skipped.
_SKIPPED = (DatasetError, VideoError)


class OutputError(ValueError):
    """A picture would be written over an input or over another picture."""


@dataclass
class Result:
    """What :func:`draw_sources` did: how many files it drew, and a line for each it could not."""

    drawn: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass
class _Work:
    """An image on its way: read, predicted, drawn; or the error that ended it."""

    source: Source
    image: np.ndarray | None = None
    panels: dict[str, Prediction] = field(default_factory=dict)
    error: Exception | None = None


@dataclass(frozen=True)
class DrawJob:
    """Draws a model's predictions on files.

    The next images are read and the last ones drawn in threads, while ``predict`` runs in the
    caller's.

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
        with tqdm(total=len(sources), unit="file", disable=only_video) as bar:
            for error in self._draw(sources, writer):
                bar.update()
                if error is None:
                    result.drawn += 1
                else:
                    result.problems.append(str(error))
                    tqdm.write(f"skipped: {error}", file=sys.stderr)
        if writer is not None:
            writer.close()
        return result

    def _writer(self) -> LabelMapWriter | None:
        if not self.label_maps:
            return None
        return LabelMapWriter(self.output / "label_maps", self.task, self.metadata)

    def _draw(
        self, sources: Sequence[Source], writer: LabelMapWriter | None
    ) -> Iterator[Exception | None]:
        """Draw every source; of each, in order, what kept it from being read."""
        for is_video, group in groupby(sources, lambda source: source.is_video):
            if is_video:
                for source in group:
                    try:
                        self._draw_video(source, writer)
                        yield None
                    except _SKIPPED as error:
                        yield error
            else:
                predicted = self._predict_all(map_ahead(self._read, group), writer)
                # One thread, because matplotlib draws in one only.
                yield from map_ahead(self._draw_image, predicted, workers=1)

    def _read(self, source: Source) -> _Work:
        work = _Work(source)
        try:
            work.image = read_image(str(source.path))
            if source.truth is not None:
                size = work.image.shape[:2]
                truth = read_truth(source.truth, self.task, size, self.metadata)
                work.panels["ground truth"] = truth
        except _SKIPPED as error:
            work.error = error
        return work

    def _predict_all(
        self, works: Iterable[_Work], writer: LabelMapWriter | None
    ) -> Iterator[_Work]:
        for work in works:
            if work.error is None:
                prediction = self.predict(work.image)
                work.panels = {"prediction": prediction} | work.panels
                if writer is not None:
                    writer.write(prediction, work.source.name, work.source.image_id)
            yield work

    def _draw_image(self, work: _Work) -> Exception | None:
        if work.error is None:
            picture = draw_picture(work.image, work.panels, self.metadata, self.style)
            _save(picture, self._picture_of(work.source))
        return work.error

    def _draw_video(self, source: Source, writer: LabelMapWriter | None) -> None:
        video = VideoReader(source.path)
        picture_file = self._picture_of(source)
        picture_file.parent.mkdir(parents=True, exist_ok=True)
        with VideoWriter(picture_file, video.fps) as video_writer:
            frames = tqdm(video, total=video.num_frames, unit="frame", desc=source.path.name)

            def predicted() -> Iterator[tuple[np.ndarray, dict[str, Prediction]]]:
                for number, frame in enumerate(frames):
                    prediction = self.predict(frame)
                    if writer is not None:
                        writer.write(prediction, source.name / f"{number:06d}")
                    yield frame, {"prediction": prediction}

            def draw(work: tuple[np.ndarray, dict[str, Prediction]]) -> None:
                video_writer.write(draw_picture(*work, self.metadata, self.style, video=True))

            # One thread, so that the frames stay in order.
            for _ in map_ahead(draw, predicted(), workers=1):
                pass

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
