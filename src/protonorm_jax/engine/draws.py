"""Clients drawn without replacement: the first of a permutation, without the permutation.

`jax.random.permutation` sorts pairs, which XLA does five times more slowly on CPU than it sorts
numbers, and of many clients that took longer than the training of a few.
"""

import math

import jax
import jax.numpy as jnp

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
    """Which of `values` `[n]` are the least `wanted` `[]` int32; of equal ones the first. Bool."""
    border = jnp.sort(values)[jnp.maximum(wanted - 1, 0)]
    below, equal = values < border, values == border
    left = wanted - jnp.sum(below, dtype=jnp.int32)
    return below | (equal & (jnp.cumsum(equal, dtype=jnp.int32) <= left))


def argsort(values: jax.Array) -> jax.Array:
    """The order `[n]` int32 that sorts `values` `[n]` uint32; equal ones keep theirs.

    Some bits at a time from the lowest up, beside the place where the value stands, so that only
    numbers are sorted.
    """
    size = values.shape[0]
    place_bits = max((size - 1).bit_length(), 1)
    step = _BITS - place_bits
    places = jnp.arange(size, dtype=jnp.uint32)
    order = places
    for low in range(0, _BITS, step):
        digits = (values[order] >> low) << place_bits
        sorted_places = jnp.sort(digits | places) & jnp.uint32(2**place_bits - 1)
        order = order[sorted_places]
    return order.astype(jnp.int32)
