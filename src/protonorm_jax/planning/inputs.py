"""What a program is told of its runs: index rows, orders and scalars, laid out for the devices."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from protonorm_jax import methods
from protonorm_jax.config import Config, rates
from protonorm_jax.engine.program import Initial, RunInputs
from protonorm_jax.methods import descent
from protonorm_jax.planning import layout, memory, starting
from protonorm_jax.planning.plan import Plan, PlannedRun

_LEAST_RATES = 2**10
_MOST_RATES = 2**20

MOST_DRAWN_AHEAD = 2**30
"""Bytes of the first states of a run up to which they are drawn ahead, see `starts_with_given`."""


def of_call(plan: Plan, first: int) -> RunInputs:
    """What distinguishes the runs from `first` on, leaves `[num_devices, runs_each, ...]`, numpy.

    Places without a run get the clients of the last one, without any samples.

    Args:
      plan: whose.
      first: index into `plan.runs` of the first of the call.
    """
    spread = plan.spread
    runs = plan.runs[first : first + plan.runs_per_program]
    count = spread.run_devices * spread.runs_each
    lengths = layout.row_lengths(
        [one.layout for one in plan.runs],
        [one.partition for one in plan.runs],
        [one.scored for one in plan.runs],
    )
    rows = [
        _of_run(plan, runs[min(place, len(runs) - 1)], lengths, empty=place >= len(runs))
        for place in range(count)
    ]

    def arrange(*leaves: np.ndarray) -> np.ndarray:
        """`[client_devices, ...]` of every run to `[num_devices, runs_each, ...]`."""
        stacked = np.stack(leaves).reshape(
            spread.runs_each, spread.run_devices, spread.client_devices, *leaves[0].shape[1:]
        )
        moved = np.moveaxis(stacked, 0, 2)
        return moved.reshape(-1, *moved.shape[2:])

    return jax.tree.map(arrange, *rows)


def initial_of_call(plan: Plan, told: RunInputs) -> Initial:
    """What private models start with, leaves `[num_devices, runs_each, ...]`, numpy.

    Args:
      plan: one for which `starts_with_given` holds.
      told: what distinguishes the runs, see `of_call`.
    """
    program, initial, seeds = plan.program, plan.initial, np.asarray(told.seed)

    def of(number: int, ids: np.ndarray) -> Any:
        architecture = program.architectures[number]
        if initial is None:
            return starting.drawn(architecture, seeds, ids)
        return starting.stacked(initial, ids, starting.shapes_of(architecture))

    clients = [of(number, np.asarray(one.client_ids)) for number, one in enumerate(told.members)]
    return Initial(of(program.first, np.zeros(seeds.shape, int)), tuple(clients))


def starts_with_given(plan: Plan) -> bool:
    """Whether the program that makes the first states is given what private models start with.

    Nets of many arrays are drawn in vectors, which numpy cuts: a compiler has a kernel for each
    array, and takes as long for all of them as for a tenth of a round. Of many clients the copy
    would be large, so that those draw in the program. Both ways agree to rounding; which it is
    depends on the settings of a run alone, never on devices or on other runs.
    """
    if plan.initial is not None:
        return True
    architectures = plan.program.architectures
    if not plan.program.apart or any(one.models.private.start is None for one in architectures):
        return False
    counts = [(one.client_ids >= 0).sum() for one in plan.runs[0].layout.placements]
    kept = [
        memory.num_bytes(one.client, rows=int(count))
        for count, one in zip(counts, architectures, strict=True)
    ]
    return sum(kept) <= MOST_DRAWN_AHEAD


def initial_shapes(plan: Plan, told: RunInputs) -> Initial:
    """The shapes of what `initial_of_call` returns."""

    def several(places: tuple[int, ...], number: int) -> Any:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((*places, *leaf.shape), leaf.dtype),
            starting.shapes_of(plan.program.architectures[number]),
        )

    clients = [several(one.client_ids.shape, i) for i, one in enumerate(told.members)]
    return Initial(several(told.seed.shape, plan.program.first), tuple(clients))


def _of_run(
    plan: Plan, run: PlannedRun, lengths: Sequence[tuple[int, int]], *, empty: bool
) -> RunInputs:
    """What distinguishes one run, leaves `[client_devices, ...]`; without samples if `empty`."""
    members = layout.members_of(run.layout, run.partition, run.scored, lengths)
    if empty:
        members = tuple(
            one._replace(train_count=one.train_count * 0, test_count=one.test_count * 0)
            for one in members
        )

    def repeated(value: Any) -> Any:
        return np.stack([np.asarray(value)] * plan.spread.client_devices)

    config = run.config
    own = methods.settings_of(config.method, config.method_settings)
    return RunInputs(
        repeated(np.uint32(config.seed)),
        repeated(np.float32(config.learning_rate)),
        repeated(np.float32(config.participation)),
        repeated(np.float32(config.dropout)),
        repeated(np.float32(config.failures)) if config.failures else None,
        repeated(np.float32(config.stragglers)) if config.stragglers else None,
        repeated(np.float32(config.straggler_work)),
        repeated(_rates(config)),
        jax.tree.map(lambda value: repeated(np.float32(value)), descent.of(config)),
        jax.tree.map(lambda value: repeated(np.float32(value)), own),
        repeated(run.class_counts),
        repeated(run.partition.train_count * (not empty)),
        members,
        _num_members(run),
        repeated(run.layout.order),
    )


def _rates(config: Config) -> np.ndarray:
    """`[length]` float32, by round what the learning rate is multiplied with; the last one stays.

    Longer than it need be, so that runs of more rounds have the same program.
    """
    fitting = 1 << (config.rounds - 1).bit_length()
    length = min(max(fitting, _LEAST_RATES), _MOST_RATES)
    return np.array(rates(config.schedule, config.rounds, length), np.float32)


def place_of(plan: Plan, number: int) -> tuple[int, int]:
    """First device of run `number` of a program, and its number on that device."""
    device, local = np.argwhere(plan.spread.numbers() == number)[0]
    return int(device), int(local)


def clients_at(plan: Plan, runs: Sequence[PlannedRun]) -> dict[str, Any]:
    """Who is where, for a call with these runs.

    Returns:
      `run` `[num_devices, runs_each]` and for each architecture `client` `[num_devices, runs_each,
      slots]` int; -1 for nobody.
    """
    numbers = plan.spread.numbers()
    run = np.where(numbers < len(runs), numbers, -1)
    placements = runs[0].layout.placements
    client = [np.full((*run.shape, one.client_ids.shape[1]), -1) for one in placements]
    for device, local in np.argwhere(run >= 0):
        own = runs[run[device, local]].layout.placements
        for ids, placement in zip(client, own, strict=True):
            ids[device, local] = placement.client_ids[device % plan.spread.client_devices]
    return {"run": run, "client": client}


def _num_members(run: PlannedRun) -> Any:
    """`[client_devices, architectures]` int32, the clients on each of the run's devices."""
    counts = [(one.client_ids >= 0).sum(axis=1) for one in run.layout.placements]
    return np.stack(counts, axis=1).astype(np.int32)
