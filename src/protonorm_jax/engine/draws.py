"""Clients drawn without replacement: the first of a permutation, without the permutation.

`jax.random.permutation` sorts pairs, which XLA does five times more slowly on CPU than it sorts
numbers, and of many clients that took longer than the training of a few.
"""

import math

import jax
import jax.numpy as jnp

from protonorm_jax import scopes

_BITS = 32  # Of the numbers that are drawn.
_FEW = 1000  # Numbers that are sorted sooner than they are counted 32 times.


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

    Returns:
      `[n]` bool.
    """
    counted = jnp.maximum(wanted, 1)
    few = values.shape[0] <= _FEW
    border = jnp.sort(values)[counted - 1] if few else _found_by_counting(values, counted)
    below, equal = values < border, values == border
    left = wanted - jnp.sum(below, dtype=jnp.int32)
    return below | (equal & (jnp.cumsum(equal, dtype=jnp.int32) <= left))


def _found_by_counting(values: jax.Array, place: jax.Array) -> jax.Array:
    """The value that is number `place` `[]` int32, from 1, of `values` `[n]` uint32 in their order.

    Bit by bit from the highest: a bit is set if fewer than that many are less than with it.
    """

    def with_bit(turn: jax.Array, found: jax.Array) -> jax.Array:
        tried = found | (jnp.uint32(1) << (_BITS - 1 - turn).astype(jnp.uint32))
        return jnp.where(jnp.sum(values < tried, dtype=jnp.int32) < place, tried, found)

    with scopes.loop("times", _BITS):
        return jax.lax.fori_loop(0, _BITS, with_bit, jnp.uint32(0))


def argsort(values: jax.Array) -> jax.Array:
    """The order `[n]` int32 that sorts `values` `[n]` uint32; equal ones keep theirs.

    One sort of whole numbers of 64 bits, each a value before the place where it stands.
    """
    with jax.enable_x64(True):
        places = jnp.arange(values.shape[0], dtype=jnp.uint64)
        both = (values.astype(jnp.uint64) << jnp.uint64(_BITS)) | places
        return jnp.sort(both).astype(jnp.uint32).astype(jnp.int32)
