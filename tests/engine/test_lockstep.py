"""Loops of unequal length side by side: same numbers as alone, and little wasted work."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protonorm_jax.engine import lockstep

COUNTS = np.array([3, 0, 9, 5, 5])
FACTORS = np.array([0.1, 0.6, 1.1, 2.0, 0.4], np.float32)
SHARED = np.arange(20.0, dtype=np.float32)


def body(index, carry, constants):
    total, weights = carry
    factor, shared = constants
    return total + factor * shared[index], jnp.sin(weights + factor)


def loop(widths):
    """Returns the function of a count and a factor that the tests map."""

    def run(count, factor):
        carry = (1.0, jnp.arange(3.0) * factor)
        return lockstep.repeat(count, body, carry, (factor, SHARED), widths=widths)

    return run


def assert_rows(actual, counts, factors):
    """Asserts that each row of `actual` is what a loop in numpy makes of its count and factor."""
    for row, (count, factor) in enumerate(zip(counts, factors, strict=True)):
        weights = np.arange(3.0) * factor
        for _ in range(count):
            weights = np.sin(weights + factor)
        np.testing.assert_allclose(actual[0][row], 1 + factor * SHARED[:count].sum(), rtol=1e-5)
        np.testing.assert_allclose(actual[1][row], weights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("widths", [(), (5, 3, 1), (2,)])
def test_rows_have_the_numbers_they_have_alone(widths):
    assert_rows(jax.jit(jax.vmap(loop(widths)))(COUNTS, FACTORS), COUNTS, FACTORS)


def test_what_is_not_mapped_may_stay_so():
    """Nothing at all, only the counts, only the constants, and an outer vmap over the counts."""

    @jax.jit
    def run(counts, factors):
        return (
            loop((3,))(counts[0], factors[3]),
            jax.vmap(lambda count: loop((5, 3))(count, factors[3]))(counts),
            jax.vmap(lambda factor: loop((3,))(counts[0], factor))(factors),
            jax.vmap(lambda shift: jax.vmap(loop((7, 3)))(counts + shift, factors))(jnp.arange(2)),
        )

    alone, by_count, by_factor, twice = run(COUNTS, FACTORS)
    assert_rows(jax.tree.map(lambda leaf: leaf[None], alone), COUNTS[:1], FACTORS[3:4])
    assert_rows(by_count, COUNTS, [FACTORS[3]] * 5)
    assert_rows(by_factor, [COUNTS[0]] * 5, FACTORS)
    for shift in range(2):
        inner = jax.tree.map(lambda leaf, shift=shift: leaf[shift], twice)
        assert_rows(inner, COUNTS + shift, FACTORS)


def test_keys_may_be_constants():
    def draw(index, total, key):
        return total + jax.random.uniform(jax.random.fold_in(key, index))

    def some(count, key):
        return lockstep.repeat(count, draw, 0.0, key, widths=(5, 2))

    keys = jax.random.split(jax.random.key(0), 5)
    together, alone = jax.jit(
        lambda n, k: (jax.vmap(some)(n, k), jax.lax.map(lambda p: some(*p), (n, k)))
    )(COUNTS, keys)
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    assert together[1] == 0 and len(set(together.tolist())) == 5


def test_rows_of_several_vmaps_make_one_batch_whose_work_is_as_foretold():
    """Twelve clients in three runs; what only runs or only clients have of their own as well."""
    done = []

    def counted(index, total, constants):
        by_both, by_run, by_client, shared = constants
        jax.debug.callback(lambda _: done.append(1), total)
        return total + by_both * shared[index] + (by_run[0] + 10 * by_run[1]) * by_client

    n = np.array([[3, 0, 9, 5], [9, 1, 1, 2], [4, 4, 12, 0]])
    by_both, by_client = 1 + np.arange(12.0).reshape(3, 4), np.arange(4.0)
    by_run = np.arange(6.0).reshape(3, 2)
    for widths in ((), lockstep.choose_widths(n.reshape(1, 12))):
        done.clear()
        clients = jax.vmap(
            lambda *constants, widths=widths: lockstep.repeat(
                constants[0], counted, 0.0, (*constants[1:], SHARED), widths=widths
            ),
            in_axes=(0, 0, None, 0),
        )
        runs = jax.jit(jax.vmap(clients, in_axes=(0, 0, 0, None)))
        totals = runs(n, by_both, by_run, by_client)
        jax.effects_barrier()
        assert len(done) == lockstep.work(n.reshape(1, 12), widths)
        expected = by_both * n * (n - 1) / 2 + n * np.outer(by_run @ [1, 10], by_client)
        np.testing.assert_allclose(totals, expected, rtol=1e-6)


def test_work_is_that_of_every_batch_for_itself():
    counts = np.array([[3, 9, 5], [1, 1, 8]])
    assert lockstep.work(counts, ()) == 3 * 9 + 3 * 8
    assert lockstep.work(counts, (2,)) == (3 * 3 + 2 * 6) + (3 * 1 + 2 * 7)
    assert lockstep.work(counts, (3, 2, 1)) == counts.sum()
    assert lockstep.work(counts, (3, 1)) == (3 * 5 + 1 * 4) + (3 * 1 + 1 * 7)


@given(
    st.integers(1, 5).flatmap(
        lambda rows: st.lists(
            st.lists(st.integers(0, 60), min_size=rows, max_size=rows), min_size=1, max_size=3
        )
    ),
    st.floats(1.0, 1.5),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.5, 8.0]),
)
@settings(max_examples=60, deadline=None)
def test_chosen_widths_are_the_fewest_that_keep_the_promise(counts, waste, most, a_step):
    """Compared with every choice there is."""
    counts = np.array(counts)
    rows = counts.shape[1]
    widths = lockstep.choose_widths(counts, waste=waste, most=most, a_step=a_step)
    assert widths[0] == rows and list(widths) == sorted(set(widths), reverse=True)
    least = {
        size: min(
            lockstep.work(counts, (rows, *others))
            for others in itertools.combinations(range(rows - 1, 0, -1), size - 1)
        )
        for size in range(1, min(rows, most) + 1)
    }
    beside = a_step * counts.max(axis=1).sum()
    needed = counts.sum() + beside
    enough = [size for size, work in least.items() if work + beside <= waste * needed]
    assert len(widths) == (enough[0] if enough else max(least))
    assert lockstep.work(counts, widths) == least[len(widths)]


def test_widths_are_few_for_usual_counts():
    steps = np.array([[150, 100, 60, 20, 5]])
    assert lockstep.work(steps, ()) / steps.sum() > 2
    widths = lockstep.choose_widths(steps)
    assert len(widths) <= 4 and lockstep.work(steps, widths) / steps.sum() <= 1.15
    assert len(lockstep.choose_widths(np.arange(100)[None], waste=1.0)) == 8
    assert lockstep.choose_widths(np.full((2, 6), 7)) == (6,)
    # Where the step itself costs as much as all of its rows, half of the narrowing saves little.
    assert len(lockstep.choose_widths(steps, a_step=5.0)) < len(widths)


def test_of_very_many_rows_some_widths_are_tried():
    """Enough of them to keep the bound; all of a hundred thousand would take hours."""
    counts = np.arange(1, 100_001)[None]
    widths = lockstep.choose_widths(counts)
    assert widths[0] == 100_000 and len(widths) <= 8
    assert lockstep.work(counts, widths) <= 1.15 * counts.sum()
