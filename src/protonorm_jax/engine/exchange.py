"""What crosses between clients and server: gathered over devices, averaged, and counted."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from protonorm_jax import scopes
from protonorm_jax.engine import loops
from protonorm_jax.methods.method import Method, Received, Upload

AXIS = "devices"


def gather(outputs: tuple[Any, ...], client_devices: int) -> Any:
    """The outputs of all architectures and devices, leaves `[places, ...]`; empty slots included.

    Args:
      outputs: of each architecture, leaves `[slots, ...]`.
      client_devices: over how many devices, next to each other, the clients of a run are spread.
    """
    return jax.tree.map(
        lambda *leaves: _everywhere(jnp.concatenate(leaves), client_devices), *outputs
    )


def in_client_order(
    outputs: tuple[Any, ...], order: jax.Array, there: jax.Array | None, client_devices: int
) -> Any:
    """The outputs of all clients, leaves `[num_clients, ...]`.

    Args:
      outputs: of each architecture, leaves `[slots, ...]`.
      order: `[num_clients]` int32, the place of each client.
      there: `[num_clients]` bool, who has an output; those of the others are zero. None for all.
      client_devices: see `gather`.
    """
    ordered = jax.tree.map(lambda leaf: leaf[order], gather(outputs, client_devices))
    if there is None:
        return ordered
    return jax.tree.map(functools.partial(_select, there), ordered)


def receive(
    uploads: tuple[Upload, ...],
    order: jax.Array,
    arrived: jax.Array,
    num_samples: jax.Array,
    *,
    method: Method,
    num_rows: int,
    client_devices: int,
) -> tuple[Received, jax.Array]:
    """What the server gets of the clients' uploads.

    Args:
      uploads: of each architecture, leaves `[slots, ...]`.
      order: `[num_clients]` int32, the place of each client.
      arrived: `[num_clients]` bool.
      num_samples: `[num_clients]` int32, all training samples.
      method: its `weighting` counts.
      num_rows: of what is received; where they are less than clients, of those that arrived first.
      client_devices: see `gather`.

    Returns:
      What is received, and the floats of each upload `[num_clients]` int32, zero if it was lost.
    """
    floats = in_client_order(tuple(one.floats for one in uploads), order, arrived, client_devices)
    places, there, samples = order, arrived, num_samples
    if num_rows < len(arrived):
        own = loops.first_where(arrived, num_rows)
        places, there, samples = (
            leaf.at[own].get(mode="fill", fill_value=0) for leaf in (order, arrived, num_samples)
        )
    each = in_client_order(tuple(one.each for one in uploads), places, there, client_devices)
    weights = num_samples if method.weighting == "samples" else jnp.ones_like(num_samples)
    mean = average(
        gather(tuple(one.mean for one in uploads), client_devices),
        order,
        jnp.where(arrived, weights, 0),
    )
    return Received(each, mean, there, samples), floats


def average(places: Any, order: jax.Array, weights: jax.Array) -> Any:
    """The weighted mean over clients, leaf by leaf and client by client: equal bits anywhere.

    Args:
      places: leaves `[places, ...]`.
      order: `[num_clients]` int32, the place of each client that weighs anything.
      weights: `[num_clients]` int32; clients of weight 0 are left out, whatever they hold.

    Returns:
      Leaves `[...]`; zero if all weights are.
    """
    share = 1.0 / jnp.maximum(jnp.sum(weights), 1).astype(jnp.float32)
    shares = weights.astype(jnp.float32) * share
    counted = weights > 0
    count = loops.longest(jnp.sum(counted, dtype=jnp.int32))

    def one(index: jax.Array, given: Any) -> jax.Array:
        leaf, order, shares = given
        return jnp.where(shares[index] > 0, shares[index] * leaf[order[index]], 0.0)

    def total(leaf: jax.Array) -> jax.Array:
        # No more clients have a place than there are places.
        most = min(leaf.shape[0], len(order))
        own = loops.first_where(counted, most)
        ordered = order.at[own].get(mode="clip")
        weighed = shares.at[own].get(mode="fill", fill_value=0.0)
        with scopes.loop("times", most):
            return loops.accumulate(count, one, (leaf, ordered, weighed))

    return jax.tree.map(total, places)


def no_floats() -> jax.Array:
    """A count of nothing: `[2]` uint32, of which the first counts whole 2^32."""
    return jnp.zeros(2, jnp.uint32)


def add_floats(total: jax.Array, counts: jax.Array) -> jax.Array:
    """Adds counts `[n]` int32, none negative, to a total `[2]` uint32, exactly.

    Byte by byte, as neither the sum of the counts nor the total need fit into 32 bits.
    """
    high, low = total[0], total[1]
    for byte in range(4):
        column = jnp.sum((counts >> (8 * byte)) & 0xFF, dtype=jnp.uint32)
        added = low + (column << (8 * byte))
        high = high + (added < low).astype(jnp.uint32)
        high = high + (column >> (32 - 8 * byte) if byte else jnp.uint32(0))
        low = added
    return jnp.stack([high, low])


def _everywhere(leaf: jax.Array, client_devices: int) -> jax.Array:
    """`leaf` `[n, ...]` of all devices of the run, `[client_devices * n, ...]`."""
    if client_devices == 1:
        return leaf
    every = jax.lax.all_gather(leaf, AXIS)
    first = jax.lax.axis_index(AXIS) // client_devices * client_devices
    mine = jax.lax.dynamic_slice_in_dim(every, first, client_devices)
    return mine.reshape(-1, *leaf.shape[1:])


def _select(mask: jax.Array, leaf: jax.Array) -> jax.Array:
    """`leaf` `[M, ...]` with zeros where `mask` `[M]` is false."""
    return jnp.where(mask.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, jnp.zeros_like(leaf))
