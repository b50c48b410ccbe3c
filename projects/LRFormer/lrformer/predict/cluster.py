"""A job on a cluster, by Ray Data."""

from collections.abc import Iterator, Sequence

from lrformer.visualization.sources import Source

from .job import PredictJob, Worker


def map_on_ray(
    job: PredictJob, sources: Sequence[Source], workers: int, address: str | None = None
) -> Iterator[str | None]:
    """What is wrong with each source, or None, from workers that see the same file system.

    Ray restarts a worker that dies and gives its sources to the others; those that it had predicted
    are found done.

    Args:
        job, sources: see :meth:`PredictJob.run`.
        workers: how many, each with a model, and a GPU where the job's device is one.
        address: of the cluster; None: ``RAY_ADDRESS``, or this machine.

    Raises:
        ValueError: Ray is not installed.
    """
    try:
        import ray.data
    except ImportError as error:
        raise ValueError(f"a cluster needs Ray: pip install 'ray[data]' ({error})") from error
    ray.init(address, ignore_reinit_error=True)
    gpus = {"num_gpus": 1} if (job.model.device or "").startswith("cuda") else {}
    # Few sources a block, as a block is what is done again.
    blocks = max(1, min(len(sources), max(4 * workers, len(sources) // 16)))
    rows = ray.data.range(len(sources), override_num_blocks=blocks).map(
        _RayWorker, fn_constructor_args=(job, sources), concurrency=workers, **gpus
    )
    for row in rows.iter_rows():
        yield row["problem"] or None


class _RayWorker:
    def __init__(self, job: PredictJob, sources: Sequence[Source]) -> None:
        self._worker, self._sources = Worker(job), sources

    def __call__(self, row: dict) -> dict:
        return {"problem": self._worker(self._sources[row["id"]]) or ""}
