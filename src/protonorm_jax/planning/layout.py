"""Where each run and each client lives: runs over devices first, then clients, grouped by
architecture. Host side, numpy.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from protonorm_jax.engine import lockstep
from protonorm_jax.types import Members, Partition, Scored

_DRAWN_CLIENTS = 2**20
_DRAWN_ROUNDS = (8, 64)
"""So many rounds, at least and at most, stand for all: as many as have so many clients in all."""


class Placement(NamedTuple):
    """The clients of one architecture.

    Attributes:
      architecture: name of the model.
      client_ids: `[num_devices, slots]` int32; each row ends in -1 where a device holds fewer
        clients than it has slots.
      chunk: clients that a device trains, or evaluates, in one vmapped step at most; 1 means no
        vmap. Divides `slots`.
    """

    architecture: str
    client_ids: np.ndarray
    chunk: int


class Layout(NamedTuple):
    """All architectures of one run, and the way back to the order of client ids.

    Attributes:
      placements: one for each architecture, in order of first appearance.
      order: `[num_clients]` int32, where client i stands in the concatenation over devices of
        the concatenation over architectures.
    """

    placements: tuple[Placement, ...]
    order: np.ndarray


def arrange(
    architectures: Sequence[str],
    steps: np.ndarray,
    step_cost: Sequence[float],
    *,
    num_devices: int,
    vmap_clients: Mapping[str, int],
) -> Layout:
    """Spreads the clients over the devices, most expensive first.

    Every device gets as many clients of an architecture as any other, give or take one, so that
    none needs more memory.

    Args:
      architectures: of each client.
      steps: `[num_clients]` int, training steps a round.
      step_cost: `[num_clients]`, expected time of one step, in any unit.
      num_devices: how many devices share the work.
      vmap_clients: by architecture, clients to train in one vmapped step; 0 for all that a device
        has.
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

    placements = []
    for name in names:
        chunk = min(vmap_clients[name] or capacity[name], capacity[name])
        slots = -(-capacity[name] // chunk) * chunk
        ids = np.array([row + [-1] * (slots - len(row)) for row in rows[name]], np.int32)
        placements.append(Placement(name, ids, chunk))
    flat = np.concatenate([one.client_ids for one in placements], axis=1).reshape(-1)
    order = np.argsort(np.where(flat < 0, len(architectures), flat), kind="stable")
    return Layout(tuple(placements), order[: len(architectures)].astype(np.int32))


class Spread(NamedTuple):
    """How the runs of one program share the devices.

    Run i is on the devices `client_devices * (i % run_devices)` and following, and is number
    `i // run_devices` there.

    Attributes:
      run_devices: how many runs are at different devices.
      client_devices: devices that share the clients of one run.
      runs_each: runs of a device, empty ones included.
      vmap_runs: runs in one vmapped program; divides `runs_each`.
    """

    run_devices: int
    client_devices: int
    runs_each: int
    vmap_runs: int

    def numbers(self) -> np.ndarray:
        """Which run of the program is where, `[num_devices, runs_each]` int."""
        device = np.arange(self.run_devices)[:, None]
        of_runs = device + self.run_devices * np.arange(self.runs_each)
        return np.repeat(of_runs, self.client_devices, axis=0)


def spread(num_runs: int, num_devices: int, vmap_runs: int) -> Spread:
    """Spreads runs over devices, and clients where there are fewer runs than devices.

    Args:
      num_runs: of one program.
      num_devices: to use at most; some stay idle where the numbers do not divide.
      vmap_runs: runs to train in one vmapped program; 0 for all that a device has.
    """
    run_devices = min(num_runs, num_devices)
    each = -(-num_runs // run_devices)
    together = min(vmap_runs or each, each)
    return Spread(
        run_devices, num_devices // run_devices, -(-each // together) * together, together
    )


class Room(NamedTuple):
    """How the clients of one architecture train on a device.

    Attributes:
      clients: no device has more of them that train in a round; a multiple of `together`.
      together: in one vmapped step; 1 means no vmap.
    """

    clients: int
    together: int


def room_of(placement: Placement, participants: int, num_clients: int) -> Room:
    """The room for those who train, if so many of all clients do.

    No more are vmapped than there rarely are on one device (the mean and three standard
    deviations): a second step is for the others.
    """
    there = int((placement.client_ids >= 0).sum(axis=1).max())
    clients = min(there, participants)
    share = there / num_clients
    variance = (
        participants * share * (1 - share) * (1 - (participants - 1) / max(num_clients - 1, 1))
    )
    usual = math.ceil(participants * share + 3 * math.sqrt(max(variance, 0.0)))
    together = min(placement.chunk, clients, usual)
    return Room(-(-clients // together) * together, together)


class Work(NamedTuple):
    """The training steps of one architecture's clients in some rounds.

    Attributes:
      architecture: name of the model.
      steps: `[rounds, num_devices, batches, rows]` int; the rows of a batch are vmapped.
    """

    architecture: str
    steps: np.ndarray


def work_of(
    programs: Sequence[Sequence[Layout]],
    steps: Sequence[Sequence[np.ndarray]],
    spread: Spread,
    participants: Sequence[Sequence[int]] | None = None,
) -> list[Work]:
    """Who steps together with whom.

    Args:
      programs: the layouts of the runs of each call of the program.
      steps: `[num_clients]` of each of these runs.
      spread: of the runs over devices.
      participants: how many clients of each of these runs train in a round: of rounds drawn here,
        which stand for those to come. By default all of them do, in one round.
    """
    places = spread.run_devices * spread.runs_each
    trained = _drawn(steps, participants)
    most = max(int(mask.sum()) for round in trained for call in round for mask in call)
    result = []
    for number, group in enumerate(programs[0][0].placements):
        room = room_of(group, most, len(steps[0][0]))
        shape = len(trained), len(programs), places, spread.client_devices, room.clients
        counts = np.zeros(shape, int)
        for index, call, run in np.ndindex(len(trained), len(programs), len(programs[0])):
            if run < len(programs[call]):
                ids = programs[call][run].placements[number].client_ids
                trains = (ids >= 0) & trained[index][call][run][ids]
                own = np.where(trains, steps[call][run][ids], 0)
                first = np.argsort(~trains, axis=1, kind="stable")[:, : room.clients]
                own = np.take_along_axis(own, first, axis=1)
                counts[index, call, run, :, : own.shape[1]] = own
        # [round, call, local chunk, vmapped run, run device, client device, batch, vmapped client]
        split = counts.reshape(
            len(trained),
            len(programs),
            spread.runs_each // spread.vmap_runs,
            spread.vmap_runs,
            spread.run_devices,
            spread.client_devices,
            -1,
            room.together,
        ).transpose(0, 4, 5, 1, 2, 6, 3, 7)
        num_devices = spread.run_devices * spread.client_devices
        rows = split.reshape(len(trained), num_devices, -1, spread.vmap_runs * room.together)
        result.append(Work(group.architecture, rows))
    return result


def _drawn(
    steps: Sequence[Sequence[np.ndarray]], participants: Sequence[Sequence[int]] | None
) -> list[list[list[np.ndarray]]]:
    """Who trains, `[num_clients]` bool by round, call and run; one round where all do."""
    num_clients = len(steps[0][0])
    if participants is None or min(map(min, participants)) >= num_clients:
        return [[[np.ones(num_clients, bool) for _ in call] for call in steps]]
    generator = np.random.default_rng(0)
    num_runs = sum(map(len, steps))
    rounds = int(np.clip(_DRAWN_CLIENTS // (num_clients * num_runs), *_DRAWN_ROUNDS))
    return [
        [[generator.permutation(num_clients) < count for count in call] for call in participants]
        for _ in range(rounds)
    ]


def choose_widths(
    work: Sequence[Work], *, waste: float = lockstep.WASTE, a_step: float = 0.0
) -> list[tuple[int, ...]]:
    """How the batches of each architecture narrow; none for batches of one row.

    Args:
      work: of each architecture.
      waste: see `lockstep.choose_widths`.
      a_step: likewise.
    """
    return [
        lockstep.choose_widths(
            one.steps.reshape(-1, one.steps.shape[3]), waste=waste, a_step=a_step
        )
        if one.steps.shape[3] > 1
        else ()
        for one in work
    ]


class Efficiency(NamedTuple):
    """What becomes of the steps of rounds, in the mean over drawn ones where not all clients train.

    Attributes:
      waste: steps computed over steps needed; above 1 where clients or runs are vmapped.
      imbalance: the expected time of each round's busiest device over the mean of all devices.
    """

    waste: float
    imbalance: float


def efficiency(
    work: Sequence[Work], widths: Sequence[tuple[int, ...]], step_cost: Mapping[str, float]
) -> Efficiency:
    """How well the devices are used.

    Args:
      work: of each architecture.
      widths: as `choose_widths` gives them.
      step_cost: by architecture, expected time of one step of one client, in any unit.
    """
    needed, done = 0.0, np.zeros(work[0].steps.shape[:2])
    for one, narrowing in zip(work, widths, strict=True):
        a_step = step_cost[one.architecture]
        needed += a_step * one.steps.sum()
        for place in np.ndindex(done.shape):
            done[place] += a_step * lockstep.work(one.steps[place], narrowing)
    busiest = done.max(axis=1).sum() / done.mean(axis=1).sum()
    return Efficiency(float(done.sum() / needed), float(busiest))


def row_lengths(
    layouts: Sequence[Layout], partitions: Sequence[Partition], scored: Sequence[Scored]
) -> list[tuple[int, int]]:
    """The lengths of rows of training and of test indices, for each architecture.

    The least powers of two in which the samples of every client of every run have room. A program
    depends on these lengths: so those of other seeds mostly are the same, and compiled already.
    What is beyond a client's own samples changes nothing.
    """
    result = []
    for number in range(len(layouts[0].placements)):
        most = [1, 1]
        for layout, partition, tested in zip(layouts, partitions, scored, strict=True):
            ids = layout.placements[number].client_ids
            ids = ids[ids >= 0]
            most[0] = max(most[0], int(partition.train_count[ids].max()))
            most[1] = max(most[1], int(tested.counts[ids].sum(axis=1).max()))
        result.append((_power_of_two(most[0]), _power_of_two(most[1])))
    return result


def _power_of_two(length: int) -> int:
    """The least that is not less."""
    return 1 << (length - 1).bit_length()


def members_of(
    layout: Layout, partition: Partition, scored: Scored, lengths: Sequence[tuple[int, int]]
) -> tuple[Members, ...]:
    """The index arrays of each group, leaves `[num_devices, slots, ...]`, numpy.

    Args:
      layout: which client is where.
      partition: who holds which samples.
      scored: the samples that each is scored on.
      lengths: of the rows of training and of test indices of each group, see `row_lengths`.
    """
    result = []
    for group, (most_train, most_test) in zip(layout.placements, lengths, strict=True):
        ids = group.client_ids
        empty = ids < 0
        arrays = (
            ids,
            _cut(partition.train[ids], most_train),
            np.where(empty, 0, partition.train_count[ids]),
            _cut(scored.rows[ids], most_test),
            np.where(empty[..., None], 0, scored.counts[ids]),
        )
        result.append(Members._make(array.astype(np.int32) for array in arrays))
    return tuple(result)


def _cut(rows: np.ndarray, length: int) -> np.ndarray:
    """The last axis shortened, or lengthened with zeros, to `length`."""
    missing = max(length - rows.shape[-1], 0)
    return np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, missing)])[..., :length]
