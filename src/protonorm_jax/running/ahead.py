"""Programs compiled without being run, also for absent chips, and what they will need."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import psutil

from protonorm_jax.planning import costs, devices, hlo
from protonorm_jax.planning.plan import Plan
from protonorm_jax.planning.targets import CHIPS, Target
from protonorm_jax.running import driver

_SECONDS_BETWEEN_LOOKS = 0.02
_CACHE_HIT = "/jax/compilation_cache/cache_hits"


class Memory(NamedTuple):
    """What a compiled program needs of a device's memory, in bytes.

    Attributes:
      arguments: the data set, and the states and index rows of its runs.
      results: that are not written over arguments.
      temporaries: of the computation.
      code: the program itself; zero where it lies elsewhere, as on CPU.
    """

    arguments: int
    results: int
    temporaries: int
    code: int

    def total(self) -> int:
        """The sum."""
        return sum(self)


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
    memory: Memory
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
    ) -> tuple[jax.stages.Lowered, Compiled]:
        """One program, traced and compiled."""
        start = time.perf_counter()
        with _watched_memory() as most, _watched_cache() as hits:
            lowered = lower()
            program = lowered.compile(options)
        seconds = time.perf_counter() - start
        usage: Any = program.memory_analysis()
        text = program.as_text() or ""
        memory = Memory(
            usage.argument_size_in_bytes,
            usage.output_size_in_bytes - usage.alias_size_in_bytes,
            usage.temp_size_in_bytes,
            usage.generated_code_size_in_bytes,
        )
        cost = fit = None
        if name == "rounds":
            cost = costs.of_round(plan, hlo.count(text), chip)
            fit = runs_that_fit(plan, memory, available)
        found = Compiled(name, seconds, bool(hits), most[0], memory, available, cost, fit, text)
        return lowered, found

    lowered, init = compiled("init", lambda: driver.lower_init(plan, told))
    yield init
    states = lowered.out_info
    options = driver.options_of(plan)
    yield compiled("rounds", lambda: driver.lower_advance(plan, told, states), options)[1]
    if plan.program.config.keep_features:
        yield compiled("features", lambda: driver.lower_features(plan, told, states))[1]


def runs_that_fit(plan: Plan, memory: Memory, available: int) -> int:
    """How many runs could train at a time on the devices of a plan.

    The data set and the code are there once, however many runs a device has; all else grows with
    the number of its runs, but temporaries where they train in turn.

    Args:
      plan: of a program for some number of runs.
      memory: that the program needs of a device.
      available: bytes of a device.
    """
    spread = plan.spread
    shared = plan.dataset.images.nbytes + plan.dataset.labels.nbytes + memory.code
    arguments = max(memory.arguments - shared + memory.code, 0) + memory.results
    each = arguments / spread.runs_each * spread.client_devices
    in_turn = spread.runs_each > spread.vmap_runs or plan.devices[0].platform == "cpu"
    if not in_turn:
        each += memory.temporaries / spread.vmap_runs * spread.client_devices
    left = available - shared - (memory.temporaries if in_turn else 0)
    return max(int(left // max(each, 1)), 0) * len(plan.devices)


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
