"""The federated simulation on one device: runs, rounds and clients in loops, pure throughout.

Every function here sees one device's share: some runs whole, or some clients of one run. In the
latter case it talks to the devices with the other clients through collectives over `AXIS`. Uploads
are gathered whole and put in the order of client ids before anything is summed, so the number of
devices does not change a bit of the result.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from protonorm_jax import keys
from protonorm_jax.config import Config
from protonorm_jax.engine import evaluate
from protonorm_jax.engine.client import local_update
from protonorm_jax.methods.method import Arrivals, Hyperparameters, Method
from protonorm_jax.types import Client, ClientData, Members, Model

AXIS = "devices"


class Group(NamedTuple):
    """The clients of one architecture.

    Attributes:
      model: theirs.
      client: shapes and dtypes of what one of them keeps.
      chunk: clients that a device trains in one vmapped step; 1 means no vmap. Divides the slots.
      widths: how a batch of clients, and of vmapped runs, narrows as they finish; see
        `lockstep.repeat`.
    """

    model: Model
    client: Client
    chunk: int
    widths: tuple[int, ...]

    def stored(self, client: Client) -> Client:
        """As it is kept between rounds, every array flat.

        XLA copies a whole stack of arrays of which a dimension is 1 (most kernels of MobileNet and
        its like are) when a program begins, because it wants the dimensions in another order.
        """
        return jax.tree.map(jnp.ravel, client)

    def restored(self, client: Client) -> Client:
        """What was `stored`, in its own shapes."""
        return jax.tree.map(lambda leaf, own: leaf.reshape(own.shape), client, self.client)


class Program(NamedTuple):
    """All that is fixed when the simulation is compiled.

    Attributes:
      config: settings, of which only those are read that all runs have in common.
      method: the federated method.
      groups: one for each architecture.
      client_devices: over how many devices, next to each other, the clients of a run are spread.
      vmap_runs: runs that a device trains in one vmapped program; 1 means one after the other.
    """

    config: Config
    method: Method
    groups: tuple[Group, ...]
    client_devices: int
    vmap_runs: int


class Samples(NamedTuple):
    """The data set on the device: `images` `[N, H, W, channels]` uint8, `labels` `[N]` int32."""

    images: jax.Array
    labels: jax.Array


class Run(NamedTuple):
    """What distinguishes one run from others in the same program.

    Attributes:
      seed: `[]` uint32.
      hyperparameters: traced scalars by name.
      members: for each architecture, the clients on this device.
      num_members: `[architectures]` int32, how many they are; beyond, slots are empty.
      order: `[num_clients]` int32, where client i stands in the concatenation over the run's
        devices of the concatenation over architectures.
    """

    seed: jax.Array
    hyperparameters: Hyperparameters
    members: tuple[Members, ...]
    num_members: jax.Array
    order: jax.Array


class State(NamedTuple):
    """Everything that changes from round to round.

    Attributes:
      clients: one stacked `Client` for each architecture, as `Group.stored`, leaves `[slots,
        size]`; differs by device.
      server: the method's server state; this and the rest are equal on all devices of the run.
      round_index: `[]` int32, rounds finished.
      diverged: `[num_clients]` int32, round in which a client first met a value that is not
        finite, or -1.
    """

    clients: tuple[Client, ...]
    server: Any
    round_index: jax.Array
    diverged: jax.Array


def init_runs(program: Program, runs: Run) -> State:
    """The states of all runs on this device before the first round, leaves `[num_runs, ...]`."""
    return jax.lax.map(functools.partial(init, program), runs)


def advance_runs(
    program: Program,
    states: State,
    runs: Run,
    samples: Samples,
    num_rounds: jax.Array,
    evaluated: jax.Array,
) -> tuple[State, dict[str, Any]]:
    """`advance` for all runs on this device: states, runs and reports `[num_runs, ...]`.

    Runs are independent: none changes a bit of another's result unless they are vmapped.
    """

    # Not mapped: were it different for vmapped runs, every step of the loop over clients would have
    # to choose between old and new states. It is the same, as a device with several runs has all
    # of their clients.
    num_members = runs.num_members[0]

    def one(state: State, run: Run) -> tuple[State, dict[str, Any]]:
        return advance(program, state, run, num_members, samples, num_rounds, evaluated)

    num_runs = runs.seed.shape[0]
    if num_runs == 1:  # The general way would copy the state.
        return jax.tree.map(lambda leaf: leaf[None], one(*_first((states, runs))))
    return for_each(one, states, runs, jnp.int32(num_runs), chunk=program.vmap_runs)


def init(program: Program, run: Run) -> State:
    """The state before the first round; every client draws its own initial weights."""
    method, key = program.method, keys.root(run.seed)
    server = method.init_server(keys.derive(key, keys.Stream.SERVER_INIT))

    def client(group: Group, client_id: jax.Array) -> Client:
        init_key = keys.derive(key, keys.Stream.CLIENT_INIT, jnp.maximum(client_id, 0))
        model_key, method_key = jax.random.split(init_key)
        return group.stored(method.init_client(method_key, group.model.init(model_key), server))

    clients = tuple(
        jax.lax.map(functools.partial(client, group), members.client_ids)
        for group, members in zip(program.groups, run.members, strict=True)
    )
    diverged = jnp.full(program.config.num_clients, -1, jnp.int32)
    return State(clients, server, jnp.int32(0), diverged)


def advance(
    program: Program,
    state: State,
    run: Run,
    num_members: jax.Array,
    samples: Samples,
    num_rounds: jax.Array,
    evaluated: jax.Array,
) -> tuple[State, dict[str, Any]]:
    """Runs `num_rounds` rounds of one run, then evaluates all clients.

    Args:
      program: what is fixed.
      state: of the run.
      run: what distinguishes it.
      num_members: `[architectures]` int32, clients on this device; beyond, slots are empty.
      samples: the data set.
      num_rounds: `[]` int32.
      evaluated: `[]` bool; if false, the evaluation is left out and `correct` is zero.

    Returns:
      The state, and equal on all devices of the run: what the last of the rounds reported (see
      `_round`), `correct` `{predictor: [num_clients]}`, and of the state `diverged` and, as
      `state`, that of the server.
    """
    one_round = jax.jit(functools.partial(_round, program))  # Traced once, though used twice.

    def step(_: jax.Array, carry: Any) -> Any:
        return one_round(carry[0], run, num_members, samples)

    _, shapes = jax.eval_shape(one_round, state, run, num_members, samples)
    report = jax.tree.map(jnp.zeros_like, shapes)
    # A traced trip count keeps this a loop, whatever its length: the bits of a round do not
    # depend on how many rounds share a call.
    state, report = jax.lax.fori_loop(0, num_rounds, step, (state, report))
    correct = _evaluate(program, state, run, jnp.where(evaluated, num_members, 0), samples)
    report |= {"correct": correct, "diverged": state.diverged, "state": state.server}
    return state, report


def participants(
    key: jax.Array, round_index: jax.Array, num_clients: int, hyperparameters: Hyperparameters
) -> tuple[jax.Array, jax.Array]:
    """Who trains this round and whose upload arrives.

    Returns:
      `trains` `[num_clients]` bool, round(participation * num_clients) of them, at least one,
      drawn without replacement; `arrives` `[num_clients]` bool, of those the ones whose upload
      is not lost (each independently with probability `dropout`).
    """
    order_key = keys.derive(key, keys.Stream.PARTICIPATION, round_index)
    rank = jnp.argsort(jax.random.permutation(order_key, num_clients))
    wanted = jnp.round(hyperparameters["participation"] * num_clients)
    trains = rank < jnp.maximum(wanted, 1)
    loss_key = keys.derive(key, keys.Stream.DROPOUT, round_index)
    lost = jax.random.uniform(loss_key, (num_clients,)) < hyperparameters["dropout"]
    return trains, trains & ~lost


def _round(
    program: Program, state: State, run: Run, num_members: jax.Array, samples: Samples
) -> tuple[State, dict[str, Any]]:
    """One round, and its report: by client (`[num_clients]`) `terms`, `trained`, `arrived`,
    `floats_up`; for all `floats_down` and the server's `server`.
    """
    config, method, hyperparameters = program.config, program.method, run.hyperparameters
    key, round_index = keys.root(run.seed), state.round_index
    broadcast, floats_down = method.broadcast(state.server, round_index, hyperparameters)
    trains, arrives = participants(key, round_index, config.num_clients, hyperparameters)

    def train(group: Group, client: Client, member: Members) -> tuple[Client, Any]:
        count = jnp.where(trains[member.client_ids], member.train_count, 0)
        client, upload, info = local_update(
            keys.derive(key, keys.Stream.LOCAL_UPDATE, round_index, member.client_ids),
            method.receive(group.restored(client), broadcast),
            broadcast,
            ClientData(samples.images, samples.labels, member.train, count),
            hyperparameters,
            model=group.model,
            method=method,
            config=config,
            widths=group.widths,
        )
        del info["steps"]  # As long as the longest client of a group; their means are enough.
        return group.stored(client), (upload, info)

    clients, outputs = _for_each_group(train, program, state.clients, run.members, num_members)
    uploads, info = _in_client_order(program, run.order, outputs)
    uploads = jax.tree.map(lambda leaf: _select(arrives, leaf), uploads)
    aggregate_key = keys.derive(key, keys.Stream.AGGREGATE, round_index)
    arrivals = Arrivals(arrives, info["num_samples"])
    server, server_info = _apart(
        lambda: method.aggregate(aggregate_key, state.server, uploads, arrivals, hyperparameters),
        once=jnp.minimum(round_index, 0) + 1,
    )
    first = (state.diverged < 0) & ~info["finite"]
    diverged = jnp.where(first, round_index, state.diverged)
    report = {
        "terms": info["terms"],
        "trained": trains & (info["num_steps"] > 0),
        "arrived": arrives,
        "floats_up": jnp.where(arrives, info["floats"], 0.0),
        "floats_down": jnp.float32(floats_down) * config.num_clients,
        "server": server_info,
    }
    return State(clients, server, round_index + 1, diverged), report


def _evaluate(
    program: Program, state: State, run: Run, num_members: jax.Array, samples: Samples
) -> dict[str, jax.Array]:
    """Right predictions on every client's test samples, `{predictor: [num_clients] int32}`."""
    method = program.method
    broadcast, _ = method.broadcast(state.server, state.round_index, run.hyperparameters)

    def count(group: Group, _: tuple[()], client_and_member: tuple[Client, Members]) -> Any:
        client, member = client_and_member
        data = ClientData(samples.images, samples.labels, member.test, member.test_count)
        correct = evaluate.count_correct(
            method.receive(group.restored(client), broadcast),
            broadcast,
            data,
            model=group.model,
            method=method,
            batch_size=program.config.eval_batch_size,
            widths=group.widths,
        )
        return (), correct

    pairs = tuple(zip(state.clients, run.members, strict=True))
    _, correct = _for_each_group(count, program, ((),) * len(pairs), pairs, num_members)
    return _in_client_order(program, run.order, correct)


def _for_each_group(
    function: Callable[..., Any],
    program: Program,
    states: tuple[Any, ...],
    inputs: tuple[Any, ...],
    num_members: jax.Array,
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """`for_each` client of all architectures; `function(group, state, input)`."""
    results = [
        for_each(
            functools.partial(function, group),
            states[number],
            inputs[number],
            num_members[number],
            chunk=group.chunk,
        )
        for number, group in enumerate(program.groups)
    ]
    new_states, outputs = zip(*results, strict=True)
    return new_states, outputs


def for_each(
    function: Callable[[Any, Any], tuple[Any, Any]],
    states: Any,
    inputs: Any,
    count: jax.Array,
    *,
    chunk: int,
) -> tuple[Any, Any]:
    """Runs `state, output = function(state, input)` for the first `count` slots.

    One chunk after the other, each chunk vmapped (`chunk` 1: not vmapped). States are updated in
    place, so memory is that of all states and the work of one chunk.

    Args:
      function: for one client, or one run.
      states: leaves `[slots, ...]`.
      inputs: leaves `[slots, ...]`.
      count: `[]` int32; slots beyond it, up to a whole chunk, get no work.
      chunk: divides the number of slots.

    Returns:
      The states, and the outputs with leaves `[slots, ...]`, zero beyond the work done.
    """
    slots = jax.tree.leaves(inputs)[0].shape[0]
    function = jax.jit(function)  # Traced once, though used twice.
    mapped = jax.vmap(function) if chunk > 1 else function

    def read(tree: Any, index: jax.Array) -> Any:
        if chunk == 1:
            return jax.tree.map(lambda leaf: leaf[index], tree)
        return jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, index * chunk, chunk), tree
        )

    def write(tree: Any, part: Any, index: jax.Array) -> Any:
        if chunk == 1:
            return jax.tree.map(lambda leaf, one: leaf.at[index].set(one), tree, part)
        return jax.tree.map(
            lambda leaf, some: jax.lax.dynamic_update_slice_in_dim(leaf, some, index * chunk, 0),
            tree,
            part,
        )

    def body(index: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        states, outputs = carry
        state, output = mapped(read(states, index), read(inputs, index))
        return write(states, state, index), write(outputs, output, index)

    _, shapes = jax.eval_shape(lambda: function(*_first((states, inputs))))
    outputs = jax.tree.map(lambda leaf: jnp.zeros((slots, *leaf.shape), leaf.dtype), shapes)
    return jax.lax.fori_loop(0, -(-count // chunk), body, (states, outputs))


def _apart(function: Callable[[], Any], *, once: jax.Array) -> Any:
    """`function()`, compiled by itself.

    XLA fuses operations with their neighbours, and rounds accordingly; what the neighbours are
    depends on the number of devices. It does not fuse across the border of a loop.

    Args:
      function: without arguments.
      once: `[]` int32, 1; XLA must not know.
    """
    function = jax.jit(function)  # Traced once, though used twice.
    empty = jax.tree.map(jnp.zeros_like, jax.eval_shape(function))
    return jax.lax.fori_loop(0, once, lambda _, __: function(), empty)


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _in_client_order(program: Program, order: jax.Array, outputs: tuple[Any, ...]) -> Any:
    """Gathers the outputs of all architectures and devices to leaves `[num_clients, ...]`."""

    def gather(*leaves: jax.Array) -> jax.Array:
        return _everywhere(jnp.concatenate(leaves), program.client_devices)[order]

    return jax.tree.map(gather, *outputs)


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
