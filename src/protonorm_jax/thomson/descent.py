"""Descent of an energy on the unit sphere with Barzilai-Borwein steps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from protonorm_jax.thomson.energies import energy_and_forces, unit_rows

_MEMORY = 0.85  # Of the running mean of energies that a step must not exceed.


class Evaluation(NamedTuple):
    """What the descent knows at one arrangement.

    Attributes:
      energy: `[]` sum over pairs.
      tangent: `[C, D]` the part of the forces along the sphere.
      residual: `[]` root mean square of `tangent`, divided by the mean force along the points
        themselves, which is `(C - 1) / 2` for the logarithmic energy.
    """

    energy: jax.Array
    tangent: jax.Array
    residual: jax.Array


class DescentResult(NamedTuple):
    """Where a descent ended: points `[C, D]`, their evaluation, and the evaluations it took."""

    points: jax.Array
    evaluation: Evaluation
    iterations: jax.Array


def evaluate(points: jax.Array, known: jax.Array, exponent: float) -> Evaluation:
    """Energy and tangential forces of the unit rows of `points`."""
    energy, force = energy_and_forces(points, known, exponent)
    radial = jnp.sum(force * points, axis=1, keepdims=True)
    tangent = jnp.where(known[:, None], force - radial * points, 0)
    size = jnp.sqrt(jnp.sum(tangent**2) * jnp.maximum(known.sum(), 1).astype(points.dtype))
    return Evaluation(energy, tangent, size / jnp.maximum(radial.sum(), jnp.finfo(energy).tiny))


class State(NamedTuple):
    """Where a descent stands.

    Attributes:
      points: `[C, D]`.
      evaluation: of the points.
      step: `[]` length of the next one, in units of the tangential forces.
      mean: `[]` running mean of the energies.
      weight: `[]` of the mean.
      iteration: `[]` int32, evaluations of trials so far.
    """

    points: jax.Array
    evaluation: Evaluation
    step: jax.Array
    mean: jax.Array
    weight: jax.Array
    iteration: jax.Array


def descend(
    points: jax.Array,
    known: jax.Array,
    *,
    exponent: float,
    tolerance: float | jax.Array,
    max_iterations: int,
) -> DescentResult:
    """Moves the unit rows of `points` (`[C, D]`) down to the nearest stationary arrangement.

    Stops when the residual is at most `tolerance`. Each iteration evaluates one trial. A trial is
    refused, and its step quartered, if its energy exceeds a running mean of the energies before
    it (H. Zhang and W. Hager, 2004); steps are chosen after J. Barzilai and J. Borwein (1988),
    the long and the short one by turns.
    """
    state = advance(
        begin(points, known, exponent),
        known,
        exponent=exponent,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    return DescentResult(state.points, state.evaluation, state.iteration)


def begin(points: jax.Array, known: jax.Array, exponent: float) -> State:
    """The state before the first step, see `descend`."""
    start = evaluate(points, known, exponent)
    one, zero = jnp.ones((), points.dtype), jnp.zeros((), jnp.int32)
    return State(points, start, _longest_step(start, known), start.energy, one, zero)


def advance(
    state: State,
    known: jax.Array,
    *,
    exponent: float,
    tolerance: float | jax.Array,
    max_iterations: int | jax.Array,
) -> State:
    """Goes on until `max_iterations` have been made from the start on, see `descend`."""
    slack = 4 * jnp.finfo(state.points.dtype).eps

    def iterate(state: State) -> State:
        points, here, step, mean, weight, iteration = state
        trial = unit_rows(points + step * here.tangent, known)
        there = evaluate(trial, known, exponent)
        slope = jnp.sum(here.tangent**2)
        limit = mean - 1e-4 * step * slope + slack * jnp.abs(mean)
        accepted = there.energy <= limit

        moved, turned = trial - points, here.tangent - there.tangent
        inner = jnp.sum(moved * turned)
        long = jnp.sum(moved**2) / inner
        short = inner / jnp.sum(turned**2)
        next_step = jnp.where(iteration % 2 == 0, long, short)
        next_step = jnp.where(inner > 0, next_step, 4 * step)
        next_step = jnp.minimum(next_step, _longest_step(there, known))
        next_weight = _MEMORY * weight + 1
        next_mean = (_MEMORY * weight * mean + there.energy) / next_weight

        fresh = State(trial, there, next_step, next_mean, next_weight, iteration + 1)
        stale = State(points, here, step / 4, mean, weight, iteration + 1)
        return jax.tree.map(lambda yes, no: jnp.where(accepted, yes, no), fresh, stale)

    def going(state: State) -> jax.Array:
        return (state.evaluation.residual > tolerance) & (state.iteration < max_iterations)

    return lax.while_loop(going, iterate, state)


def _longest_step(evaluation: Evaluation, known: jax.Array) -> jax.Array:
    """One by which the points move by 1 in the mean."""
    tangent = evaluation.tangent
    count = jnp.maximum(known.sum(), 1).astype(tangent.dtype)
    size = jnp.sqrt(jnp.sum(tangent**2) / count)
    return 1 / jnp.maximum(size, jnp.finfo(tangent.dtype).tiny)
