"""Where each client lives: grouped by architecture, spread over devices. Host side, numpy."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


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
