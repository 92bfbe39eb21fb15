"""Clocks, and medians of repetitions that take turns. Imports neither jax nor torch."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Times(NamedTuple):
    """Milliseconds of one call: on the clock on the wall, and of all the process's threads."""

    wall: float
    cpu: float

    def over(self, count: int) -> "Times":
        """The times of one of so many equal parts."""
        return Times(self.wall / count, self.cpu / count)


def clock(function: Callable[[], object], calls: int = 1) -> Times:
    """The mean times of `calls` calls; `function` must wait for its own results."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        function()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Times(1e3 * wall, 1e3 * cpu).over(calls)


def calls_for(function: Callable[[], object], milliseconds: float = 30) -> int:
    """How many calls make up a repetition of that length, going by the second call."""
    function()
    return max(1, math.ceil(milliseconds / max(clock(function).wall, 1e-3)))


def medians(functions: Mapping[str, Callable[[], Times]], repetitions: int) -> dict[str, Times]:
    """The medians of each clock by itself, by name.

    All functions are called by turns, so that a change of load falls on all of them alike.
    """
    turns = [{name: run() for name, run in functions.items()} for _ in range(repetitions)]
    return {
        name: Times(*map(statistics.median, zip(*(turn[name] for turn in turns), strict=True)))
        for name in functions
    }


def compile_program(jitted: Any, *arguments: Any) -> tuple[Any, dict[str, float]]:
    """The compiled program of a jitted function, and the seconds of tracing and compiling it."""
    programs = []
    times = clock(lambda: programs.append(jitted.lower(*arguments).compile()))
    seconds = {"compile_seconds": times.wall / 1e3, "compile_cpu_seconds": times.cpu / 1e3}
    return programs[0], seconds
