"""The federated simulation on one device: runs, rounds and clients in loops, pure throughout.

Every function here sees one device's share: some runs whole, or some clients of one run. In the
latter case it talks to the devices with the other clients through collectives, see `exchange`.
Uploads are put in the order of client ids before anything is summed, so the number of devices does
not change a bit of the result. `protonorm_jax.loop` does the same in plain Python.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from protonorm_jax import keys, scopes
from protonorm_jax.engine import exchange, loops, rounds
from protonorm_jax.engine.exchange import AXIS as AXIS
from protonorm_jax.engine.program import (
    Architecture,
    Initial,
    Program,
    RunInputs,
    Samples,
    State,
    packed,
    unpacked,
)
from protonorm_jax.methods.method import infer
from protonorm_jax.types import Client, ClientData, Members, Variables, take


def init_runs(program: Program, runs: RunInputs, initial: Initial | None = None) -> State:
    """The states of all runs on this device before the first round, leaves `[num_runs, ...]`."""
    if initial is not None and runs.seed.shape[0] == 1:  # A loop would copy what it is given.
        return jax.tree.map(
            lambda leaf: leaf[None], init(program, *loops.first_of((runs, initial)))
        )
    return jax.lax.map(lambda given: init(program, *given), (runs, initial))


def advance_runs(
    program: Program,
    states: State,
    runs: RunInputs,
    samples: Samples,
    num_rounds: jax.Array,
    evaluated: jax.Array,
) -> tuple[State, dict[str, Any]]:
    """`advance` for all runs on this device: states, runs and reports `[num_runs, ...]`.

    Runs are independent: none changes a bit of another's result unless they are vmapped.
    """
    num_members = _num_members(runs)

    def one(state: State, run: RunInputs) -> tuple[State, dict[str, Any]]:
        return advance(program, state, run, num_members, samples, num_rounds, evaluated)

    return _over_runs(program, one, states, runs)


def _num_members(runs: RunInputs) -> jax.Array:
    """Clients on this device, see `advance`, for all of its runs.

    Not mapped: were it different for vmapped runs, every step of the loop over clients would have
    to choose between old and new states. It is the same, as a device with several runs has all of
    their clients.
    """
    return runs.num_members[0]


def _over_runs(
    program: Program, function: Callable[[Any, Any], tuple[Any, Any]], states: Any, given: Any
) -> tuple[Any, Any]:
    """`state, output = function(state, given)` for all runs on this device, leaves `[num_runs]`."""
    num_runs = jax.tree.leaves(given)[0].shape[0]
    if num_runs == 1:  # The general way would copy the state.
        return jax.tree.map(lambda leaf: leaf[None], function(*loops.first_of((states, given))))
    with scopes.loop("runs"):
        return loops.update(function, states, given, jnp.int32(num_runs), chunk=program.vmap_runs)


def open_runs(program: Program, rests: State, runs: RunInputs) -> rounds.Opened:
    """`rounds.open_round` for all runs on this device, leaves `[num_runs, ...]`."""

    def one(_: tuple[()], given: tuple[State, RunInputs]) -> tuple[tuple[()], rounds.Opened]:
        return (), rounds.open_round(program, *given)

    with scopes.loop("rounds"):
        return _over_runs(program, one, (), (rests, runs))[1]


def clients_runs(
    program: Program,
    number: int,
    clients: Client,
    rests: State,
    runs: RunInputs,
    opened: rounds.Opened,
    samples: Samples,
    training: jax.Array,
    last: jax.Array,
) -> tuple[Client, tuple[Any, dict[str, jax.Array]]]:
    """`rounds.train_clients` or `rounds.evaluate_clients` for all runs on this device.

    One program for both, as compilers take their time for a kernel that both have but once.

    Args:
      program: what is fixed.
      number: of the architecture.
      clients: its clients, see `State`.
      rests: the states without clients.
      runs: what distinguishes the runs.
      opened: the round; for an evaluation any.
      samples: the data set.
      training: `[]` bool, which of the two; the other does nothing, and its result says nothing.
      last: see `rounds.train_clients`.

    Returns:
      The clients, and the results of both beside them.
    """
    num_members = _num_members(runs)
    trained, evaluated = (jnp.where(one, num_members, 0) for one in (training, ~training))

    def one(clients: Client, given: tuple[State, RunInputs, rounds.Opened]) -> tuple[Client, Any]:
        rest, run, opened = given
        # What comes as an argument of its own for each run is the same for vmapped ones no more.
        counts = tuple(
            loops.longest(jnp.where(training, count, 0)) for count in opened.cohort.counts
        )
        opened = opened._replace(cohort=opened.cohort._replace(counts=counts))
        with scopes.loop("rounds"):
            clients, outputs = rounds.train_clients(
                program, number, clients, run, opened, trained, samples, last
            )
        hits = rounds.evaluate_clients(program, number, clients, rest, run, evaluated, samples)
        return clients, (outputs, hits)

    return _over_runs(program, one, clients, (rests, runs, opened))


def close_runs(
    program: Program, rests: State, runs: RunInputs, opened: rounds.Opened, outputs: tuple[Any, ...]
) -> tuple[State, dict[str, Any]]:
    """`rounds.close_round` for all runs on this device."""

    def one(rest: State, given: tuple[Any, ...]) -> tuple[State, dict[str, Any]]:
        return rounds.close_round(program, rest, *given)

    with scopes.loop("rounds"):
        return _over_runs(program, one, rests, (runs, opened, outputs))


def score_runs(
    program: Program, hits: tuple[dict[str, jax.Array], ...], rests: State, runs: RunInputs
) -> dict[str, Any]:
    """`rounds.score` for all runs on this device."""

    def one(_: tuple[()], given: tuple[Any, ...]) -> tuple[tuple[()], dict[str, Any]]:
        return (), rounds.score(program, *given)

    return _over_runs(program, one, (), (hits, rests, runs))[1]


def init(program: Program, run: RunInputs, initial: Initial | None = None) -> State:
    """The state before the first round.

    Args:
      program: what is fixed.
      run: what distinguishes the run.
      initial: what private models start with; without it every client draws its own weights.
    """
    method, key = program.method, keys.root(run.seed)
    models = program.architectures[program.first].models
    first = models.private.init(keys_of_client(key, 0)[0]) if initial is None else initial.first
    server = method.init_server(keys.derive(key, keys.Stream.SERVER_INIT), models, first)

    def client(architecture: Architecture, given: tuple[jax.Array, Variables | None]) -> Client:
        client_id, variables = given
        own = jnp.maximum(client_id, 0)
        model_key, method_key = keys_of_client(key, own)
        models, counts = architecture.models, run.class_counts[own]
        if variables is None:
            variables = models.private.init(model_key)
        first = method.init_client(method_key, variables, server, models, counts)
        return packed(first, tiled=program.tiled)

    given = (None,) * len(program.architectures) if initial is None else initial.clients

    def over_slots(function: Callable[[Any], Client], given: Any) -> Client:
        return jax.lax.map(function, given) if initial is None else jax.vmap(function)(given)

    clients = tuple(
        over_slots(functools.partial(client, architecture), (members.client_ids, variables))
        for architecture, members, variables in zip(
            program.architectures, run.members, given, strict=True
        )
    )
    diverged = jnp.full(program.config.num_clients, -1, jnp.int32)
    floats = {"up": exchange.no_floats(), "down": exchange.no_floats()}
    return State(clients, server, jnp.int32(0), diverged, floats)


def keys_of_client(key: jax.Array, client_id: jax.Array | int) -> jax.Array:
    """The keys of a client's model and of what the method adds to it, `[2]`; of the root key."""
    return jax.random.split(keys.derive(key, keys.Stream.CLIENT_INIT, client_id))


def advance(
    program: Program,
    state: State,
    run: RunInputs,
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
      The state, and equal on all devices of the run what the last of the rounds reported, see
      `rounds.close_round`, and what there is beside it, see `rounds.score`.
    """
    one_round = jax.jit(functools.partial(_round, program))  # Traced once, though used twice.

    def step(index: jax.Array, carry: Any) -> Any:
        return one_round(carry[0], run, num_members, samples, index + 1 == num_rounds)

    _, report = loops.zeros_of(one_round, state, run, num_members, samples, evaluated)
    # A traced trip count keeps this a loop, whatever its length: the bits of a round do not
    # depend on how many rounds share a call.
    with scopes.loop("rounds"):
        state, report = jax.lax.fori_loop(0, num_rounds, step, (state, report))
    num_evaluated, rest = jnp.where(evaluated, num_members, 0), state._replace(clients=())
    hits = tuple(
        rounds.evaluate_clients(program, number, clients, rest, run, num_evaluated, samples)
        for number, clients in enumerate(state.clients)
    )
    return state, report | rounds.score(program, hits, rest, run)


def _round(
    program: Program,
    state: State,
    run: RunInputs,
    num_members: jax.Array,
    samples: Samples,
    last: jax.Array,
) -> tuple[State, dict[str, Any]]:
    """One round, and its report, see `rounds.close_round`."""
    rest = state._replace(clients=())
    opened = rounds.open_round(program, rest, run)
    results = [
        rounds.train_clients(program, number, clients, run, opened, num_members, samples, last)
        for number, clients in enumerate(state.clients)
    ]
    clients, outputs = zip(*results, strict=True)
    rest, report = rounds.close_round(program, rest, run, opened, outputs)
    return rest._replace(clients=clients), report


def features_of_runs(
    program: Program, each: int, states: State, runs: RunInputs, samples: Samples
) -> jax.Array:
    """What the private models of all runs on this device make of test samples.

    Args:
      program: what is fixed.
      each: the first so many test samples of every client; where it has fewer, of any sample.
      states: of the runs, leaves `[num_runs, ...]`.
      runs: what distinguishes them, leaves `[num_runs, ...]`.
      samples: the data set.

    Returns:
      `[num_runs, num_clients, each, feature_dim]` float32, equal on all devices of a run.
    """

    def one(given: tuple[State, RunInputs]) -> jax.Array:
        state, run = given
        down, _ = program.method.broadcast(state.server, rounds.round_of(state, run))

        def client(architecture: Architecture, given: tuple[Client, Members]) -> jax.Array:
            own = unpacked(given[0], architecture.client)
            own = program.method.receive(own, down, architecture.models)
            rows = given[1].test[:each]
            rows = jnp.pad(rows, (0, each - rows.shape[0]))
            data = ClientData(samples.inputs, samples.labels, rows, jnp.int32(each))
            batch = take(data, rows, jnp.ones(each, bool))
            return infer(architecture.models, own, batch.inputs).features

        features = tuple(
            jax.lax.map(
                functools.partial(client, architecture),
                (state.clients[number], run.members[number]),
            )
            for number, architecture in enumerate(program.architectures)
        )
        return exchange.in_client_order(features, run.order, None, program.client_devices)

    return jax.lax.map(one, (states, runs))
