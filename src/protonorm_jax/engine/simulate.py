"""The federated simulation on one device: runs, rounds and clients in loops, pure throughout.

Every function here sees one device's share: some runs whole, or some clients of one run. In the
latter case it talks to the devices with the other clients through collectives, see `exchange`.
Uploads are put in the order of client ids before anything is summed, so the number of devices does
not change a bit of the result. `protonorm_jax.loop` does the same in plain Python.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from protonorm_jax import keys, scopes
from protonorm_jax.config import Config
from protonorm_jax.engine import absent, cohort, draws, evaluate, exchange, lockstep, loops
from protonorm_jax.engine.client import local_update, num_steps
from protonorm_jax.engine.exchange import AXIS as AXIS
from protonorm_jax.methods.descent import Descent
from protonorm_jax.methods.method import Method, Round, infer, keep
from protonorm_jax.types import Client, ClientData, Members, Models, take


class Architecture(NamedTuple):
    """The clients of one architecture.

    Attributes:
      models: theirs, and the shared one.
      client: shapes and dtypes of what one of them keeps.
      chunk: clients that a device evaluates in one vmapped step; 1 means no vmap. Divides the
        slots.
      room: no device has more clients that train in a round, nor outputs of them. Divided by
        `together`.
      together: of these, how many train in one vmapped step; 1 means no vmap.
      widths: how a batch of clients, and of vmapped runs, narrows as they finish their training;
        see `lockstep.repeat`.
      evaluation_widths: the same of their evaluation.
    """

    models: Models
    client: Client
    chunk: int
    room: int
    together: int
    widths: tuple[int, ...]
    evaluation_widths: tuple[int, ...]


def flatten(client: Client) -> Client:
    """A client as it is kept between rounds, every array flat.

    XLA copies a whole stack of arrays of which a dimension is 1 (most kernels of MobileNet and
    its like are) when a program begins, because it wants the dimensions in another order.
    """
    return jax.tree.map(jnp.ravel, client)


def unflatten(client: Client, shapes: Client) -> Client:
    """What `flatten` has made, in its own shapes."""
    return jax.tree.map(lambda leaf, own: leaf.reshape(own.shape), client, shapes)


class Program(NamedTuple):
    """All that is fixed when the simulation is compiled.

    Attributes:
      config: settings, of which only those are read that all runs have in common.
      method: the federated method.
      architectures: those of the clients.
      first: which of them is client 0's.
      client_devices: over how many devices, next to each other, the clients of a run are spread.
      vmap_runs: runs that a device trains in one vmapped program; 1 means one after the other.
      apart: whether a round is several programs, which are compiled side by side: `open_round`,
        `train_clients` of each architecture, `close_round`; and `evaluate_clients` of each and
        `score`. Otherwise `advance` is one.
    """

    config: Config
    method: Method
    architectures: tuple[Architecture, ...]
    first: int
    client_devices: int
    vmap_runs: int
    apart: bool = False


class Samples(NamedTuple):
    """The data set on the device.

    Attributes:
      inputs: see `ClientData`.
      labels: `[N]` int32.
    """

    inputs: Any
    labels: jax.Array


class RunInputs(NamedTuple):
    """What distinguishes one run from others in the same program.

    Attributes:
      seed: `[]` uint32.
      learning_rate: `[]` float32.
      participation: `[]` float32.
      dropout: `[]` float32.
      failures: `[]` float32; None where no run of the program has any, as for the next.
      stragglers: `[]` float32.
      straggler_work: `[]` float32.
      schedule: `[length]` float32, by round what the clients' learning rate is multiplied with;
        the last one in all rounds beyond.
      descent: the clients' optimiser.
      settings: the method's, traced ones as `[]` float32.
      class_counts: `[num_clients, num_classes]` int32, see `Round`.
      num_samples: `[num_clients]` int32, all training samples of each client.
      members: for each architecture, the clients on this device.
      num_members: `[architectures]` int32, how many they are; beyond, slots are empty.
      order: `[num_clients]` int32, where client i stands in the concatenation over the run's
        devices of the concatenation over architectures.
    """

    seed: jax.Array
    learning_rate: jax.Array
    participation: jax.Array
    dropout: jax.Array
    failures: jax.Array | None
    stragglers: jax.Array | None
    straggler_work: jax.Array
    schedule: jax.Array
    descent: Descent
    settings: Any
    class_counts: jax.Array
    num_samples: jax.Array
    members: tuple[Members, ...]
    num_members: jax.Array
    order: jax.Array


class State(NamedTuple):
    """Everything that changes from round to round.

    Attributes:
      clients: one stacked `Client` for each architecture, as `flatten` has made them, leaves
        `[slots, size]`; differs by device.
      server: the method's server state; this and the rest are equal on all devices of the run.
      round_index: `[]` int32, rounds finished.
      diverged: `[num_clients]` int32, round in which a client first met a value that is not
        finite, or -1.
      floats: `up` and `down`, all that were sent so far, see `exchange.add_floats`.
    """

    clients: tuple[Client, ...]
    server: Any
    round_index: jax.Array
    diverged: jax.Array
    floats: dict[str, jax.Array]


class Opened(NamedTuple):
    """What is settled of a round before anybody trains.

    Attributes:
      down: what the server sends.
      sent_down: `[num_clients]` int32, how many numbers that is to each client.
      trains: `[num_clients]` bool, who trains.
      arrives: `[num_clients]` bool, whose upload arrives.
      parts: `[num_clients]` float32, the part of its steps that each client does; None for all.
      local: what the clients' hooks know of the round.
      cohort: where those are who train.
    """

    down: Any
    sent_down: jax.Array
    trains: jax.Array
    arrives: jax.Array
    parts: jax.Array | None
    local: Round
    cohort: cohort.Cohort


def init_runs(program: Program, runs: RunInputs) -> State:
    """The states of all runs on this device before the first round, leaves `[num_runs, ...]`."""
    return jax.lax.map(functools.partial(init, program), runs)


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


def open_runs(program: Program, rests: State, runs: RunInputs) -> Opened:
    """`open_round` for all runs on this device, leaves `[num_runs, ...]`, as for the next four."""

    def one(_: tuple[()], given: tuple[State, RunInputs]) -> tuple[tuple[()], Opened]:
        return (), open_round(program, *given)

    with scopes.loop("rounds"):
        return _over_runs(program, one, (), (rests, runs))[1]


def train_runs(
    program: Program,
    number: int,
    clients: Client,
    runs: RunInputs,
    opened: Opened,
    samples: Samples,
    last: jax.Array,
) -> tuple[Client, Any]:
    """`train_clients` for all runs on this device."""
    num_members = _num_members(runs)

    def one(clients: Client, given: tuple[RunInputs, Opened]) -> tuple[Client, Any]:
        return train_clients(program, number, clients, *given, num_members, samples, last)

    with scopes.loop("rounds"):
        return _over_runs(program, one, clients, (runs, opened))


def close_runs(
    program: Program, rests: State, runs: RunInputs, opened: Opened, outputs: tuple[Any, ...]
) -> tuple[State, dict[str, Any]]:
    """`close_round` for all runs on this device."""

    def one(rest: State, given: tuple[Any, ...]) -> tuple[State, dict[str, Any]]:
        return close_round(program, rest, *given)

    with scopes.loop("rounds"):
        return _over_runs(program, one, rests, (runs, opened, outputs))


def evaluate_runs(
    program: Program,
    number: int,
    clients: Client,
    rests: State,
    runs: RunInputs,
    samples: Samples,
) -> dict[str, jax.Array]:
    """`evaluate_clients` for all runs on this device."""
    num_members = _num_members(runs)

    def one(_: tuple[()], given: tuple[Client, State, RunInputs]) -> tuple[tuple[()], Any]:
        return (), evaluate_clients(program, number, *given, num_members, samples)

    return _over_runs(program, one, (), (clients, rests, runs))[1]


def score_runs(
    program: Program, hits: tuple[dict[str, jax.Array], ...], rests: State, runs: RunInputs
) -> dict[str, Any]:
    """`score` for all runs on this device."""

    def one(_: tuple[()], given: tuple[Any, ...]) -> tuple[tuple[()], dict[str, Any]]:
        return (), score(program, *given)

    return _over_runs(program, one, (), (hits, rests, runs))[1]


def init(program: Program, run: RunInputs) -> State:
    """The state before the first round; every client draws its own initial weights."""
    method, key = program.method, keys.root(run.seed)

    def keys_of(client_id: jax.Array | int) -> jax.Array:
        """The keys of a client's model and of what the method adds to it, `[2]`."""
        return jax.random.split(keys.derive(key, keys.Stream.CLIENT_INIT, client_id))

    models = program.architectures[program.first].models
    first = models.private.init(keys_of(0)[0])
    server = method.init_server(keys.derive(key, keys.Stream.SERVER_INIT), models, first)

    def client(architecture: Architecture, client_id: jax.Array) -> Client:
        own = jnp.maximum(client_id, 0)
        model_key, method_key = keys_of(own)
        models, counts = architecture.models, run.class_counts[own]
        variables = models.private.init(model_key)
        return flatten(method.init_client(method_key, variables, server, models, counts))

    clients = tuple(
        jax.lax.map(functools.partial(client, architecture), members.client_ids)
        for architecture, members in zip(program.architectures, run.members, strict=True)
    )
    diverged = jnp.full(program.config.num_clients, -1, jnp.int32)
    floats = {"up": exchange.no_floats(), "down": exchange.no_floats()}
    return State(clients, server, jnp.int32(0), diverged, floats)


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
      `close_round`, and what there is beside it, see `score`.
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
        evaluate_clients(program, number, clients, rest, run, num_evaluated, samples)
        for number, clients in enumerate(state.clients)
    )
    return state, report | score(program, hits, rest, run)


def participants(
    key: jax.Array,
    round_index: jax.Array,
    num_clients: int,
    participation: jax.Array,
    dropout: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Who trains this round and whose upload arrives.

    Returns:
      `trains` `[num_clients]` bool, round(participation * num_clients) of them, at least one,
      drawn without replacement; `arrives` `[num_clients]` bool, of those the ones whose upload
      is not lost (each independently with probability `dropout`).
    """
    order_key = keys.derive(key, keys.Stream.PARTICIPATION, round_index)
    wanted = num_participants(jnp.asarray(participation, jnp.float32), num_clients)
    trains = draws.among_first(order_key, num_clients, wanted.astype(jnp.int32))
    loss_key = keys.derive(key, keys.Stream.DROPOUT, round_index)
    lost = jax.random.uniform(loss_key, (num_clients,)) < dropout
    return trains, trains & ~lost


def num_participants(participation: Any, num_clients: int) -> Any:
    """How many clients take part in a round, a float; of a traced or numpy float32."""
    return (participation * num_clients).round().clip(1)


def failing(
    key: jax.Array, round_index: jax.Array, num_clients: int, failures: jax.Array
) -> jax.Array:
    """Who drops out within a round, `[num_clients]` bool, each independently by this chance."""
    own = keys.derive(key, keys.Stream.FAILURES, round_index)
    return jax.random.uniform(own, (num_clients,)) < failures


def work(
    key: jax.Array,
    round_index: jax.Array,
    num_clients: int,
    stragglers: jax.Array,
    least: jax.Array,
) -> jax.Array:
    """The part of its steps that each client does in a round.

    Returns:
      `[num_clients]` float32, 1 but for round(stragglers * num_clients) clients, drawn without
      replacement, which have a number each drawn evenly from `least` to 1.
    """
    order_key = keys.derive(key, keys.Stream.STRAGGLERS, round_index)
    wanted = jnp.round(stragglers * num_clients).astype(jnp.int32)
    slow = draws.among_first(order_key, num_clients, wanted)
    work_key = keys.derive(key, keys.Stream.WORK, round_index)
    drawn = least + (1 - least) * jax.random.uniform(work_key, (num_clients,))
    return jnp.where(slow, drawn, 1.0)


def budget_of(part: jax.Array, steps: jax.Array) -> jax.Array:
    """This part `[]` float32 of so many steps, rounded up, at least one of them."""
    wanted = jnp.ceil(part * steps.astype(jnp.float32)).astype(jnp.int32)
    return jnp.clip(wanted, jnp.minimum(steps, 1), steps)


def _round_of(state: State, run: RunInputs) -> Round:
    return Round(state.round_index, run.learning_rate, run.settings, run.class_counts)


def _round(
    program: Program,
    state: State,
    run: RunInputs,
    num_members: jax.Array,
    samples: Samples,
    last: jax.Array,
) -> tuple[State, dict[str, Any]]:
    """One round, and its report, see `close_round`."""
    rest = state._replace(clients=())
    opened = open_round(program, rest, run)
    results = [
        train_clients(program, number, clients, run, opened, num_members, samples, last)
        for number, clients in enumerate(state.clients)
    ]
    clients, outputs = zip(*results, strict=True)
    rest, report = close_round(program, rest, run, opened, outputs)
    return rest._replace(clients=clients), report


def open_round(program: Program, rest: State, run: RunInputs) -> Opened:
    """Sends, and settles who trains.

    Args:
      program: what is fixed.
      rest: the state without clients.
      run: what distinguishes the run.
    """
    config, method, round = program.config, program.method, _round_of(rest, run)
    key, index = keys.root(run.seed), rest.round_index
    down, floats_down = method.broadcast(rest.server, round)
    trains, arrives = participants(key, index, config.num_clients, run.participation, run.dropout)
    sent_to = trains if method.sent_to == "trained" else jnp.ones_like(trains)
    if run.failures is not None:
        finishes = ~failing(key, index, config.num_clients, run.failures)
        trains, arrives = trains & finishes, arrives & finishes
    parts = None
    if run.stragglers is not None:
        parts = work(key, index, config.num_clients, run.stragglers, run.straggler_work)
    factor = jax.lax.dynamic_index_in_dim(run.schedule, index, keepdims=False)
    local = round._replace(
        learning_rate=round.learning_rate * factor, schedule=factor, descent=run.descent
    )
    chosen = cohort.choose(
        trains,
        run.order,
        [members.client_ids for members in run.members],
        [architecture.room for architecture in program.architectures],
        program.client_devices,
    )
    sent_down = jnp.where(sent_to, jnp.asarray(floats_down, jnp.int32), 0)
    return Opened(down, sent_down, trains, arrives, parts, local, chosen)


def train_clients(
    program: Program,
    number: int,
    clients: Client,
    run: RunInputs,
    opened: Opened,
    num_members: jax.Array,
    samples: Samples,
    last: jax.Array,
) -> tuple[Client, Any]:
    """The part in a round of the clients of one architecture.

    Args:
      program: what is fixed.
      number: of the architecture.
      clients: its clients, see `State`.
      run: what distinguishes the run.
      opened: the round.
      num_members: see `advance`.
      samples: the data set.
      last: `[]` bool, whether no other round follows in this call.

    Returns:
      The clients, and of those who train the uploads and what there is to say of them, leaves
      `[room, ...]`.
    """
    config, method, local = program.config, program.method, opened.local
    architecture, members = program.architectures[number], run.members[number]
    key, index = keys.root(run.seed), local.index

    def budget(client_id: jax.Array, count: jax.Array) -> jax.Array | None:
        """The most steps of a client with so many samples."""
        most = None
        if opened.parts is not None:
            most = budget_of(opened.parts[client_id], num_steps(count, config, method.reserve))
        if method.warmup:
            most = jnp.where(
                index < method.warmup, 0, jnp.int32(2**31 - 1) if most is None else most
            )
        return most

    def train(client: Client, member: Members) -> tuple[Client, Any]:
        client = unflatten(client, architecture.client)
        client, upload, info = local_update(
            keys.derive(key, keys.Stream.LOCAL_UPDATE, index, member.client_ids),
            method.receive(client, opened.down, architecture.models),
            opened.down,
            ClientData(samples.inputs, samples.labels, member.train, member.train_count),
            local,
            models=architecture.models,
            method=method,
            config=config,
            budget=budget(member.client_ids, member.train_count),
            repeat=functools.partial(lockstep.repeat, widths=architecture.widths),
        )
        return flatten(client), (upload, info)

    if method.sent_to == "all" and method.receive is not keep:
        clients = _received_by_absent(
            program, number, clients, members, opened, num_members[number], last
        )
    with scopes.loop("clients", number):
        return loops.update_chosen(
            train,
            clients,
            members,
            opened.cohort.chosen[number],
            opened.cohort.counts[number],
            chunk=architecture.together,
        )


def close_round(
    program: Program, rest: State, run: RunInputs, opened: Opened, outputs: tuple[Any, ...]
) -> tuple[State, dict[str, Any]]:
    """The server's part of a round.

    Args:
      program: what is fixed.
      rest: the state without clients.
      run: what distinguishes the run.
      opened: the round.
      outputs: of each architecture, from `train_clients`.

    Returns:
      The state without clients, and a report: by client (`[num_clients]`) `terms`, `trained`,
      `arrived`, `floats_up`, `floats_down`; and the server's `server`.
    """
    method, index, places = program.method, rest.round_index, opened.cohort.places
    uploads, infos = zip(*outputs, strict=True)
    info = exchange.in_client_order(infos, places, opened.trains, program.client_devices)
    received, floats_up = exchange.receive(
        uploads,
        places,
        opened.arrives,
        run.num_samples,
        method=method,
        client_devices=program.client_devices,
    )
    server, server_info = loops.isolated(
        method.aggregate,
        keys.derive(keys.root(run.seed), keys.Stream.AGGREGATE, index),
        rest.server,
        received,
        _round_of(rest, run),
        witness=index,
    )
    some = opened.arrives.any()
    server = jax.tree.map(functools.partial(jnp.where, some), server, rest.server)
    report = {
        "terms": info["terms"],
        "trained": info["num_steps"] > 0,
        "arrived": opened.arrives,
        "floats_up": floats_up,
        "floats_down": opened.sent_down,
        "server": server_info,
    }
    first = (rest.diverged < 0) & opened.trains & ~info["finite"]
    state = State(
        (),
        server,
        index + 1,
        jnp.where(first, index, rest.diverged),
        {
            "up": exchange.add_floats(rest.floats["up"], floats_up),
            "down": exchange.add_floats(rest.floats["down"], opened.sent_down),
        },
    )
    return state, report


def _received_by_absent(
    program: Program,
    number: int,
    clients: Client,
    members: Members,
    opened: Opened,
    count: jax.Array,
    last: jax.Array,
) -> Client:
    """The states in which clients that do not train have received what was sent to all.

    Where each replaces what came before, they do so in the last round of a call alone: none of
    those in between is seen by anybody.
    """
    method, architecture, down = program.method, program.architectures[number], opened.down

    def receive(client: Client, client_id: jax.Array) -> tuple[Client, tuple[()]]:
        own = unflatten(client, architecture.client)
        received = flatten(method.receive(own, down, architecture.models))
        here = opened.trains[client_id]
        return jax.tree.map(functools.partial(jnp.where, here), client, received), ()

    once = absent.overwrites(method.receive, architecture.client, down, architecture.models)
    with scopes.loop("absent", number):
        received, _ = loops.update(
            receive,
            clients,
            members.client_ids,
            jnp.where(last, count, 0) if once else count,
            chunk=architecture.chunk,
        )
    return received


def evaluate_clients(
    program: Program,
    number: int,
    clients: Client,
    rest: State,
    run: RunInputs,
    num_members: jax.Array,
    samples: Samples,
) -> dict[str, jax.Array]:
    """Right predictions of the clients of one architecture.

    Args:
      program: what is fixed.
      number: of the architecture.
      clients: its clients, see `State`.
      rest: the state without clients.
      run: what distinguishes the run.
      num_members: see `advance`; those beyond are not evaluated.
      samples: the data set.

    Returns:
      `{predictor: [slots, parts] int32}`.
    """
    method, architecture = program.method, program.architectures[number]
    down, _ = method.broadcast(rest.server, _round_of(rest, run))

    def count(given: tuple[Client, Members]) -> Any:
        client, member = given
        total = jnp.sum(member.test_count)
        data = ClientData(samples.inputs, samples.labels, member.test, total)
        client = unflatten(client, architecture.client)
        return evaluate.count_correct(
            method.receive(client, down, architecture.models),
            down,
            data,
            member.test_count,
            models=architecture.models,
            method=method,
            batch_size=program.config.eval_batch_size,
            repeat=functools.partial(lockstep.repeat, widths=architecture.evaluation_widths),
        )

    with scopes.loop("clients", number):
        return loops.map(
            count,
            (clients, run.members[number]),
            num_members[number],
            chunk=architecture.chunk,
        )


def score(
    program: Program, hits: tuple[dict[str, jax.Array], ...], rest: State, run: RunInputs
) -> dict[str, Any]:
    """What is reported beside a round, equal on all devices of the run.

    Args:
      program: what is fixed.
      hits: of each architecture, from `evaluate_clients`.
      rest: the state without clients.
      run: what distinguishes the run.

    Returns:
      `correct` `{predictor: [num_clients, parts]}`, of the state `diverged` and `floats`, and
      `shown`, what the method has to show of the server.
    """
    return {
        "correct": exchange.in_client_order(hits, run.order, None, program.client_devices),
        "diverged": rest.diverged,
        "floats": rest.floats,
        "shown": program.method.show(rest.server),
    }


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
        down, _ = program.method.broadcast(state.server, _round_of(state, run))

        def client(architecture: Architecture, given: tuple[Client, Members]) -> jax.Array:
            own = unflatten(given[0], architecture.client)
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
