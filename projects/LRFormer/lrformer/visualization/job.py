"""Drawing many files: predict, draw, write, and tell what could not be processed."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from lrformer.inference import Predictor
from lrformer.inference.ahead import map_ahead
from lrformer.inference.tasks import check_task

from .label_maps import LabelMapWriter
from .picture import Style, draw_picture
from .segments import Prediction, phrase_metadata, phrase_segment
from .sources import Source, read_truth
from .video import SUFFIX as VIDEO_SUFFIX
from .video import VideoReader, write_video

# A source, its image, and what is drawn on it; None where it could not be processed.
_Work = tuple[Source, np.ndarray, dict[str, Prediction]] | None


@dataclass
class DrawJob:
    """Draws a model's predictions on files.

    Images are read ahead, and drawn, in threads, while the model runs in the caller's. The picture
    of the source ``name`` is ``output/name.png``, of a video ``name.mp4``.

    Args:
        predictor: its metadata has the classes' names and colours.
        output: folder to write to; made where it does not exist.
        task: "sem_seg", "instances", "panoptic_seg" or, for sources with a phrase, "referring".
        style: how the pictures look.
        suffix: of the pictures: ".png", ".jpg" or another that Pillow writes.
        label_maps: also write ``output/label_maps``, see :class:`LabelMapWriter`; the maps of a
            video's frames are named ``name/000000``.
    """

    predictor: Predictor
    output: Path
    task: str = "sem_seg"
    style: Style = Style()
    suffix: str = ".png"
    label_maps: bool = False

    def __post_init__(self) -> None:
        self._metadata = self.predictor.metadata
        self._maps = LabelMapWriter(self.output / "label_maps", self.task, self._metadata)

    def run(self, sources: Sequence[Source]) -> list[str]:
        """Draw every source; one that cannot be is reported on standard error and skipped.

        Returns:
            A line for each source that was skipped.

        Raises:
            ValueError: a picture would overwrite an input; nothing is drawn.
            ValueError: the model does not predict the task.
        """
        if self.predictor.tasks is not None:
            check_task(self.task, self.predictor.tasks, self.predictor.model)
        self._check_outputs(sources)
        self._problems: list[str] = []
        with tqdm(total=len(sources), unit="file") as bar:
            for is_video, group in groupby(sources, lambda source: source.is_video):
                if is_video:
                    drawn = map(self._draw_video, group)
                else:
                    predicted = self._predict_all(map_ahead(self._read, group))
                    # One thread, because matplotlib draws in one only.
                    drawn = map_ahead(self._draw_image, predicted, workers=1)
                for _ in drawn:
                    bar.update()
        if self.label_maps:
            self._maps.close()
        return self._problems

    @contextmanager
    def _skipping(self, source: Source) -> Iterator[None]:
        try:
            yield
        # Of any kind: no image, however odd, may end the work on the others.
        except Exception as error:
            text = str(error)
            if str(source.path) not in text:
                text = f"{source.path}: {type(error).__name__}: {text}"
            self._problems.append(text)
            tqdm.write(f"skipped: {text}", file=sys.stderr)

    def _read(self, source: Source) -> _Work:
        with self._skipping(source):
            image, panels = source.read(), {}
            if source.truth is not None:
                truth = read_truth(source.truth, self.task, image.shape[:2], self._metadata)
                panels["ground truth"] = truth
            return source, image, panels

    def _predict_all(self, works: Iterable[_Work]) -> Iterator[_Work]:
        requests = self.predictor.requests
        for work in map_ahead(self._predict, works, requests - 1, requests):
            if work is not None and self.label_maps:
                source, _, panels = work
                self._maps.write(panels["prediction"], source.name, source.image_id)
            yield work

    def _predict(self, work: _Work) -> _Work:
        if work is None:
            return None
        source, image, truth = work
        # Without one frame there is no video.
        with nullcontext() if source.is_video else self._skipping(source):
            return source, image, {"prediction": self._prediction(image, source.phrase)} | truth

    def _prediction(self, image: np.ndarray, phrase: str | None) -> Prediction:
        if self.task == "sem_seg":  # the class map, without the scores of all classes
            return self.predictor(image)
        if self.task == "referring":
            masks = self.predictor.predict(image, self.task, phrases=[phrase])[self.task]
            return [phrase_segment(masks[0].cpu().numpy())]
        prediction = self.predictor.predict(image, self.task)[self.task]
        if self.task == "instances":
            return prediction.to("cpu")
        return prediction[0].cpu().numpy(), prediction[1]

    def _draw_image(self, work: _Work) -> None:
        if work is None:
            return
        source, image, panels = work
        with self._skipping(source):
            file = self._picture_of(source)
            file.parent.mkdir(parents=True, exist_ok=True)
            metadata = self._metadata
            if self.task == "referring":
                metadata = phrase_metadata(source.phrase)
            picture = draw_picture(image, panels, metadata, self.style)
            Image.fromarray(picture).save(file, quality=95)

    def _draw_video(self, source: Source) -> None:
        with self._skipping(source):
            video = VideoReader(source.path)
            frames = tqdm(video, total=video.num_frames, unit="frame", desc=source.path.name)
            works = (
                (replace(source, name=source.name / f"{number:06d}"), frame, {})
                for number, frame in enumerate(frames)
            )
            predicted = self._predict_all(works)
            with write_video(self._picture_of(source), video.fps) as write:

                def draw(work: _Work) -> None:
                    _, frame, panels = work
                    write(draw_picture(frame, panels, self._metadata, self.style, video=True))

                # One thread, so that the frames stay in order.
                for _ in map_ahead(draw, predicted, workers=1):
                    pass

    def _picture_of(self, source: Source) -> Path:
        return self.output / f"{source.name}{VIDEO_SUFFIX if source.is_video else self.suffix}"

    def _check_outputs(self, sources: Sequence[Source]) -> None:
        outputs = [self._picture_of(source) for source in sources]
        if self.label_maps:
            outputs += [self._maps.file_of(source.name) for source in sources]
        inputs = {file.resolve() for source in sources for file in source.inputs}
        for file in outputs:
            if file.resolve() in inputs:
                raise ValueError(f"{file} is an input; choose another folder for the output")
