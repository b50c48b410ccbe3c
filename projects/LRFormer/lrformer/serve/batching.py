"""Images of many callers, predicted in batches."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread

import numpy as np

from lrformer.inference import Predictor
from lrformer.inference.wrapper import most_likely

# H x W classes, uint8 or uint16, and the probability of each pixel's class, uint8 of 0 to 255.
Prediction = tuple[np.ndarray, np.ndarray]


class Batcher:
    """Predicts what is waiting together, in threads of its own, as many as ``predictor.requests``.

    Args:
        predictor: of "sem_seg".
        batch_size: see :meth:`Predictor.predict_many`.
    """

    def __init__(self, predictor: Predictor, batch_size: int = 1) -> None:
        self.predictor, self._batch_size = predictor, batch_size
        self._waiting: SimpleQueue[tuple[np.ndarray, Future[Prediction]]] = SimpleQueue()
        for _ in range(predictor.requests):
            Thread(target=self._work, daemon=True).start()

    def submit(self, image: np.ndarray) -> "Future[Prediction]":
        """The prediction of an H x W x 3 RGB uint8 image; one that is cancelled is not made."""
        future: Future[Prediction] = Future()
        self._waiting.put((image, future))
        return future

    def _work(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while len(batch) < self._batch_size and not self._waiting.empty():
                batch.append(self._waiting.get())
            self._answer(
                [(x, future) for x, future in batch if future.set_running_or_notify_cancel()]
            )

    def _answer(self, batch: Sequence[tuple[np.ndarray, Future]]) -> None:
        try:
            results = list(self._predict([image for image, _ in batch]))
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
            else:  # one image's error is no other's
                for one in batch:
                    self._answer([one])
        else:
            for (_, future), result in zip(batch, results, strict=True):
                future.set_result(result)

    def _predict(self, images: Sequence[np.ndarray]) -> Iterator[Prediction]:
        stream = self.predictor.predict_stream(
            images, "sem_seg", batch_size=self._batch_size, ahead=0
        )
        for output in stream:
            scores = output["sem_seg"]
            classes, probabilities = most_likely(scores, self.predictor.logits)
            dtype = np.uint8 if len(scores) <= 256 else np.uint16
            confidence = (255 * probabilities).round().byte()
            yield classes.cpu().numpy().astype(dtype), confidence.cpu().numpy()
