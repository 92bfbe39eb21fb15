"""Programs compiled without being run, also for absent chips, and what they will need."""

import bisect
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import psutil

from protonorm_jax.engine.program import State
from protonorm_jax.planning import costs, devices, hlo, inputs, memory, need, padding, starting
from protonorm_jax.planning import plan as planning
from protonorm_jax.planning.need import Need
from protonorm_jax.planning.plan import Plan
from protonorm_jax.planning.targets import CHIPS, Target
from protonorm_jax.running import programs
from protonorm_jax.running.programs import Uncompiled

_SECONDS_BETWEEN_LOOKS = 0.02
_CACHE_HIT = "/jax/compilation_cache/cache_hits"


class Compiled(NamedTuple):
    """A program, compiled.

    Attributes:
      name: see `programs.Uncompiled`; `features` is for `Config.keep_features`.
      seconds: spent tracing and compiling, others beside it.
      cached: whether it was in the cache of programs already.
      host_bytes: the most memory that the process had meanwhile.
      memory: of a device.
      available: bytes of a device that programs may use.
      round: its part of what a round costs; None where it has none.
      runs_that_fit: how many runs could train at a time on these devices; None but for the last of
        the programs of a round.
      padded: its large arguments, see `planning.padding`; None where memory has no tiles.
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
    padded: list[padding.Padded] | None
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
        values["padded"] = None if self.padded is None else padding.description(self.padded)
        if self.round:
            parts = {name: cost._asdict() for name, cost in self.round.by_part.items()}
            values["round"] = {**self.round._asdict(), "by_part": parts}
        return values


def compile_ahead(plan: Plan, target: Target | None = None) -> Iterator[Compiled]:
    """Compiles the programs of a plan, as many at a time as there are cores, and runs none.

    Those for devices that are there go into the cache of programs, in which a run finds them.

    Args:
      plan: made for the same target.
      target: chips that are not there; None for the devices of this machine.

    Yields:
      Each of the programs.
    """
    devices.make_room_for_programs()
    if target is None and plan.initial is None and inputs.starts_with_given(plan):
        for architecture in plan.program.architectures:
            starting.compile_draws(architecture)
    told = programs.told_shapes(plan)
    device = plan.devices[0]
    chip = target.chip if target else CHIPS.get(device.device_kind)
    if device.platform == "gpu":  # Products are calls of libraries there, which are not counted.
        chip = None
    tiled = device.platform == "tpu"
    available = target.chip.memory if target else devices.free_bytes(plan.devices)
    needs: dict[tuple[str, int | None], Need] = {}
    states = None
    waiting: list[tuple[Uncompiled, concurrent.futures.Future[_Made]]] = []
    with programs.several_at_a_time() as pool:
        start = time.perf_counter()
        for one in _traced(plan, told):
            waiting.append((one, pool.submit(_made, one, time.perf_counter() - start)))
            start = time.perf_counter()
        for one, future in waiting:
            made = future.result()
            cost = fit = None
            if one.name == "init":
                states = one.lowered.out_info
            elif one.name != "features":
                cost = costs.of_round(plan, hlo.count(made.text), chip, every_round=one.every_round)
                needs[one.name.split()[0], one.number] = made.need
            if one.name in ("rounds", "score"):  # The last of them.
                assert states is not None
                together = programs.needed_together(plan, needs, programs.shapes_of(states))
                fit = runs_that_fit(plan, (states, told), together, available)
            yield Compiled(
                one.name,
                made.seconds,
                made.cached,
                made.host_bytes,
                made.need,
                available,
                cost,
                fit,
                padding.of_arguments(made.text, one.arguments) if tiled else None,
                made.text,
            )


def _traced(plan: Plan, told: Any) -> Iterator[Uncompiled]:
    """All programs of a plan."""
    states = None
    for one in programs.traced(plan, told):
        states = one.lowered.out_info if one.name == "init" else states
        yield one
    if plan.program.config.keep_features:
        yield programs.features(plan, told, states)


class _Made(NamedTuple):
    """What is known of a compiled program, see `Compiled`."""

    seconds: float
    cached: bool
    host_bytes: int
    need: Need
    text: str


def _made(one: Uncompiled, before: float) -> _Made:
    """Compiles a program that took so many seconds to trace."""
    start = time.perf_counter()
    with _watched_memory() as most, _watched_cache() as hits:
        program = programs.compiled(one)
    seconds = before + time.perf_counter() - start
    text = program.as_text() or ""
    return _Made(seconds, bool(hits), most[0], need.of(program), text)


def runs_that_fit(plan: Plan, by_run: tuple[State, Any], needed: Need, available: int) -> int:
    """How many runs could train at a time on the devices of a plan.

    What a run has of its own is there for each of them, as `planning.memory` counts it; all else is
    there once, but temporaries where runs are vmapped.

    Args:
      plan: of a program for some number of runs.
      by_run: the shapes of the states and of what it is told of its runs, `[num_devices, runs_each,
        ...]`.
      needed: by the program, of a device.
      available: bytes of a device.
    """
    spread, platform = plan.spread, plan.devices[0].platform
    run = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[2:], leaf.dtype), by_run)
    alone = spread.vmap_runs == 1 and platform in planning.IN_TURN
    in_turn = alone or spread.runs_each > spread.vmap_runs

    # One program after the other copies the states of its own architecture.
    parts = run[0].clients if plan.program.apart and platform == "tpu" else None

    def with_runs(runs_each: int) -> int:
        """What a device would need for so many; of client devices, for their parts of so many."""
        own = spread._replace(
            runs_each=runs_each, vmap_runs=spread.vmap_runs if in_turn else runs_each
        )
        states = memory.states_bytes(run, own, tiled=platform == "tpu", parts=parts)
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
    """Yields a list with an entry for each program that this thread finds in the cache within."""
    hits: list[str] = []
    own = threading.get_ident()  # Others compile beside this thread.

    def listen(event: str, **_: Any) -> None:
        if event == _CACHE_HIT and threading.get_ident() == own:
            hits.append(event)

    jax.monitoring.register_event_listener(listen)
    try:
        yield hits
    finally:
        jax.monitoring.unregister_event_listener(listen)
