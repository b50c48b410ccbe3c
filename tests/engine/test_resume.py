import logging
from itertools import islice

import pytest
from detectron2.data import build_detection_train_loader
from detectron2.data.samplers import TrainingSampler
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lrformer.engine.resume import skip_images

RECORDS = [{"number": n, "width": 2, "height": 1} for n in range(10)]


class _Sharded(IterableDataset):
    """The newer detectron2's layout: each worker walks the sampler and takes its own batches."""

    def __init__(self, sampler, batch_size):
        self.sampler, self.batch_size = sampler, batch_size

    def __iter__(self):
        worker = get_worker_info()
        for position, index in enumerate(self.sampler):
            if worker is None or position // self.batch_size % worker.num_workers == worker.id:
                yield RECORDS[index]


def _older(workers, grouped=False):
    return build_detection_train_loader(
        RECORDS,
        mapper=_same,
        sampler=TrainingSampler(len(RECORDS), seed=0),
        total_batch_size=2,
        aspect_ratio_grouping=grouped,
        num_workers=workers,
    )


def _grouped(workers):
    return _older(workers, grouped=True)


def _newer(workers):
    dataset = _Sharded(TrainingSampler(len(RECORDS), seed=0), 2)
    return DataLoader(dataset, batch_size=2, num_workers=workers, collate_fn=_same)


def _same(x):
    return x


def _numbers(loader, batches):
    return [[record["number"] for record in batch] for batch in islice(loader, batches)]


@pytest.mark.parametrize(
    "build, workers", [(_older, 0), (_older, 2), (_grouped, 0), (_newer, 0), (_newer, 2)]
)
def test_the_data_continues_where_it_was_left(build, workers):
    whole = _numbers(build(workers), 12)
    assert sorted(sum(whole[:5], [])) == list(range(10))
    loader = build(workers)
    skip_images(loader, 7 * 2)
    assert _numbers(loader, 5) == whole[7:]


def test_a_loader_of_another_make_starts_anew_and_says_so(caplog):
    loader = [[RECORDS[0]], [RECORDS[1]]]
    with caplog.at_level(logging.INFO):
        skip_images(loader, 1)
    assert _numbers(loader, 2) == [[0], [1]]
    assert "the order of the training data starts anew" in caplog.text
