"""Predicting many files: what is done already, what a process does, and what went wrong."""

import json
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from lrformer import cli
from lrformer.config import load_cfg
from lrformer.data.own import data_opts
from lrformer.data.reading import open_upright
from lrformer.inference import Predictor
from lrformer.inference.tasks import check_task
from lrformer.visualization.sources import Source
from lrformer.visualization.video import VideoReader

from . import outputs

_WINDOWS = ("TEST.SLIDING_WINDOW.ENABLED", True, "TEST.AUG.ENABLED", False)


@dataclass(frozen=True)
class ModelFiles:
    """What a predictor is made of, for processes that each make their own.

    Attributes:
        config_file: None for weights that ``tools/export.py`` wrote.
        weights, device, opts: see :func:`lrformer.build_model`.
        data: the yaml of own data that the model was trained on.
    """

    config_file: str | None
    weights: str | None
    device: str | None = None
    opts: tuple = ()
    data: str | None = None

    def open(self) -> Predictor:
        """A predictor of class maps; ValueError if the model has none."""
        if self.config_file is None:
            predictor = Predictor.from_exported(self.weights, self.device, self.opts)
        else:
            opts = self.opts
            if self.data:
                opts = (*data_opts(load_cfg(self.config_file, opts), self.data), *opts)
            files = self.config_file, self.weights
            predictor = Predictor.from_config_file(*files, self.device, opts)
        if predictor.tasks is not None:
            check_task("sem_seg", predictor.tasks, predictor.model)
        return predictor


@dataclass(frozen=True)
class PredictJob:
    """Class maps of files, written to ``output/<format>/<name>``.

    What is there already is not predicted again, and no file is ever half-written. The images of a
    video are named ``<name>/000000``.

    Attributes:
        model: predicts "sem_seg".
        output: folder to write to.
        formats: of :data:`lrformer.predict.outputs.FORMATS`.
        windows: predict images at their own size, however large
            (:meth:`lrformer.Predictor.predict_large`).
    """

    model: ModelFiles
    output: Path
    formats: tuple[str, ...] = ("labels",)
    windows: bool = False

    def files(self, name: Path) -> dict[str, Path]:
        """The outputs of an image, by their formats."""
        return {x: self.output / x / f"{name}{outputs.FORMATS[x]}" for x in self.formats}

    def is_done(self, name: Path) -> bool:
        return all(file.exists() for file in self.files(name).values())

    def run(
        self,
        sources: Sequence[Source],
        processes: int = 1,
        mapper: Callable[["PredictJob", Sequence[Source]], Iterator[str | None]] | None = None,
    ) -> list[str]:
        """Predict the sources in this process, or in a pool of them.

        Args:
            sources: what cannot be predicted is reported on standard error and skipped.
            processes: each has a model of its own; GPUs are dealt out to them.
            mapper: takes the place of the pool, see :func:`lrformer.predict.cluster.map_on_ray`.

        Returns:
            A line for each source that was skipped.

        Raises:
            ValueError: the model or a format cannot be used, or the folder has the predictions of
                another model, or of other images by the same names. Nothing is predicted.
        """
        for name in self.formats:
            outputs.check_format(name)
        if self.windows and {"probabilities", "zarr"} & {*self.formats}:
            raise ValueError("images of any size have no probabilities: too large to be kept")
        worker = Worker(self)
        metadata = worker.predictor.metadata
        self._note_model()
        self._note_sources(sources)
        left = [source for source in sources if source.is_video or not self.is_done(source.name)]
        if mapper is not None:
            results = mapper(self, left)
        else:
            results = map(worker, left) if processes == 1 else _map_in_pool(self, left, processes)
        del worker  # and its memory, where others work
        problems, done = [], len(sources) - len(left)
        for problem in tqdm(results, total=len(sources), initial=done, unit="file"):
            if problem:
                problems.append(problem)
                tqdm.write(f"skipped: {problem}", file=sys.stderr)
        if "coco" in self.formats:
            parts = sorted(self.output.glob("coco/**/[!.]*.json"))
            outputs.merge_coco(self.output / "coco.json", parts, metadata)
        return problems

    def _note_model(self) -> None:
        """Keep in ``output/predict.json`` what predicts; ValueError where it was another."""
        weights, file = Path(self.model.weights or ""), self.output / "predict.json"
        note = {**asdict(self.model), "windows": self.windows}
        note["opts"] = list(map(str, self.model.opts))
        note["weights_time"] = weights.stat().st_mtime if weights.is_file() else None
        del note["device"]
        before = json.loads(file.read_text()) if file.exists() else note
        if other := [key for key in note if before.get(key) != note[key]]:
            raise ValueError(
                f"{self.output} has predictions of another command: {', '.join(other)} in {file} "
                f"was {', '.join(str(before.get(key)) for key in other)}; choose another folder"
            )
        with outputs.whole_file(file) as partial:
            partial.write_text(json.dumps(note, indent=2))

    def _note_sources(self, sources: Sequence[Source]) -> None:
        """Keep in ``output/sources.json`` what names stand for; ValueError where it was another."""
        file = self.output / "sources.json"
        now = {source.name.as_posix(): str(source.path.resolve()) for source in sources}
        before = json.loads(file.read_text()) if file.exists() else {}
        for name, path in now.items():
            if before.get(name, path) != path:
                raise ValueError(
                    f"{self.output} has {name} of {before[name]}, which would now be of {path}; "
                    "choose another folder"
                )
        with outputs.whole_file(file) as partial:
            partial.write_text(json.dumps(before | now, indent=0))


class Worker:
    """Predicts sources for a job, with a model of its own."""

    def __init__(self, job: PredictJob) -> None:
        opts = _WINDOWS if job.windows else ()
        self.job = job
        self.predictor = replace(job.model, opts=(*job.model.opts, *opts)).open()

    def __call__(self, source: Source) -> str | None:
        """What is wrong with the source, or None."""
        try:
            if source.is_video:
                for number, frame in enumerate(VideoReader(source.path)):
                    name = source.name / f"{number:06d}"
                    self._predict(replace(source, name=name), Image.fromarray(frame))
            else:
                self._predict(source)
        except Exception as error:  # whatever it is, the other sources are predicted
            hint = ""
            if isinstance(error.__cause__, Image.DecompressionBombError):
                hint = "; images of any size are predicted with --windows"
            return f"{source.path}: {type(error).__name__}: {cli.one_line(error)}{hint}"
        return None

    def _predict(self, source: Source, frame: Image.Image | None = None) -> None:
        files = self.job.files(source.name)
        if self.job.is_done(source.name):
            return
        if self.job.windows:
            classes = self._predict_large(source, frame)
        elif {"probabilities", "zarr"} & files.keys():
            image = source.read() if frame is None else np.asarray(frame)
            scores = self.predictor.predict(image, "sem_seg")["sem_seg"]
            probabilities = self.predictor.to_probabilities(scores).cpu().numpy()
            if "probabilities" in files:
                outputs.write_probabilities(files["probabilities"], probabilities)
            if "zarr" in files:
                outputs.write_zarr(files["zarr"], probabilities)
            classes = probabilities.argmax(0)
        else:
            classes = self.predictor(source.read() if frame is None else np.asarray(frame))
        classes = classes.astype(np.uint8 if classes.max() <= 255 else np.uint16, copy=False)
        if "labels" in files:
            outputs.write_labels(files["labels"], classes)
        if "coco" in files:
            outputs.write_coco(files["coco"], classes, source.name.as_posix())
        if "geojson" in files:
            metadata = self.predictor.metadata
            outputs.write_geojson(files["geojson"], classes, str(source.path), metadata)

    def _predict_large(self, source: Source, frame: Image.Image | None) -> np.ndarray:
        with patch.object(Image, "MAX_IMAGE_PIXELS", None):
            image = open_upright(source.open()) if frame is None else frame
        few = 0 < len(self.predictor.metadata.get("stuff_classes") or ()) <= 256
        size = image.height, image.width
        with tempfile.TemporaryFile(dir=self.job.output) as file:
            classes = np.memmap(file, np.uint8 if few else np.uint16, "w+", shape=size)
        self.predictor.predict_large(image, classes)
        return classes


_worker: Worker  # of a process of the pool


def _map_in_pool(
    job: PredictJob, sources: Sequence[Source], processes: int
) -> Iterator[str | None]:
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // processes)
    options = {"initializer": _start, "initargs": (job, context.Value("i", 0), threads)}
    with ProcessPoolExecutor(processes, context, **options) as pool:
        futures = {pool.submit(_work, source): source for source in sources}
        try:
            for future in as_completed(futures):
                try:
                    yield future.result()
                except BrokenProcessPool:
                    path = futures[future].path
                    yield f"{path}: a process died (out of memory?); the same command goes on"
        finally:
            pool.shutdown(cancel_futures=True)


def _start(job: PredictJob, started, threads: int) -> None:
    global _worker
    torch.set_num_threads(threads)
    with started.get_lock():
        number, started.value = started.value, started.value + 1
    if torch.cuda.device_count() > 1 and job.model.device in (None, "cuda"):
        device = f"cuda:{number % torch.cuda.device_count()}"
        job = replace(job, model=replace(job.model, device=device))
    _worker = Worker(job)


def _work(source: Source) -> str | None:
    return _worker(source)
