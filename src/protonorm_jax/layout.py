"""Where each client lives: grouped by architecture, spread over devices. Host side, numpy."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from protonorm_jax import lockstep
from protonorm_jax.types import Partition


class Group(NamedTuple):
    """The clients of one architecture.

    Attributes:
      architecture: name of the model.
      client_ids: `[num_devices, slots]` int32; each row ends in -1 where a device holds fewer
        clients than it has slots.
      chunk: clients that a device trains in one vmapped step; 1 means no vmap. Divides `slots`.
      widths: how a chunk narrows as its clients finish, see `lockstep.repeat`; none for 1.
    """

    architecture: str
    client_ids: np.ndarray
    chunk: int
    widths: tuple[int, ...]


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
    architectures: Sequence[str],
    steps: np.ndarray,
    step_cost: Sequence[float],
    *,
    num_devices: int,
    vmap_clients: int,
) -> Layout:
    """Spreads the clients over the devices, most expensive first.

    Every device gets as many clients of an architecture as any other, give or take one, so that
    none needs more memory.

    Args:
      architectures: of each client.
      steps: `[num_clients]` int, training steps a round.
      step_cost: `[num_clients]`, expected time of one step, in any unit.
      num_devices: how many devices share the work.
      vmap_clients: clients to train in one vmapped step; 0 for all that a device has.
    """
    cost = steps * np.asarray(step_cost)
    names = list(dict.fromkeys(architectures))
    capacity = {name: -(-architectures.count(name) // num_devices) for name in names}
    rows: dict[str, list[list[int]]] = {name: [[] for _ in range(num_devices)] for name in names}
    load = np.zeros(num_devices)
    for client in np.argsort(-cost, kind="stable"):
        name = architectures[client]
        free = [i for i in range(num_devices) if len(rows[name][i]) < capacity[name]]
        device = min(free, key=lambda device: load[device])
        rows[name][device].append(int(client))
        load[device] += cost[client]

    groups = []
    for name in names:
        chunk = min(vmap_clients or capacity[name], capacity[name])
        slots = -(-capacity[name] // chunk) * chunk
        ids = np.array([row + [-1] * (slots - len(row)) for row in rows[name]], np.int32)
        counts = np.where(ids < 0, 0, steps[ids]).reshape(-1, chunk)
        widths = lockstep.choose_widths(counts) if chunk > 1 else ()
        groups.append(Group(name, ids, chunk, widths))
    flat = np.concatenate([group.client_ids for group in groups], axis=1).reshape(-1)
    order = np.argsort(np.where(flat < 0, len(architectures), flat), kind="stable")
    return Layout(tuple(groups), order[: len(architectures)].astype(np.int32))


class Efficiency(NamedTuple):
    """What becomes of the steps of one round in which all clients train.

    Attributes:
      waste: steps computed over steps needed; above 1 where clients are vmapped.
      imbalance: the expected time of the busiest device over the mean of all.
    """

    waste: float
    imbalance: float


def efficiency(layout: Layout, steps: np.ndarray, step_cost: Sequence[float]) -> Efficiency:
    """How well a layout uses its devices; arguments as for `arrange`."""
    cost = np.asarray(step_cost, float)
    needed, done = 0.0, np.zeros(len(layout.groups[0].client_ids))
    for group in layout.groups:
        counts = np.where(group.client_ids < 0, 0, steps[group.client_ids])
        a_step = cost[group.client_ids.max()]
        needed += a_step * counts.sum()
        done += [
            a_step * lockstep.work(row.reshape(-1, group.chunk), group.widths) for row in counts
        ]
    return Efficiency(float(done.sum() / needed), float(done.max() / done.mean()))


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
