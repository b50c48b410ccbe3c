"""Work on the next items while the current one is used."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int = 4, workers: int = 2
) -> Iterator[Result]:
    """``map(function, items)``, computed in threads before the results are asked for.

    Items, which may be endless, are taken in the caller's thread. What ``function`` or ``items``
    raises is raised in its place, after the results before it. ``ahead`` results are computed ahead
    of the one in use; 0 computes each when it is asked for, in the caller's thread.
    """
    if ahead == 0:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(workers)
    pending: deque[Future] = deque()
    iterator, more = iter(items), True
    try:
        while True:
            while more and len(pending) <= ahead:
                try:
                    pending.append(pool.submit(function, next(iterator)))
                except StopIteration:
                    more = False
                except Exception as error:
                    pending.append(Future())
                    pending[-1].set_exception(error)
                    more = False
            if not pending:
                return
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
