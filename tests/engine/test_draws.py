"""Drawing without replacement: the bits of `jax.random.permutation`, and ties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from protonorm_jax.engine import draws


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1626, 1627, 3000])
def test_those_drawn_are_the_first_of_a_permutation(size):
    """Of sizes for which jax sorts not at all, once and twice."""
    draw = jax.jit(draws.among_first, static_argnums=1)
    for seed in range(3):
        key = jax.random.key(seed)
        order = np.asarray(jax.random.permutation(key, size))
        for wanted in {0, 1, size // 3, size}:
            found = draw(key, size, jnp.int32(wanted))
            np.testing.assert_array_equal(np.flatnonzero(found), np.sort(order[:wanted]))


def test_vmapped_runs_draw_what_each_draws_alone():
    size, wanted = 1700, jnp.array([3, 900], jnp.int32)
    keys = jax.random.split(jax.random.key(5))
    draw = jax.jit(jax.vmap(lambda key, most: draws.among_first(key, size, most)))
    for key, most, found in zip(keys, wanted, draw(keys, wanted), strict=True):
        order = np.asarray(jax.random.permutation(key, size))
        np.testing.assert_array_equal(np.flatnonzero(found), np.sort(order[:most]))


@pytest.mark.parametrize("beyond", [0, 1000])
def test_of_equal_numbers_the_first_are_least(beyond):
    """Of few, which are sorted, and of many, which are counted."""
    values = jnp.array([5, 3, 3, 9, 3, 1] + [2**32 - 1] * beyond, jnp.uint32)
    for wanted, places in enumerate([[], [5], [1, 5], [1, 2, 5], [1, 2, 4, 5], [0, 1, 2, 4, 5]]):
        found = draws.among_least(values, jnp.int32(wanted))
        np.testing.assert_array_equal(np.flatnonzero(found), places)


@pytest.mark.parametrize("size", [1, 2, 5, 1000, 70_000])
def test_sorting_keeps_the_order_of_equal_numbers(size):
    """In all bits, and however many the places leave for them."""
    rng = np.random.default_rng(size)
    for most in (3, 2**16, 2**32):
        values = rng.integers(0, most, size, dtype=np.uint32)
        found = draws.argsort(jnp.asarray(values))
        np.testing.assert_array_equal(found, np.argsort(values, kind="stable"))
