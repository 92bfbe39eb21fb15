"""Programs compiled without being run, also for absent chips, and what they will need."""

import bisect
import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import psutil

from protonorm_jax.planning import costs, devices, hlo, memory, need
from protonorm_jax.planning import plan as planning
from protonorm_jax.planning.need import Need
from protonorm_jax.planning.plan import Plan
from protonorm_jax.planning.targets import CHIPS, Target
from protonorm_jax.running import driver

_SECONDS_BETWEEN_LOOKS = 0.02
_CACHE_HIT = "/jax/compilation_cache/cache_hits"


class Compiled(NamedTuple):
    """A program, compiled.

    Attributes:
      name: `init` makes the first states, `rounds` advances and evaluates, `features` is for
        `Config.keep_features`.
      seconds: spent tracing and compiling.
      cached: whether it was in the cache of programs already.
      host_bytes: the most memory that the process had meanwhile.
      memory: of a device.
      available: bytes of a device that programs may use.
      round: what a round costs; None but for `rounds`.
      runs_that_fit: how many runs could train at a time on these devices; None but for `rounds`.
      text: the program, as XLA writes it.
    """

    name: str
    seconds: float
    cached: bool
    host_bytes: int
    memory: Need
    available: int
    round: costs.Round | None
    runs_that_fit: int | None
    text: str

    def free_share(self) -> float:
        """What is left of a device, as a share; below zero if the program does not fit."""
        return 1 - self.memory.total() / self.available

    def description(self) -> dict[str, Any]:
        """All of it but the text, JSON-ready."""
        values = self._asdict()
        values.pop("text")
        values["memory"] = {**self.memory._asdict(), "total": self.memory.total()}
        values["free_share"] = self.free_share()
        if self.round:
            parts = {name: cost._asdict() for name, cost in self.round.by_part.items()}
            values["round"] = {**self.round._asdict(), "by_part": parts}
        return values


def compile_ahead(plan: Plan, target: Target | None = None) -> Iterator[Compiled]:
    """Compiles the programs of a plan, one after the other, and runs none.

    Those for devices that are there go into the cache of programs, in which a run finds them.

    Args:
      plan: made for the same target.
      target: chips that are not there; None for the devices of this machine.

    Yields:
      Each of the programs.
    """
    devices.make_room_for_programs()
    told = driver.told_shapes(plan)
    device = plan.devices[0]
    chip = target.chip if target else CHIPS.get(device.device_kind)
    available = target.chip.memory if target else devices.free_bytes(plan.devices)

    def compiled(
        name: str,
        lower: Callable[[], jax.stages.Lowered],
        options: dict[str, bool | str] | None = None,
        by_run: Any = None,
    ) -> tuple[jax.stages.Lowered, Compiled]:
        """One program, traced and compiled; that of rounds with what it is given of its runs."""
        start = time.perf_counter()
        with _watched_memory() as most, _watched_cache() as hits:
            lowered = lower()
            program = lowered.compile(options)
        seconds = time.perf_counter() - start
        text, needed = program.as_text() or "", need.of(program)
        cost = fit = None
        if by_run is not None:
            cost = costs.of_round(plan, hlo.count(text), chip)
            fit = runs_that_fit(plan, by_run, needed, available)
        found = Compiled(name, seconds, bool(hits), most[0], needed, available, cost, fit, text)
        return lowered, found

    lowered, init = compiled("init", lambda: driver.lower_init(plan, told))
    yield init
    states = lowered.out_info
    options = driver.options_of(plan)
    advance = functools.partial(driver.lower_advance, plan, told, states)
    yield compiled("rounds", advance, options, (states, told))[1]
    if plan.program.config.keep_features:
        yield compiled("features", lambda: driver.lower_features(plan, told, states))[1]


def runs_that_fit(plan: Plan, by_run: Any, needed: Need, available: int) -> int:
    """How many runs could train at a time on the devices of a plan.

    What a run has of its own is there for each of them, as `planning.memory` counts it; all else is
    there once, but temporaries where runs are vmapped.

    Args:
      plan: of a program for some number of runs.
      by_run: the shapes of what it is given of its runs, `[num_devices, runs_each, ...]`.
      needed: by the program, of a device.
      available: bytes of a device.
    """
    spread, platform = plan.spread, plan.devices[0].platform
    run = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[2:], leaf.dtype), by_run)
    alone = spread.vmap_runs == 1 and platform in planning.IN_TURN
    in_turn = alone or spread.runs_each > spread.vmap_runs

    def with_runs(runs_each: int) -> int:
        """What a device would need for so many; of client devices, for their parts of so many."""
        own = spread._replace(runs_each=runs_each)
        states = memory.states_bytes(run, own, tiled=platform == "tpu")
        return states + (0 if in_turn else needed.temporaries * runs_each // spread.vmap_runs)

    left = available - needed.total() + with_runs(spread.runs_each)
    most = 1
    while with_runs(most) <= left:
        most *= 2
    fit = bisect.bisect_right(range(most), left, key=with_runs) - 1
    return max(fit, 0) // spread.client_devices * len(plan.devices)


@contextlib.contextmanager
def _watched_memory() -> Iterator[list[int]]:
    """Yields `[most]`, the most bytes of memory that this process has had within."""
    process, most, over = psutil.Process(), [0], threading.Event()

    def look() -> None:
        most[0] = max(most[0], process.memory_info().rss)

    def watch() -> None:
        while not over.wait(_SECONDS_BETWEEN_LOOKS):
            look()

    look()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield most
    finally:
        over.set()
        watcher.join()
        look()


@contextlib.contextmanager
def _watched_cache() -> Iterator[Sequence[str]]:
    """Yields a list with an entry for each program that is found in the cache within."""
    hits: list[str] = []

    def listen(event: str, **_: Any) -> None:
        if event == _CACHE_HIT:
            hits.append(event)

    jax.monitoring.register_event_listener(listen)
    try:
        yield hits
    finally:
        jax.monitoring.unregister_event_listener(listen)
