"""Work on many files in threads: in order, and with few of them in memory at once."""

import collections
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Progress = Callable[[str, int, int], None]
"""Told `(what is done, how much is done, how much there is)` now and then, in one thread."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_MAX_WORKERS = 16
_CHUNK_ITEMS = 64
_CHUNK_BYTES = 2**20


def mapped(
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    num_bytes: Callable[[_Item], int],
) -> Iterator[_Result]:
    """What `function` makes of each item, in the order of the items.

    Args:
      function: called in threads; it should spend its time where Python's lock is released.
      items: read as far ahead as keeps the threads busy, not further.
      num_bytes: of an item, what it and its result take, roughly. Threads hold about 2 MiB each,
        or two items where one is larger.

    Yields:
      The results. The first error, by the order of the items, ends all.
    """
    waiting: collections.deque[Future[list[_Result]]] = collections.deque()
    chunks = _chunks(iter(items), num_bytes)
    workers = min(os.cpu_count() or 1, _MAX_WORKERS)
    pool = ThreadPoolExecutor(workers)
    try:
        while True:
            for chunk in itertools.islice(chunks, 2 * workers - len(waiting)):
                waiting.append(pool.submit(lambda own: [function(item) for item in own], chunk))
            if not waiting:
                return
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _chunks(items: Iterator[_Item], num_bytes: Callable[[_Item], int]) -> Iterator[list[_Item]]:
    """The items in small groups, as one call of a thread costs as much as a small image."""
    chunk: list[_Item] = []
    size = 0
    for item in items:
        chunk.append(item)
        size += num_bytes(item)
        if len(chunk) == _CHUNK_ITEMS or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
