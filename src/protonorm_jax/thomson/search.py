"""The Thomson problem: a search for the arrangement of least energy."""

import contextlib
import csv
import functools
import importlib.resources
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from protonorm_jax.errors import UsageError
from protonorm_jax.thomson import descent
from protonorm_jax.thomson.energies import check_exponent, unit_rows

_SIZES = (16, 32, 64, 100, 128, 160, 200)  # What numbers of points are padded to.
_CHUNK = 16  # Descents that run side by side; more would leave the processor's cache.
_POPULATION = 8  # Arrangements from which others are recombined, and which are polished.
_SEARCH_TOLERANCE = 3e-5
_SEARCH_ITERATIONS = 1000
_SLICE = 5 * 10**7  # Pairs of points in one call of a program, which takes a second or less.
_NAP = 0.005  # Seconds.
_SAME_ENERGY = 4e-7  # Relative; below, float32 cannot tell two arrangements apart.


class MinimizeResult(NamedTuple):
    """The best arrangement that a search has found.

    Attributes:
      points: `[N, D]` float64 unit vectors.
      energy: float, summed over pairs.
      residual: float, as in `AlignResult`.
      converged: whether `residual` is at most the tolerance.
      energies: `[8]` float64, ascending; where the best descents ended. Equal ones suggest that
        there is nothing better to be found.
    """

    points: np.ndarray
    energy: float
    residual: float
    converged: bool
    energies: np.ndarray


def _padded_size(num_points: int) -> int:
    for size in _SIZES:
        if num_points <= size:
            return size
    return -(-num_points // 64) * 64


def _recombine(key: jax.Array, one: jax.Array, other: jax.Array, known: jax.Array) -> jax.Array:
    """A cap of `one` and the opposite rest of a mirror image of `other`, `[size, D]` each."""
    axis_key, mirror_key, cut_key = jax.random.split(key, 3)
    dim = one.shape[1]
    axis = jax.random.normal(axis_key, (dim,))
    normal = jax.random.normal(mirror_key, (dim,))
    normal = normal / jnp.linalg.norm(normal)
    other = other - 2 * jnp.sum(other * normal[None, :], 1, keepdims=True) * normal[None, :]

    def from_the_pole(points):  # The unknown rows come last.
        height = jnp.sum(points * axis[None, :], axis=1)
        return points[jnp.argsort(jnp.where(known, -height, jnp.inf))]

    cut = jax.random.uniform(cut_key, minval=0.1, maxval=0.9) * known.sum().astype(jnp.float32)
    in_cap = jnp.arange(one.shape[0], dtype=cut.dtype) < cut
    return jnp.where(in_cap[:, None], from_the_pole(one), from_the_pole(other))


@functools.partial(jax.jit, static_argnames=("size", "dim"))
def _random(keys: jax.Array, *, size: int, dim: int) -> jax.Array:
    """Random points, `[K, size, dim]`."""
    return jax.vmap(lambda key: jax.random.normal(key, (size, dim), jnp.float32))(keys)


@jax.jit
def _children(points: jax.Array, key: jax.Array, num_points: jax.Array) -> jax.Array:
    """Points recombined of members of a population, `[_CHUNK, size, dim]`."""
    known = _known(points[0], num_points)

    def child(key):
        parents_key, recombine_key = jax.random.split(key)
        # The better ones more often.
        rank = jax.random.uniform(parents_key, (2,)) ** 2 * _POPULATION
        one, other = points[rank.astype(jnp.int32)]
        return _recombine(recombine_key, one, other, known)

    return jax.vmap(child)(jax.random.split(key, _CHUNK))


@jax.jit
def _select(points: jax.Array, energies: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The `_POPULATION` best arrangements, different if possible, and their energies."""
    order = jnp.argsort(energies)
    points, energies = points[order], energies[order]
    step = jnp.diff(energies, prepend=-jnp.inf)
    repeats = step < _SAME_ENERGY * jnp.abs(energies)
    order = jnp.argsort(jnp.where(repeats, jnp.inf, energies))[:_POPULATION]
    return points[order], energies[order]


@functools.partial(jax.jit, static_argnames=("exponent",))
def _begin(points: jax.Array, num_points: jax.Array, *, exponent: float) -> descent.State:
    """Descents from `[K, size, dim]` points before their first step."""
    known = _known(points[0], num_points)
    return jax.vmap(lambda one: descent.begin(unit_rows(one, known), known, exponent))(points)


@functools.partial(jax.jit, static_argnames=("exponent", "tolerance"))
def _advance(
    states: descent.State,
    num_points: jax.Array,
    until: jax.Array,
    *,
    exponent: float,
    tolerance: float,
) -> tuple[descent.State, jax.Array]:
    """Descents after `until` iterations, and whether one of them would go on."""
    known = _known(states.points[0], num_points)

    def one(state):
        return descent.advance(
            state, known, exponent=exponent, tolerance=tolerance, max_iterations=until
        )

    states = jax.vmap(one)(states)
    return states, (states.evaluation.residual > tolerance).any()


def _known(points: jax.Array, num_points: jax.Array) -> jax.Array:
    """`[size]` bool, which of the rows are points; the others are padding."""
    return jnp.arange(points.shape[0], dtype=jnp.int32) < num_points


def _descend(
    points: jax.Array,
    num_points: jax.Array,
    tell: Callable[[int], None],
    *,
    exponent: float,
    tolerance: float,
    max_iterations: int,
) -> descent.State:
    """Descends from `[K, size, dim]` points side by side.

    In slices, between which `tell` hears of the iterations; while it waits Python sees signals.
    """
    each = max(1, _SLICE // (points.shape[0] * points.shape[1] ** 2))
    states = _begin(points, num_points, exponent=exponent)
    for done in range(0, max_iterations, each):
        until = jnp.asarray(min(done + each, max_iterations), jnp.int32)
        states, going = _advance(states, num_points, until, exponent=exponent, tolerance=tolerance)
        tell(done)
        while not going.is_ready():
            time.sleep(_NAP)
            tell(done)
        if not going:
            break
    return states


def _search(
    key: jax.Array,
    num_points: jax.Array,
    *,
    size: int,
    dim: int,
    exponent: float,
    starts: int,
    generations: int,
    tell: Callable[[int, int], None],
) -> jax.Array:
    """The `[_POPULATION, size, dim]` best arrangements in float32, different if possible."""

    def relax(points: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
        end = _descend(
            points,
            num_points,
            functools.partial(tell, number * _CHUNK),
            exponent=exponent,
            tolerance=_SEARCH_TOLERANCE,
            max_iterations=_SEARCH_ITERATIONS,
        )
        return end.points, end.evaluation.energy

    start_key, generations_key = jax.random.split(key)
    keys = jax.random.split(start_key, starts * _CHUNK).reshape(starts, _CHUNK)
    ends = [relax(_random(some, size=size, dim=dim), number) for number, some in enumerate(keys)]
    population = _select(*map(jnp.concatenate, zip(*ends, strict=True)))
    if generations:
        for number, key in enumerate(jax.random.split(generations_key, generations), starts):
            made = relax(_children(population[0], key, num_points), number)
            population = _select(*map(jnp.concatenate, zip(population, made, strict=True)))
    return population[0]


def _polish(
    points: jax.Array,
    num_points: jax.Array,
    *,
    exponent: float,
    tolerance: float,
    max_iterations: int,
    tell: Callable[[int, int], None],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Descends from each of `[K, size, D]` points: points, energies, residuals."""
    ends = [
        _descend(
            points[number : number + 1],
            num_points,
            functools.partial(tell, number),
            exponent=exponent,
            tolerance=tolerance,
            max_iterations=max_iterations,
        )
        for number in range(len(points))
    ]
    whole = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *ends)
    return whole.points, whole.evaluation.energy, whole.evaluation.residual


def _silent(what: str, done: int, total: int, steps: int) -> None:
    """Tells nobody."""


def _on_cpu() -> contextlib.AbstractContextManager:
    """Runs what is inside on the CPU, or on the default device where jax has no CPU."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return contextlib.nullcontext()


def minimize(
    key: jax.Array,
    *,
    num_points: int,
    dim: int = 3,
    exponent: float = 1,
    restarts: int = 64,
    tolerance: float = 1e-8,
    max_iterations: int = 5000,
    tell: Callable[[str, int, int, int], None] | None = None,
) -> MinimizeResult:
    """Searches for the points on the unit sphere that have the least energy.

    A quarter of the descents start from random points. The others start from a cap of one and the
    rest of another of the eight best different arrangements so far, 16 descents at a time. This
    runs in float32 on the default device. The eight best are then polished in float64 on the CPU,
    whatever `jax_enable_x64` says and without changing it. Sizes are padded, so that many
    numbers of points share one compiled program.

    Runs on the host and is not itself to be transformed by `jax.jit` or `jax.vmap`.

    Args:
      key: decides the starts; equal keys find equal points on equal hardware.
      num_points: at least 2.
      dim: dimension of the space, at least 2.
      exponent: see `energy`; 1 is the Thomson problem.
      restarts: number of descents, rounded up to a multiple of 16.
      tolerance: the residual at which the polish stops.
      max_iterations: the most evaluations of each polish.
      tell: called many times a second with what is being done (`"descents"`, then `"polish"`), how
        many of these are done, how many there are, and the steps of those that are under way.

    Returns:
      `MinimizeResult`.

    Raises:
      UsageError: for a setting out of range.

    Source: recombination after J. Morris, D. Deaven, K. Ho, "Genetic-algorithm energy
    minimization for point charges on a sphere", Physical Review B 53 (1996), with a mirror image
    in place of a rotation.
    """
    check_exponent(exponent)
    for name, value, least in (("num_points", num_points, 2), ("dim", dim, 2)):
        if value < least:
            raise UsageError(f"minimize.{name} must be >= {least}, got {value}")
    if restarts < 1:
        raise UsageError(f"minimize.restarts must be >= 1, got {restarts}")
    chunks = -(-restarts // _CHUNK)
    starts = -(-chunks // 4)
    tell = tell or _silent
    with jax.enable_x64(False):
        found = _search(
            key,
            jnp.asarray(num_points, jnp.int32),
            size=_padded_size(num_points),
            dim=dim,
            exponent=exponent,
            starts=starts,
            generations=chunks - starts,
            tell=lambda done, steps: tell("descents", done, chunks * _CHUNK, steps),
        )
    candidates = np.asarray(found, np.float64)
    with _on_cpu(), jax.enable_x64(True):
        polished = _polish(
            jnp.asarray(candidates),
            jnp.asarray(num_points, jnp.int32),
            exponent=exponent,
            tolerance=tolerance,
            max_iterations=max_iterations,
            tell=lambda done, steps: tell("polish", done, _POPULATION, steps),
        )
        points, energies, residuals = (np.asarray(leaf) for leaf in polished)
    order = np.argsort(energies)
    best = order[0]
    return MinimizeResult(
        points=points[best, :num_points],
        energy=float(energies[best]),
        residual=float(residuals[best]),
        converged=bool(residuals[best] <= tolerance),
        energies=energies[order],
    )


@functools.cache
def _best_known_table() -> dict[int, float]:
    table = importlib.resources.files(__package__) / "best_known.csv"
    with table.open() as lines:
        return {int(row["num_points"]): float(row["energy"]) for row in csv.DictReader(lines)}


def best_known(num_points: int) -> float | None:
    """The least Coulomb energy of points on the sphere in three dimensions found by anyone.

    From a published table to nine decimals. The values are putative: no search has found less,
    but only for a few numbers of points is there a proof.

    Args:
      num_points: number of points.

    Returns:
      the sum over pairs of `1 / d`, or None for numbers of points that the table leaves out.
    """
    return _best_known_table().get(num_points)
