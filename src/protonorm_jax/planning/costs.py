"""What a round costs: how often each of the engine's loops goes round, and what one turn takes."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from protonorm_jax.engine import client, participation
from protonorm_jax.planning import layout
from protonorm_jax.planning.hlo import Cost, Counted
from protonorm_jax.planning.plan import Plan
from protonorm_jax.planning.targets import Chip
from protonorm_jax.scopes import Loop

PARTS = ("training", "collection", "evaluation", "rest")


class Round(NamedTuple):
    """What a round of all runs that go on side by side costs the busiest device.

    It is the least that it can be: in the mean over drawn rounds where not all clients train, and
    nothing is read twice. Of the evaluation it has the part of one round. Loops
    that end by themselves are counted to their limit.

    Attributes:
      flops: floating-point operations.
      bytes: read from and written to its memory.
      cycles: of its clock, as the compiler estimates them; zero where it does not.
      by_part: of each of `PARTS`: steps of training; passes over training samples without a step,
        as for prototypes; the evaluation; and all else, as what the server does.
      seconds: by the published peaks of the chip, whichever of the two takes longer; None if there
        are none.
    """

    flops: float
    bytes: float
    cycles: float
    by_part: dict[str, Cost]
    seconds: float | None


def of_round(
    plan: Plan, counted: Counted, chip: Chip | None, *, every_round: bool = False
) -> Round:
    """What a program costs in a round.

    Args:
      plan: of the program.
      counted: the compiled program that advances its runs, or one of those that do so together.
      chip: what each device is, if that is known.
      every_round: whether it is called in every round, rather than once in an evaluation.
    """
    found = [dict.fromkeys(PARTS, Cost()) for _ in plan.devices]
    for loop, cost in counted.by_loop.items():
        part = _part_of(loop)
        for by_part, times in zip(found, turns(plan, loop, every_round=every_round), strict=True):
            by_part[part] = by_part[part].plus(cost, float(times))

    def seconds(cost: Cost) -> float:
        if chip is None:
            return cost.flops
        return max(cost.flops / chip.products, cost.bytes / chip.bandwidth)

    busiest = max(found, key=lambda by_part: seconds(_total(by_part)))
    cost = _total(busiest)
    return Round(*cost, busiest, seconds(cost) if chip else None)


def _total(by_part: Mapping[str, Cost]) -> Cost:
    total = Cost()
    for cost in by_part.values():
        total = total.plus(cost)
    return total


def _part_of(loop: Loop | None) -> str:
    """To which of `PARTS` a turn of a loop belongs, inner loops apart."""
    if loop and loop.name == "steps":
        return "training"
    if loop and loop.name == "batches" and loop.within_round:
        return "collection"
    if loop and loop.architecture is not None and not loop.within_round:
        return "evaluation"
    return "rest"


def turns(plan: Plan, loop: Loop | None, *, every_round: bool = False) -> np.ndarray:
    """How often a loop goes round for one round of training, on each device.

    Args:
      plan: whose first call is asked about.
      loop: one of the engine's; None for what is in none of them.
      every_round: see `of_round`.

    Returns:
      `[num_devices]` float, a fraction for what is done once in several rounds.
    """
    calls = _calls(plan)
    often = 1.0 if loop and loop.within_round else calls
    if loop is None or loop.architecture is None:
        each = 1 if loop is None else plan.spread.runs_each // plan.spread.vmap_runs
        often = 1.0 if every_round or (loop and loop.name == "rounds") else often
        return np.full(len(plan.devices), each * often)
    work = _work(plan, loop, _counts(plan, loop))
    if loop.name in ("clients", "absent"):
        # Those who are away mostly receive in the last round of a call.
        often = calls if loop.name == "absent" else often
        return work.any(axis=3).sum(axis=2).mean(axis=0) * often
    return _turns_at(work, plan, loop).mean(axis=0) * often


def turns_of_clients(plan: Plan, loop: Loop) -> np.ndarray:
    """How often a loop would go round if each client went alone, see `turns`.

    Args:
      plan: whose first call is asked about.
      loop: one of those of the clients of an architecture.

    Returns:
      `[num_devices]` float.
    """
    work = _work(plan, loop, _counts(plan, loop)).sum(axis=(2, 3)).mean(axis=0)
    return work * (1.0 if loop.within_round else _calls(plan))


def _calls(plan: Plan) -> float:
    """Of the program, for a round."""
    config = plan.program.config
    return 1 / min(config.eval_every, config.rounds)


def _counts(plan: Plan, loop: Loop) -> list[np.ndarray]:
    """How often a loop goes round for each client of each run, or for a loop over clients one."""
    config, method = plan.program.config, plan.program.method
    runs = plan.runs[: plan.runs_per_program]
    counts = [run.partition.train_count for run in runs]
    if loop.name in ("clients", "absent"):
        return [np.ones_like(count) for count in counts]
    if loop.name == "steps":
        return [client.num_steps(count, config, method.reserve) for count in counts]
    if loop.within_round:
        samples = [client.usable(count, config) for count in counts]
    else:
        samples = [run.scored.counts.sum(axis=1) for run in runs]
    return [-(-count // config.eval_batch_size) for count in samples]


def _work(plan: Plan, loop: Loop, counts: list[np.ndarray]) -> np.ndarray:
    """`[rounds, num_devices, batches, rows]` int: counts of clients, in batches of those vmapped;
    in the loops of training of those who train.
    """
    runs = plan.runs[: plan.runs_per_program]
    assert loop.architecture is not None
    participants = None
    if loop.within_round and loop.name != "absent":
        wanted = np.array([run.config.participation for run in runs], np.float32)
        found = participation.num_participants(wanted, plan.program.config.num_clients)
        participants = [found.astype(int).tolist()]
    work = layout.work_of([[run.layout for run in runs]], [counts], plan.spread, participants)
    return work[loop.architecture].steps


def _turns_at(work: np.ndarray, plan: Plan, loop: Loop) -> np.ndarray:
    """How often the loop over batches goes round at the width of this one, see `lockstep`.

    `[rounds, num_devices]` int.
    """
    if loop.width is None:
        return work.max(axis=3).sum(axis=2)
    assert loop.architecture is not None
    rows, own = work.shape[3], plan.program.architectures[loop.architecture]
    narrowing = own.widths if loop.within_round else own.evaluation_widths
    ends = np.append(np.sort(work, axis=3)[..., ::-1], np.zeros_like(work[..., :1]), axis=3)
    widths = [rows, *(width for width in narrowing if width < rows), 0]
    following = widths[widths.index(loop.width) + 1]
    return (ends[..., following] - ends[..., loop.width]).sum(axis=2)
