"""Loops of unequal length side by side: same numbers as alone, and little wasted work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protonorm_jax.engine import lockstep


def body(index, carry, constants):
    total, weights = carry
    factor, shared = constants
    return total + factor * shared[index], jnp.sin(weights + factor)


def run(count, factor, total, *, widths=()):
    carry = (total, jnp.arange(3.0) * factor)
    return lockstep.repeat(count, body, carry, (factor, jnp.arange(40.0)), widths=widths)


COUNTS = jnp.array([3, 0, 17, 8, 8, 1, 30])
FACTORS = jnp.linspace(0.1, 2.0, 7)


@pytest.mark.parametrize("widths", [(), (7, 4, 1), (6, 5, 4, 3, 2, 1), (2,)])
def test_rows_have_the_numbers_they_have_alone(widths):
    together = jax.jit(jax.vmap(lambda n, f: run(n, f, 1.0, widths=widths)))(COUNTS, FACTORS)
    for row, (count, factor) in enumerate(zip(COUNTS, FACTORS, strict=True)):
        alone = jax.jit(run)(count, factor, 1.0)
        for one, all_rows in zip(alone, together, strict=True):
            np.testing.assert_allclose(all_rows[row], one, rtol=1e-6)


def test_what_is_not_mapped_may_stay_so():
    """Only the counts, only the constants, and an outer vmap over both."""
    counts = jax.vmap(lambda n: run(n, 0.5, 1.0, widths=(7, 3)))(COUNTS)[0]
    np.testing.assert_allclose(counts, [1 + 0.25 * n * (n - 1) for n in np.asarray(COUNTS)])
    factors = jax.vmap(lambda f: run(4, f, 1.0, widths=(3,)))(FACTORS)[0]
    np.testing.assert_allclose(factors, 1 + 6 * FACTORS, rtol=1e-6)
    outer = jax.vmap(
        lambda shift: jax.vmap(lambda n, f: run(n + shift, f, 1.0, widths=(7, 4, 2)))(
            COUNTS, FACTORS
        )
    )(jnp.arange(2))
    for shift in range(2):
        inner = jax.vmap(lambda n, f: run(n, f, 1.0))(COUNTS + shift, FACTORS)
        jax.tree.map(
            lambda all_rows, rows, i=shift: np.testing.assert_allclose(
                all_rows[i], rows, rtol=1e-6
            ),
            outer,
            inner,
        )


def test_keys_may_be_constants():
    def draw(index, total, key):
        return total + jax.random.uniform(jax.random.fold_in(key, index))

    def some(count, key):
        return lockstep.repeat(count, draw, 0.0, key, widths=(7, 2))

    keys = jax.random.split(jax.random.key(0), 7)
    together = jax.vmap(some)(COUNTS, keys)
    alone = [some(count, key) for count, key in zip(COUNTS, keys, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-6)


@given(
    st.integers(1, 3).flatmap(
        lambda rows: st.lists(
            st.lists(st.integers(0, 60), min_size=rows, max_size=rows), min_size=1, max_size=3
        )
    ),
    st.floats(1.0, 1.5),
)
@settings(max_examples=50, deadline=None)
def test_chosen_widths_keep_their_promise(counts, waste):
    counts = np.array(counts)
    widths = lockstep.choose_widths(counts, waste=waste)
    assert widths[0] == counts.shape[1] and list(widths) == sorted(set(widths), reverse=True)
    assert counts.sum() <= lockstep.work(counts, widths) <= waste * counts.sum() + 1e-9


def test_work_is_what_repeat_does():
    """Counts the rows' steps while they are computed."""
    done = []

    def counted(index, carry, constants):
        jax.debug.callback(lambda _: done.append(1), carry)
        return carry + constants

    counts = np.array([3, 0, 9, 5])
    for widths in ((), (4, 2), (4, 3, 2, 1)):
        done.clear()
        jax.vmap(lambda n, c, w=widths: lockstep.repeat(n, counted, 0.0, c, widths=w))(
            jnp.asarray(counts), jnp.ones(4)
        )
        jax.effects_barrier()
        assert len(done) == lockstep.work(counts[None], widths)


def test_rows_of_several_vmaps_make_one_batch():
    """Twelve clients in three runs; what only runs or only clients have of their own as well."""
    done = []

    def counted(index, total, constants):
        by_both, by_run, by_client, shared = constants
        jax.debug.callback(lambda _: done.append(1), total)
        return total + by_both * shared[index] + by_run * by_client

    counts = jnp.array([[3, 0, 9, 5], [9, 1, 1, 2], [4, 4, 12, 0]])
    by_both, by_run, by_client = jnp.ones((3, 4)), jnp.arange(3.0), jnp.arange(4.0)
    widths = lockstep.choose_widths(np.asarray(counts).reshape(1, 12))
    clients = jax.vmap(
        lambda *constants: lockstep.repeat(
            constants[0], counted, 0.0, (*constants[1:], jnp.arange(40.0)), widths=widths
        ),
        in_axes=(0, 0, None, 0),
    )
    totals = jax.vmap(clients, in_axes=(0, 0, 0, None))(counts, by_both, by_run, by_client)
    jax.effects_barrier()
    assert len(done) == lockstep.work(np.asarray(counts).reshape(1, 12), widths)
    n = np.asarray(counts)
    np.testing.assert_allclose(
        totals, n * (n - 1) / 2 + n * np.outer(np.arange(3), np.arange(4)), rtol=1e-6
    )


def test_widths_are_few():
    steps = np.array([[150, 100, 60, 20, 5]])
    assert lockstep.work(steps, ()) / steps.sum() > 2
    widths = lockstep.choose_widths(steps)
    assert len(widths) <= 4 and lockstep.work(steps, widths) / steps.sum() <= 1.15
    assert len(lockstep.choose_widths(np.arange(100)[None], waste=1.0, most=4)) == 4
    assert lockstep.choose_widths(np.full((2, 6), 7)) == (6,)
