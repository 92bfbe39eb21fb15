"""What a round costs at least, counted from the shapes of its products: nothing is compiled.

The compiler adds what is no product, and whatever it moves that need not be moved; see `costs` for
what a compiled program takes. As there, loops of a server that end by themselves are counted to
their limit.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from protonorm_jax.engine import client
from protonorm_jax.engine.program import Architecture, Program
from protonorm_jax.planning import costs, hooks, memory, shapes
from protonorm_jax.planning.plan import Plan
from protonorm_jax.planning.shapes import Shapes
from protonorm_jax.planning.targets import Chip
from protonorm_jax.planning.traced import product_flops
from protonorm_jax.scopes import Loop
from protonorm_jax.types import Images


class Least(NamedTuple):
    """What a round of all runs that go on side by side costs the busiest device at least.

    Attributes:
      flops: floating-point operations of products: matrix products and convolutions.
      bytes: read from and written to its memory: images of each batch once, each client's state
        once, and of its parameters in every step what fast memory cannot keep.
      seconds: by the published peaks of the chip, whichever of the two takes longer; None if there
        are none.
      hours: of all rounds of all runs; None without peaks.
    """

    flops: float
    bytes: float
    seconds: float | None
    hours: float | None


class _Cost(NamedTuple):
    """Of one step, one pass over a batch, or one client."""

    flops: float
    bytes: float


def of_round(plan: Plan, chip: Chip | None) -> Least:
    """What a round of a plan costs.

    Args:
      plan: whose; runs and clients that are vmapped are counted for themselves, what their batches
        waste apart.
      chip: what each device is, if that is known.
    """
    program, dataset = plan.program, plan.dataset
    found = np.zeros((len(plan.devices), 2))
    fast = chip.fast_memory if chip else 2**63
    for number, architecture in enumerate(program.architectures):
        given = shapes.of_hooks(program, architecture, dataset)
        images = Images.of(dataset.images).pixels
        of_image = images.itemsize * int(np.prod(images.shape[1:]))
        for loop, cost in _of_clients(program, architecture, given, number, of_image, fast):
            found += costs.turns_of_clients(plan, loop)[:, None] * np.array(cost)
    first = shapes.of_hooks(program, program.architectures[0], dataset)
    found[:, 0] += plan.spread.runs_each * _server_flops(program, first)
    if chip is None:
        flops, moved = found[found[:, 0].argmax()]
        return Least(float(flops), float(moved), None, None)
    times = np.maximum(found[:, 0] / chip.products, found[:, 1] / chip.bandwidth)
    (flops, moved), seconds = found[times.argmax()], float(times.max())
    calls = -(-len(plan.runs) // plan.runs_per_program)
    hours = seconds * program.config.rounds * calls / 3600
    return Least(float(flops), float(moved), seconds, hours)


def _of_clients(
    program: Program,
    architecture: Architecture,
    given: Shapes,
    number: int,
    of_image: int,
    fast: int,
) -> list[tuple[Loop, _Cost]]:
    """What each loop over the clients of an architecture costs in one turn of one client."""
    config, method, models = program.config, program.method, architecture.models

    def step(given: Shapes) -> Any:
        before = (given.client, given.down, given.batch, given.key, given.round)
        gradients, _, terms = client.gradient(*before, models=models, method=method)
        state = hooks.optimizer(given, method=method)
        after = client.descend(given.client, state, gradients, given.round, method=method)
        return after, terms

    def flops_of(hook: Callable[..., Any], given: Shapes) -> float:
        return product_flops(functools.partial(hook, method=method, models=models), given)

    seen = hooks.with_batch(given, config.eval_batch_size)
    of_batch = config.eval_batch_size * of_image
    with jax.numpy_dtype_promotion("standard"):  # As programs are traced.
        state = jax.eval_shape(functools.partial(hooks.optimizer, method=method), given)
        kept = memory.num_bytes((given.client.params, given.client.statistics, state))
        of_step = _Cost(
            product_flops(step, given),
            config.batch_size * of_image + 2 * max(kept - fast, 0),
        )
        whole = memory.num_bytes(given.client)
        found = [
            (Loop("steps", True, number), of_step),
            (Loop("clients", True, number), _Cost(flops_of(hooks.upload, given), 2 * whole)),
            (Loop("clients", False, number), _Cost(0.0, whole)),
            (Loop("batches", False, number), _Cost(flops_of(hooks.predict, seen), of_batch)),
        ]
        if client.collects(method, "after", "before"):
            cost = _Cost(flops_of(hooks.observe, seen), of_batch)
            found.append((Loop("batches", True, number), cost))
    return found


def _server_flops(program: Program, given: Shapes) -> float:
    """Of the products of the server's own work in a round."""
    aggregate = functools.partial(
        hooks.aggregate, method=program.method, num_rows=program.num_rows()
    )
    with jax.numpy_dtype_promotion("standard"):
        return product_flops(aggregate, given)
