"""The clients that train in a round, found among the slots of all devices.

The slots of a device are worked on by a loop over those alone who train, and their outputs stand
next to each other, so that a round costs what its participants cost. All others are known to the
rest of a round by numbers of `[num_clients]` only.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from protonorm_jax.engine import loops


class Cohort(NamedTuple):
    """Who trains in a round.

    Attributes:
      chosen: for each architecture `[room]` int32, the slots of this device that train, in order,
        then the number of slots.
      counts: for each architecture `[]` int32, how many those are; of vmapped runs the most.
      places: `[num_clients]` int32, where the output of each client that trains is in what
        `exchange.gather` makes of the outputs; any place for the others.
    """

    chosen: tuple[jax.Array, ...]
    counts: tuple[jax.Array, ...]
    places: jax.Array


def choose(
    trains: jax.Array,
    order: jax.Array,
    client_ids: Sequence[jax.Array],
    rooms: Sequence[int],
    client_devices: int,
) -> Cohort:
    """Finds those who train.

    Args:
      trains: `[num_clients]` bool.
      order: `[num_clients]` int32, the slot of each client, see `RunInputs.order`.
      client_ids: for each architecture `[slots]` int32, who is on this device; -1 for nobody.
      rooms: for each architecture, room for so many outputs; no device has more who train.
      client_devices: over how many devices the clients of the run are spread.
    """
    masks = [trains[ids] & (ids >= 0) for ids in client_ids]
    chosen = tuple(loops.first_where(mask, room) for mask, room in zip(masks, rooms, strict=True))
    counts = tuple(loops.longest(jnp.sum(mask, dtype=jnp.int32)) for mask in masks)
    slots = [len(ids) for ids in client_ids]
    everywhere = jnp.zeros(client_devices * sum(slots), bool).at[order].set(trains)
    by_device = everywhere.reshape(client_devices, sum(slots))
    # Of each slot on each device how many of its architecture train in it and in those before it.
    ranks = [
        jnp.cumsum(group, axis=1, dtype=jnp.int32)
        for group in jnp.split(by_device, np.cumsum(slots)[:-1], axis=1)
    ]
    starts = np.cumsum([0, *rooms[:-1]])
    ranks = [rank - 1 + int(start) for rank, start in zip(ranks, starts, strict=True)]
    first = sum(rooms) * jnp.arange(client_devices, dtype=jnp.int32)
    places = (jnp.concatenate(ranks, axis=1) + first[:, None]).reshape(-1)
    return Cohort(chosen, counts, jnp.maximum(places, 0)[order])
