"""Clients drawn without replacement: the first of a permutation, without the permutation.

`jax.random.permutation` sorts pairs, which XLA does five times more slowly on CPU than it sorts
numbers, and of many clients that took longer than the training of a few.
"""

import math

import jax
import jax.numpy as jnp

from protonorm_jax import scopes

_BITS = 32  # Of the numbers that are sorted.


def among_first(key: jax.Array, size: int, wanted: jax.Array) -> jax.Array:
    """Which of `size` numbers are the first `wanted` of `jax.random.permutation(key, size)`.

    Args:
      key: consumed.
      size: at least 1.
      wanted: `[]` int32, at most `size`.

    Returns:
      `[size]` bool.
    """
    # As often as jax sorts by new random numbers, since some of them may be equal.
    sorts = math.ceil(3 * math.log(size) / math.log(2**_BITS - 1))
    order = None
    for number in range(sorts):
        key, own = jax.random.split(key)
        drawn = jax.random.bits(own, (size,))
        if number + 1 < sorts:
            places = argsort(drawn)
            order = places if order is None else order[places]
            continue
        first = among_least(drawn, wanted)
        return first if order is None else first.at[order].set(first, unique_indices=True)
    return jnp.arange(size) < wanted  # A permutation of one.


def among_least(values: jax.Array, wanted: jax.Array) -> jax.Array:
    """Which of `values` `[n]` uint32 are the least `wanted` `[]` int32, of equal ones the first.

    The greatest of them is found bit by bit, by counting what is less: less work than a sort.

    Returns:
      `[n]` bool.
    """
    counted = jnp.maximum(wanted, 1)

    def with_bit(turn: jax.Array, border: jax.Array) -> jax.Array:
        tried = border | (jnp.uint32(1) << (_BITS - 1 - turn).astype(jnp.uint32))
        return jnp.where(jnp.sum(values < tried, dtype=jnp.int32) < counted, tried, border)

    with scopes.loop("times", _BITS):
        border = jax.lax.fori_loop(0, _BITS, with_bit, jnp.uint32(0))
    below, equal = values < border, values == border
    left = wanted - jnp.sum(below, dtype=jnp.int32)
    return below | (equal & (jnp.cumsum(equal, dtype=jnp.int32) <= left))


def argsort(values: jax.Array) -> jax.Array:
    """The order `[n]` int32 that sorts `values` `[n]` uint32; equal ones keep theirs.

    One sort of whole numbers of 64 bits, each a value before the place where it stands.
    """
    with jax.enable_x64(True):
        places = jnp.arange(values.shape[0], dtype=jnp.uint64)
        both = (values.astype(jnp.uint64) << jnp.uint64(_BITS)) | places
        return jnp.sort(both).astype(jnp.uint32).astype(jnp.int32)
