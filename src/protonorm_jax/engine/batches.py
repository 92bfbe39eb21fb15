"""Cuts a client's samples into batches of one shape."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from protonorm_jax import scopes
from protonorm_jax.engine import lockstep, loops
from protonorm_jax.types import Batch, ClientData, take

Repeat = Callable[..., Any]
"""`lockstep.repeat`, with its widths bound where clients run side by side."""


def pad(indices: jax.Array, batch_size: int) -> jax.Array:
    """Lengthens the last axis with zeros to a multiple of `batch_size`, at least one batch."""
    length = indices.shape[-1]
    missing = max(-(-length // batch_size), 1) * batch_size - length
    return jnp.pad(indices, [(0, 0)] * (indices.ndim - 1) + [(0, missing)])


def total(
    function: Callable[[Batch, Any, jax.Array], Any],
    data: ClientData,
    constants: Any,
    *,
    batch_size: int,
    repeat: Repeat = lockstep.repeat,
) -> Any:
    """Adds up `function(batch, constants, places)` over a client's samples in their stored order.

    The number of batches is the client's own, so short clients do no work for long ones; without
    a sample the result is zero.

    Args:
      function: returns a pytree of sums; closes over nothing that is traced or mapped. `places`
        `[B]` int32 count the client's samples from 0; those of padding are beyond the last.
      data: the client's samples.
      constants: a pytree, handed on to `function`.
      batch_size: samples at once.
      repeat: the loop.
    """
    data = data._replace(indices=pad(data.indices, batch_size))

    @jax.jit  # Traced once, though used twice.
    def at(position: jax.Array, given: tuple[ClientData, Any]) -> Any:
        data, constants = given
        start = position * batch_size
        rows = jax.lax.dynamic_slice(data.indices, (start,), (batch_size,))
        places = start + jnp.arange(batch_size)
        return function(take(data, rows, places < data.num_samples), constants, places)

    def add(position: jax.Array, sums: Any, given: tuple[ClientData, Any]) -> Any:
        return jax.tree.map(jnp.add, sums, at(position, given))

    given = (data, constants)
    zero = loops.zeros_of(at, jnp.int32(0), given)
    with scopes.loop("batches"):
        return repeat(-(-data.num_samples // batch_size), add, zero, given)
