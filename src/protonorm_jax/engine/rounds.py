"""A round of one run on one device, in the three parts that it has; and the evaluation after it.

Each part is a pure function and may be a program of its own, see `Program.apart`.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from protonorm_jax import keys, scopes
from protonorm_jax.engine import (
    absent,
    cohort,
    evaluate,
    exchange,
    lockstep,
    loops,
    participation,
)
from protonorm_jax.engine.client import local_update, num_steps
from protonorm_jax.engine.program import Program, RunInputs, Samples, State, packed, unpacked
from protonorm_jax.methods.method import Round, keep
from protonorm_jax.types import Client, ClientData, Members


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


def round_of(state: State, run: RunInputs) -> Round:
    """What the hooks know of a round, the schedule of rates apart."""
    return Round(state.round_index, run.learning_rate, run.settings, run.class_counts)


def open_round(program: Program, rest: State, run: RunInputs) -> Opened:
    """Sends, and settles who trains.

    Args:
      program: what is fixed.
      rest: the state without clients.
      run: what distinguishes the run.
    """
    config, method, round = program.config, program.method, round_of(rest, run)
    key, index = keys.root(run.seed), rest.round_index
    down, floats_down = method.broadcast(rest.server, round)
    trains, arrives = participation.participants(
        key, index, config.num_clients, run.participation, run.dropout
    )
    sent_to = trains if method.sent_to == "trained" else jnp.ones_like(trains)
    if run.failures is not None:
        finishes = ~participation.failing(key, index, config.num_clients, run.failures)
        trains, arrives = trains & finishes, arrives & finishes
    parts = None
    if run.stragglers is not None:
        parts = participation.work(
            key, index, config.num_clients, run.stragglers, run.straggler_work
        )
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
            most = participation.budget_of(
                opened.parts[client_id], num_steps(count, config, method.reserve)
            )
        if method.warmup:
            most = jnp.where(
                index < method.warmup, 0, jnp.int32(2**31 - 1) if most is None else most
            )
        return most

    def train(client: Client, member: Members) -> tuple[Client, Any]:
        client = unpacked(client, architecture.client)
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
        return packed(client, tiled=program.tiled), (upload, info)

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
            unchecked=program.tiled and architecture.together == program.vmap_runs == 1,
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
        num_rows=program.num_rows(),
        client_devices=program.client_devices,
    )
    server, server_info = loops.isolated(
        method.aggregate,
        keys.derive(keys.root(run.seed), keys.Stream.AGGREGATE, index),
        rest.server,
        received,
        round_of(rest, run),
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
        own = unpacked(client, architecture.client)
        received = method.receive(own, down, architecture.models)
        received = packed(received, tiled=program.tiled)
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
    down, _ = method.broadcast(rest.server, round_of(rest, run))

    def count(given: tuple[Client, Members]) -> Any:
        client, member = given
        total = jnp.sum(member.test_count)
        data = ClientData(samples.inputs, samples.labels, member.test, total)
        client = unpacked(client, architecture.client)
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
