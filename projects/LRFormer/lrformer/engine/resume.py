"""Where in the data a resumed training continues."""

import logging
from collections.abc import Iterator
from itertools import islice

from torch.utils.data import DataLoader, Sampler

logger = logging.getLogger(__name__)


class SkippingSampler(Sampler):
    """A sampler without its first ``skip`` indices."""

    def __init__(self, sampler: Sampler, skip: int):
        self.sampler = sampler
        self.skip = skip

    def __iter__(self) -> Iterator[int]:
        return islice(iter(self.sampler), self.skip, None)


def skip_images(data_loader, images: int) -> None:
    """Let a training loader that has not been started begin ``images`` images later.

    detectron2's versions keep the sampler in different places: the older in the batch sampler, the
    newer in an iterable dataset.

    Args:
        data_loader: what detectron2's ``build_detection_train_loader`` returns; changed in place.
        images: how many images of this process to skip.
    """
    loader = data_loader
    while not isinstance(loader, DataLoader) and hasattr(loader, "dataset"):
        loader = loader.dataset
    for owner in (getattr(loader, "dataset", None), getattr(loader, "batch_sampler", None)):
        if isinstance(getattr(owner, "sampler", None), Sampler):
            owner.sampler = SkippingSampler(owner.sampler, images)
            return
    logger.info("the order of the training data starts anew")
