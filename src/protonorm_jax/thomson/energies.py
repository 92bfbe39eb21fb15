"""Energies, forces and angles of points on the unit sphere, and bounds that no arrangement beats.

The Riesz energy of exponent `s` is the sum over all pairs of `d^-s`, and of `-log d` for `s = 0`,
where `d` is the distance of the pair. `s = 1` is the Coulomb energy of the Thomson problem; the
reference code of ProtoNorm descends `s = 0`.

Distances come from the Gram matrix of the points less their mean. Distances and forces do not
change under translation, and without the mean points that huddle together lose no digits, so
float32 is as exact as with the `[C, C, D]` tensor of differences, in `O(C^2 + C D)` memory. Only
single close pairs among points far apart lose some; in few dimensions, where such pairs occur,
the differences are summed dimension by dimension instead.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax

from protonorm_jax.errors import UsageError

_FEW_DIMENSIONS = 8


class Pairs(NamedTuple):
    """All pairs of a set of points.

    Attributes:
      centred: `[C, D]` the points less the mean of the known rows; unknown rows are zero.
      squared_distances: `[C, C]`; 1 where there is no pair.
      exists: `[C, C]` bool; two different known rows.
      coincide: `[C, C]` bool; the pair lies closer than rounding lets one tell.
    """

    centred: jax.Array
    squared_distances: jax.Array
    exists: jax.Array
    coincide: jax.Array


def known_rows(points: jax.Array, known: jax.Array | None) -> jax.Array:
    """`known` as a `[C]` bool mask, all true where it is None; checks the shapes."""
    chex.assert_rank(points, 2)
    if known is None:
        return jnp.ones(points.shape[0], bool)
    chex.assert_shape(known, points.shape[:1])
    return jnp.asarray(known, bool)


def check_exponent(exponent: float) -> None:
    """Raises UsageError unless `exponent` is a finite number that is not negative."""
    if not (math.isfinite(exponent) and exponent >= 0):
        raise UsageError(f"align.exponent must be a finite number >= 0, got {exponent!r}")


def gram(points: jax.Array) -> jax.Array:
    """`[C, C]` inner products of the rows, in full precision on every device."""
    return jnp.matmul(points, points.T, precision=lax.Precision.HIGHEST)


def centre(points: jax.Array, known: jax.Array) -> jax.Array:
    """`[C, D]` the known rows less their mean; unknown rows are zero."""
    points = jnp.where(known[:, None], points, 0)
    mean = points.sum(0) * (1 / jnp.maximum(known.sum(), 1).astype(points.dtype))
    return jnp.where(known[:, None], points - mean[None, :], 0)


def unit_rows(points: jax.Array, known: jax.Array) -> jax.Array:
    """Scales the known rows to unit length; unknown rows become zero."""
    norms = jnp.linalg.norm(points, axis=1, keepdims=True)
    return jnp.where(known[:, None], points * (1 / jnp.where(norms > 0, norms, 1)), 0)


def pairs(points: jax.Array, known: jax.Array) -> Pairs:
    """Distances of all pairs of known rows of `points` (`[C, D]`)."""
    centred = centre(points, known)
    exists = known[:, None] & known[None, :] & ~jnp.eye(points.shape[0], dtype=bool)
    epsilon = jnp.finfo(points.dtype).eps
    if points.shape[1] <= _FEW_DIMENSIONS:
        squared = sum(difference**2 for difference in _differences(centred))
        uncertain = (4 * epsilon) ** 2
    else:
        inner = gram(centred)
        squared_norms = jnp.diagonal(inner)
        sums = squared_norms[:, None] + squared_norms[None, :]
        squared = jnp.maximum(sums - 2 * inner, 0)
        uncertain = 8 * epsilon * sums + (4 * epsilon) ** 2
    coincide = exists & (squared <= uncertain)
    return Pairs(centred, jnp.where(exists, squared, 1), exists, coincide)


def _differences(points: jax.Array) -> Iterator[jax.Array]:
    """`[C, C]` differences of all rows, one dimension after the other."""
    for coordinate in points.T:
        yield coordinate[:, None] - coordinate[None, :]


def pair_energies(squared_distances: jax.Array, exponent: float) -> jax.Array:
    """Energy of a pair from its squared distance."""
    if exponent == 0:
        return -0.5 * jnp.log(squared_distances)
    if exponent == 1:
        return lax.rsqrt(squared_distances)
    return squared_distances ** (-exponent / 2)


def energy(points: jax.Array, known: jax.Array | None = None, *, exponent: float = 1) -> jax.Array:
    """Riesz energy, summed over pairs.

    Args:
      points: `[C, D]`.
      known: `[C]` bool; rows where it is false do not count. Default: all rows count.
      exponent: static; 0 is the sum of `-log d`, `s > 0` the sum of `d^-s`.

    Returns:
      `[]`; 0 for fewer than two known rows, large or infinite where two of them coincide.

    Raises:
      UsageError: if `exponent` is negative or not finite.
    """
    check_exponent(exponent)
    all_pairs = pairs(points, known_rows(points, known))
    terms = pair_energies(all_pairs.squared_distances, exponent)
    return 0.5 * jnp.where(all_pairs.exists, terms, 0).sum()


riesz_energy = energy


def energy_and_forces(
    points: jax.Array, known: jax.Array, exponent: float, *, softening: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """`energy` and `forces` (`[C, D]`) at the price of one.

    `softening` is added to the squared distances by which the forces are divided; it is the
    `1e-10` of the reference.
    """
    centred, squared, exists, coincide = pairs(points, known)
    terms = jnp.where(exists, pair_energies(squared, exponent), 0)
    strength = (exponent * terms if exponent else 1) / (squared + softening)
    strength = jnp.where(exists & ~coincide, strength, 0)
    if points.shape[1] <= _FEW_DIMENSIONS:
        force = jnp.stack([(strength * d).sum(1) for d in _differences(centred)], axis=1)
    else:
        attraction = jnp.matmul(strength, centred, precision=lax.Precision.HIGHEST)
        force = strength.sum(1)[:, None] * centred - attraction
    return 0.5 * terms.sum(), force


def forces(points: jax.Array, known: jax.Array | None = None, *, exponent: float = 1) -> jax.Array:
    """The negative gradient of `energy`.

    Args:
      points: `[C, D]`.
      known: `[C]` bool; rows where it is false neither repel nor feel a force.
      exponent: static; see `energy`.

    Returns:
      `[C, D]` in the ambient space: the part along the point itself is included. Rows that
      coincide do not repel each other: in float32, those closer than `5e-7`, and above eight
      dimensions also than about `1e-3` of the spread of the points. Rows where `known` is false
      are zero.

    Raises:
      UsageError: if `exponent` is negative or not finite.
    """
    check_exponent(exponent)
    return energy_and_forces(points, known_rows(points, known), exponent)[1]


def min_angle(points: jax.Array, known: jax.Array | None = None) -> jax.Array:
    """Smallest angle between two known rows.

    Args:
      points: `[C, D]` of any length but zero.
      known: `[C]` bool; rows where it is false do not count.

    Returns:
      `[]` degrees; NaN for fewer than two known rows.
    """
    known = known_rows(points, known)
    unit = unit_rows(points, known)
    exists = known[:, None] & known[None, :] & ~jnp.eye(points.shape[0], dtype=bool)
    closest = jnp.argmax(jnp.where(exists, gram(unit), -jnp.inf))
    one, other = (unit[index] for index in jnp.unravel_index(closest, exists.shape))
    # Unlike the arc cosine, this keeps all digits near 0 and 180 degrees.
    angle = 2 * jnp.arctan2(jnp.linalg.norm(one - other), jnp.linalg.norm(one + other))
    return jnp.where(known.sum() >= 2, jnp.rad2deg(angle), jnp.nan)


def mean_angle(points: jax.Array, known: jax.Array | None = None) -> jax.Array:
    """Mean angle over all pairs of known rows; arguments and result as in `min_angle`."""
    known = known_rows(points, known)
    unit = unit_rows(points, known)
    _, squared, exists, _ = pairs(unit, known)
    angles = jnp.where(exists, 2 * jnp.arcsin(jnp.clip(jnp.sqrt(squared) / 2, 0, 1)), 0)
    count = exists.sum()
    mean = angles.sum() / jnp.maximum(count, 1).astype(angles.dtype)
    return jnp.where(count > 0, jnp.rad2deg(mean), jnp.nan)


def lower_bound(num_points: int | jax.Array, dim: int, *, exponent: float = 1) -> jax.Array:
    """A lower bound of `energy` over all arrangements of points on the unit sphere.

    Up to `dim + 1` points it is attained by the regular simplex. Above, it is the universal
    bound of the quadrature with nodes -1 and `a = 1 - (1 - 1/dim) / (1 - 2/num_points)` that is
    exact for polynomials of degree two; `2 dim` points, the cross-polytope, attain it. Beyond
    `2 dim` points it still holds but is no longer the best one known. For `dim = 1` the energy of
    a simplex of that many points is returned, which also holds.

    Args:
      num_points: how many points; may be traced (a masked count).
      dim: dimension of the space, static.
      exponent: static; see `energy`.

    Returns:
      `[]` float; 0 for fewer than two points.

    Raises:
      UsageError: if `exponent` is negative or not finite, or `dim < 1`.

    Source: P. Boyvalenkov, P. Dragnev, D. Hardin, E. Saff, M. Stoyanova, "Universal lower bounds
    for potential energy of spherical codes", arXiv:1503.07228; derived anew for this case.
    """
    check_exponent(exponent)
    if dim < 1:
        raise UsageError(f"lower_bound.dim must be >= 1, got {dim}")
    count = jnp.asarray(num_points, jnp.result_type(float))
    few = jnp.maximum(count, 2)
    simplex = few * (few - 1) / 2 * pair_energies(2 * few / (few - 1), exponent)
    if dim > 1:
        many = jnp.maximum(count, 3)
        gap = (1 - 1 / dim) / (1 - 2 / many)  # 1 - a
        weight = (1 - 1 / dim) / (gap * (2 - gap))  # Of the node a.
        at_opposite = (1 - 1 / many - weight) * pair_energies(jnp.full_like(many, 4), exponent)
        universal = many**2 / 2 * (at_opposite + weight * pair_energies(2 * gap, exponent))
        simplex = jnp.where(count <= dim + 1, simplex, universal)
    return jnp.where(count < 2, 0, simplex)
