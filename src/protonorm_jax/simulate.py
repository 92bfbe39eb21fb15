"""The federated simulation on one device: clients in turn, rounds in a loop, pure throughout.

Every function here sees one device's share of the clients and talks to the other devices through
collectives over `AXIS`. Uploads are gathered whole and put in the order of client ids before
anything is summed, so the number of devices does not change a bit of the result.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from protonorm_jax import evaluate, keys
from protonorm_jax.config import Config
from protonorm_jax.layout import Group, Layout, Members
from protonorm_jax.local import local_update
from protonorm_jax.methods.method import Arrivals, Hyperparameters, Method
from protonorm_jax.types import Client, ClientData, Model

AXIS = "devices"


class Program(NamedTuple):
    """All that is fixed when the simulation is compiled.

    Attributes:
      config: static settings.
      method: the federated method.
      models: one for each group of the layout.
      layout: which client is where.
    """

    config: Config
    method: Method
    models: tuple[Model, ...]
    layout: Layout


class Samples(NamedTuple):
    """The data set on the device: `images` `[N, H, W, channels]` uint8, `labels` `[N]` int32."""

    images: jax.Array
    labels: jax.Array


class State(NamedTuple):
    """Everything that changes from round to round.

    Attributes:
      clients: one stacked `Client` for each group, leaves `[slots, ...]`; differs by device.
      server: the method's server state; this and the rest are equal on all devices.
      key: the root key of the run; constant.
      round_index: `[]` int32, rounds finished.
      diverged: `[num_clients]` int32, round in which a client first met a value that is not
        finite, or -1.
    """

    clients: tuple[Client, ...]
    server: Any
    key: jax.Array
    round_index: jax.Array
    diverged: jax.Array


def init(program: Program, members: tuple[Members, ...], key: jax.Array) -> State:
    """The state before the first round; every client draws its own initial weights."""
    method = program.method
    server = method.init_server(keys.derive(key, keys.Stream.SERVER_INIT))

    def client(model: Model, client_id: jax.Array) -> Client:
        init_key = keys.derive(key, keys.Stream.CLIENT_INIT, jnp.maximum(client_id, 0))
        model_key, method_key = jax.random.split(init_key)
        return method.init_client(method_key, model.init(model_key), server)

    clients = tuple(
        jax.lax.map(lambda client_id, model=model: client(model, client_id), group.client_ids)
        for model, group in zip(program.models, members, strict=True)
    )
    diverged = jnp.full(program.config.num_clients, -1, jnp.int32)
    return State(clients, server, key, jnp.int32(0), diverged)


def advance(
    program: Program,
    state: State,
    members: tuple[Members, ...],
    samples: Samples,
    hyperparameters: Hyperparameters,
    num_rounds: jax.Array,
) -> tuple[State, dict[str, Any]]:
    """Runs `num_rounds` rounds, then evaluates all clients.

    Returns:
      The state, and equal on all devices: `correct` `{predictor: [num_clients]}`, and what the
      last of the rounds reported (see `_round`).
    """

    one_round = jax.jit(functools.partial(_round, program))  # Traced once, though used twice.

    def step(_: jax.Array, carry: Any) -> Any:
        return one_round(carry[0], members, samples, hyperparameters)

    _, shapes = jax.eval_shape(one_round, state, members, samples, hyperparameters)
    report = jax.tree.map(jnp.zeros_like, shapes)
    # A traced trip count keeps this a loop, whatever its length: the bits of a round do not
    # depend on how many rounds share a call.
    state, report = jax.lax.fori_loop(0, num_rounds, step, (state, report))
    correct = _evaluate(program, state, members, samples, hyperparameters)
    return state, report | {"correct": correct}


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
    program: Program,
    state: State,
    members: tuple[Members, ...],
    samples: Samples,
    hyperparameters: Hyperparameters,
) -> tuple[State, dict[str, Any]]:
    """One round, and its report: by client (`[num_clients]`) `terms`, `trained`, `arrived`,
    `floats_up`; for all `floats_down` and the server's `server`.
    """
    config, method = program.config, program.method
    round_index = state.round_index
    broadcast, floats_down = method.broadcast(state.server, round_index, hyperparameters)
    trains, arrives = participants(state.key, round_index, config.num_clients, hyperparameters)

    def train(model: Model, group: Group, client: Client, member: Members) -> tuple[Client, Any]:
        count = jnp.where(trains[member.client_ids], member.train_count, 0)
        client, upload, info = local_update(
            keys.derive(state.key, keys.Stream.LOCAL_UPDATE, round_index, member.client_ids),
            method.receive(client, broadcast),
            broadcast,
            ClientData(samples.images, samples.labels, member.train, count),
            hyperparameters,
            model=model,
            method=method,
            config=config,
            widths=group.widths,
        )
        del info["steps"]  # As long as the longest client of a group; their means are enough.
        return client, (upload, info)

    clients, outputs = _for_each_group(train, program, state.clients, members)
    uploads, info = _in_client_order(program.layout, outputs)
    uploads = jax.tree.map(lambda leaf: _select(arrives, leaf), uploads)
    aggregate_key = keys.derive(state.key, keys.Stream.AGGREGATE, round_index)
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
    return State(clients, server, state.key, round_index + 1, diverged), report


def _evaluate(
    program: Program,
    state: State,
    members: tuple[Members, ...],
    samples: Samples,
    hyperparameters: Hyperparameters,
) -> dict[str, jax.Array]:
    """Right predictions on every client's test samples, `{predictor: [num_clients] int32}`."""
    method = program.method
    broadcast, _ = method.broadcast(state.server, state.round_index, hyperparameters)

    def count(model: Model, group: Group, _: tuple[()], client_and_member: Any) -> Any:
        client, member = client_and_member
        data = ClientData(samples.images, samples.labels, member.test, member.test_count)
        correct = evaluate.count_correct(
            method.receive(client, broadcast),
            broadcast,
            data,
            model=model,
            method=method,
            batch_size=program.config.eval_batch_size,
            widths=group.widths,
        )
        return (), correct

    pairs = tuple(zip(state.clients, members, strict=True))
    _, correct = _for_each_group(count, program, ((),) * len(pairs), pairs)
    return _in_client_order(program.layout, correct)


def _for_each_group(
    function: Callable[..., Any], program: Program, states: tuple[Any, ...], inputs: tuple[Any, ...]
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """`for_each_client` over all groups; `function(model, group, state, input)`."""
    results = []
    for model, group, state, given in zip(
        program.models, program.layout.groups, states, inputs, strict=True
    ):
        one = functools.partial(function, model, group)
        ids = (given if isinstance(given, Members) else given[1]).client_ids
        results.append(for_each_client(one, state, given, jnp.sum(ids >= 0), chunk=group.chunk))
    new_states, outputs = zip(*results, strict=True)
    return new_states, outputs


def for_each_client(
    function: Callable[[Any, Any], tuple[Any, Any]],
    states: Any,
    inputs: Any,
    num_clients: jax.Array,
    *,
    chunk: int,
) -> tuple[Any, Any]:
    """Runs `state, output = function(state, input)` for the first `num_clients` slots.

    One chunk after the other, each chunk vmapped (`chunk` 1: not vmapped). States are updated in
    place, so memory is that of all states and the work of one chunk.

    Args:
      function: for one client.
      states: leaves `[slots, ...]`.
      inputs: leaves `[slots, ...]`.
      num_clients: `[]` int32; slots beyond it, up to a whole chunk, get no work.
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
    return jax.lax.fori_loop(0, -(-num_clients // chunk), body, (states, outputs))


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


def _in_client_order(layout: Layout, outputs: tuple[Any, ...]) -> Any:
    """Gathers the outputs of all groups and devices to leaves `[num_clients, ...]`."""

    def gather(*leaves: jax.Array) -> jax.Array:
        everywhere = jax.lax.all_gather(jnp.concatenate(leaves), AXIS)
        return everywhere.reshape(-1, *everywhere.shape[2:])[layout.order]

    return jax.tree.map(gather, *outputs)


def _select(mask: jax.Array, leaf: jax.Array) -> jax.Array:
    """`leaf` `[M, ...]` with zeros where `mask` `[M]` is false."""
    return jnp.where(mask.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, jnp.zeros_like(leaf))
