"""Where each client lives: grouped by architecture, spread over devices. Host side, numpy."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from protonorm_jax.types import Partition


class Group(NamedTuple):
    """The clients of one architecture.

    Attributes:
      architecture: name of the model.
      client_ids: `[num_devices, slots]` int32; each row ends in -1 where a device holds fewer
        clients than it has slots.
      chunk: clients that a device trains in one vmapped step; 1 means no vmap. Divides `slots`.
    """

    architecture: str
    client_ids: np.ndarray
    chunk: int


class Layout(NamedTuple):
    """All groups, and the way back to the order of client ids.

    Attributes:
      groups: one for each architecture, in order of first appearance.
      order: `[num_clients]` int32, where client i stands in the concatenation over devices of
        the concatenation over groups.
    """

    groups: tuple[Group, ...]
    order: np.ndarray


class Members(NamedTuple):
    """One group's clients on one device.

    Attributes:
      client_ids: `[slots]` int32, -1 for an empty slot.
      train: `[slots, n]` int32, rows of the data set.
      train_count: `[slots]` int32.
      test: `[slots, m]` int32.
      test_count: `[slots]` int32.
    """

    client_ids: jax.Array
    train: jax.Array
    train_count: jax.Array
    test: jax.Array
    test_count: jax.Array


def arrange(
    architectures: Sequence[str], cost: np.ndarray, *, num_devices: int, vmap_clients: int
) -> Layout:
    """Spreads the clients of each architecture over the devices, most expensive first.

    Args:
      architectures: of each client.
      cost: `[num_clients]`, expected work a round, in any unit.
      num_devices: how many devices share the work.
      vmap_clients: clients to train in one vmapped step; 0 for all that a device has.
    """
    groups = []
    load = np.zeros(num_devices)
    for name in dict.fromkeys(architectures):
        members = np.array([i for i, other in enumerate(architectures) if other == name])
        capacity = -(-len(members) // num_devices)
        rows: list[list[int]] = [[] for _ in range(num_devices)]
        for client in members[np.argsort(-cost[members], kind="stable")]:
            free = [device for device in range(num_devices) if len(rows[device]) < capacity]
            device = min(free, key=lambda device: load[device])
            rows[device].append(int(client))
            load[device] += cost[client]
        chunk = min(vmap_clients or capacity, capacity)
        slots = -(-capacity // chunk) * chunk
        padded = [row + [-1] * (slots - len(row)) for row in rows]
        groups.append(Group(name, np.array(padded, np.int32), chunk))
    flat = np.concatenate([group.client_ids for group in groups], axis=1).reshape(-1)
    order = np.argsort(np.where(flat < 0, len(architectures), flat), kind="stable")
    return Layout(tuple(groups), order[: len(architectures)].astype(np.int32))


def members_of(layout: Layout, partition: Partition) -> tuple[Members, ...]:
    """The index arrays of each group, leaves `[num_devices, slots, ...]`, numpy.

    Args:
      layout: which client is where.
      partition: who holds which samples.
    """
    result = []
    for group in layout.groups:
        ids = group.client_ids
        empty = ids < 0
        widths = {
            name: max(int(getattr(partition, f"{name}_count")[ids[~empty]].max()), 1)
            for name in ("train", "test")
        }
        arrays = (
            ids,
            partition.train[ids, : widths["train"]],
            np.where(empty, 0, partition.train_count[ids]),
            partition.test[ids, : widths["test"]],
            np.where(empty, 0, partition.test_count[ids]),
        )
        result.append(Members._make(array.astype(np.int32) for array in arrays))
    return tuple(result)
