"""What is read from traced functions."""

import jax
import jax.numpy as jnp

from protonorm_jax.planning import memory
from protonorm_jax.planning.traced import trace

VECTOR = jax.ShapeDtypeStruct((100,), jnp.float32)


def test_operations_within_loops_are_counted_once():
    def alone(x):
        return jnp.sin(jnp.exp(x))

    def looped(x):
        return jax.lax.fori_loop(0, 5, lambda _, y: jnp.sin(jnp.exp(y)), x)

    assert trace(alone, VECTOR, memory.num_bytes).operations == 2
    found = trace(looped, VECTOR, memory.num_bytes)
    assert found.operations == 2 + 1  # And the index is counted up.
    assert found.result.shape == (100,)


def test_the_peak_is_of_what_is_alive_at_a_time():
    def chain(x):
        return jnp.sin(jnp.cos(jnp.exp(x)))

    def joined(x):
        return jnp.exp(x) + jnp.cos(x) * jnp.sin(x)

    assert trace(chain, VECTOR, memory.num_bytes).peak == 2 * 400
    assert trace(joined, VECTOR, memory.num_bytes).peak == 4 * 400
    assert trace(jax.jit(chain), VECTOR, lambda leaf: leaf.size).peak == 2 * 100 + 100
