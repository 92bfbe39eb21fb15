"""Where a measurement runs: in a process of its own, on one core or on all."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Call = Callable[..., Any]
"""`call(function, *arguments)` runs `function(*arguments)` somewhere and returns the result."""


@contextlib.contextmanager
def child(*, one_core: bool) -> Iterator[Call]:
    """A process of its own, which keeps the state of its modules from call to call.

    Functions, arguments and results must pickle; functions do by their names.

    Args:
      one_core: the process may use one core only, where the system lets one choose. That stands
        before jax or torch start their threads, so that both see one core.
    """
    pool = concurrent.futures.ProcessPoolExecutor(
        max_workers=1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_use_one_core if one_core else None,
    )
    with pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def num_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_bytes() -> int:
    """The most memory that this process has held so far, in bytes.

    On Linux, `ru_maxrss` of a process starts from what its parent held; `VmHWM` does not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _use_one_core() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
