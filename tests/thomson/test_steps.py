"""The steps of a descent, against the same rules in numpy; what an evaluation says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from protonorm_jax.thomson import descent, energies


def plainly(points, exponent, max_iterations):
    """`descend` in numpy: the points after so many trials, and what happened on the way."""
    count, seen = len(points), set()

    def evaluate(points):
        difference = points[:, None] - points[None]
        squared = (difference**2).sum(-1) + np.eye(count)
        terms = squared ** (-exponent / 2) if exponent else -np.log(squared) / 2
        force = ((exponent or 1) * squared ** (-exponent / 2 - 1))[..., None] * difference
        force = force.sum(1)
        radial = (force * points).sum(1, keepdims=True)
        return terms[np.triu_indices(count, 1)].sum(), force - radial * points, radial.sum()

    def longest(tangent):
        return 1 / np.sqrt((tangent**2).sum() / count)

    energy, tangent, radial = evaluate(points)
    step, mean, weight = longest(tangent), energy, 1.0
    for iteration in range(max_iterations):
        trial = points + step * tangent
        trial /= np.linalg.norm(trial, axis=1, keepdims=True)
        new_energy, new_tangent, new_radial = evaluate(trial)
        slack = 4 * np.finfo(np.float64).eps * abs(mean)
        if new_energy > mean - 1e-4 * step * (tangent**2).sum() + slack:
            seen.add("refused")
            step /= 4
            continue
        moved, turned = trial - points, tangent - new_tangent
        inner = (moved * turned).sum()
        long, short = (moved**2).sum() / inner, inner / (turned**2).sum()
        new_step = long if iteration % 2 == 0 else short
        if inner <= 0:
            seen.add("concave")
            new_step = 4 * step
        if new_step > longest(new_tangent):
            seen.add("shortened")
        seen.add("long" if iteration % 2 == 0 else "short")
        step = min(new_step, longest(new_tangent))
        mean = (0.85 * weight * mean + new_energy) / (0.85 * weight + 1)
        if new_energy > energy:
            seen.add("uphill")
        weight = 0.85 * weight + 1
        points, energy, tangent, radial = trial, new_energy, new_tangent, new_radial
    return points, energy, np.sqrt((tangent**2).sum() * count) / radial, seen


@pytest.mark.parametrize(
    ("exponent", "height", "seed", "happens"),
    [
        (0, 1e-3, 0, {"refused", "concave", "shortened"}),
        (2, 1.0, 0, {"refused", "concave"}),
        (2, 1.0, 711, {"refused"}),  # Of a step that goes down, but not enough.
    ],
)
def test_every_step_is_as_said(exponent, height, seed, happens):
    """In float64, where 30 steps lose no digit, from near a circle and from anywhere.

    One of the points does not count.
    """
    turns = np.arange(7) * 2 * np.pi / 7
    points = np.random.default_rng(seed).standard_normal((7, 3))
    if height < 1:
        points = np.stack([np.cos(turns), np.sin(turns), height * points[:, 2]], axis=1)
    known = np.arange(7) != 2
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    with jax.enable_x64(True):
        descend = jax.jit(descent.descend, static_argnames="exponent")
        settings = {"exponent": exponent, "tolerance": 0.0}
        for steps in (0, 1, 2, 3, 5, 8, 13, 30):
            ours = descend(points * known[:, None], known, max_iterations=steps, **settings)
            wanted, energy, residual, seen = plainly(points[known], exponent, steps)
            np.testing.assert_allclose(ours.points[known], wanted, atol=1e-7)
            np.testing.assert_allclose(ours.evaluation.energy, energy, rtol=1e-8)
            np.testing.assert_allclose(ours.evaluation.residual, residual, atol=1e-6)
            assert ours.iterations == steps
    assert seen == {"long", "short", "uphill"} | happens


def test_a_descent_ends_at_the_tolerance_or_at_the_last_iteration():
    points, known = np.float32([[1, 0, 0], [0, 1, 0], [0, 0, 1]]), np.ones(3, bool)
    descend = jax.jit(descent.descend, static_argnames="exponent")

    def iterations(tolerance, most):
        end = descend(points, known, exponent=1, tolerance=tolerance, max_iterations=most)
        return int(end.iterations), float(end.evaluation.residual)

    start = float(descent.evaluate(points, known, 1).residual)
    assert iterations(start, 9) == (0, pytest.approx(start))
    taken, residual = iterations(1e-5, 99)
    assert 1 < taken < 20 and residual <= 1e-5
    assert iterations(1e-5, taken) == (taken, residual)
    assert iterations(1e-5, taken - 1)[0] == taken - 1 and iterations(1e-5, taken - 1)[1] > 1e-5


def test_an_evaluation_of_two_points_by_hand():
    """At right angles: the force on one is half the way from the other."""
    points, known = jnp.eye(3, 4), jnp.array([True, True, False])
    energy, tangent, residual = descent.evaluate(points, known, 0)
    assert float(energy) == pytest.approx(-np.log(2) / 2)
    np.testing.assert_allclose(tangent, [[0, -0.5, 0, 0], [-0.5, 0, 0, 0], [0] * 4], atol=1e-6)
    assert float(residual) == pytest.approx(1.0)


@pytest.mark.parametrize(("dim", "repel"), [(2, True), (8, True), (9, False)])
def test_close_pairs_repel_as_far_as_their_distance_can_be_told(dim, repel):
    """In few dimensions down to 4.8e-7; above eight not below a thousandth of the spread."""
    known = jnp.ones(3, bool)

    def force(distance, **softening):
        points = jnp.zeros((3, dim)).at[:2, 0].set(1).at[1, 1].set(distance).at[2, 0].set(-1)
        return energies.energy_and_forces(points, known, 0, **softening)[1][1, 1]

    assert (float(force(1e-4)) == pytest.approx(1e4, rel=1e-3)) == repel
    assert float(force(1e-2)) == pytest.approx(1e2, rel=1e-2)
    if dim <= 8:
        assert float(force(5.3e-7)) == pytest.approx(1 / 5.3e-7, rel=0.01)
        assert abs(float(force(4.2e-7))) < 1
        assert float(force(1e-5, softening=1e-10)) == pytest.approx(0.5e5, rel=1e-3)
