"""What is kept of a run when it has ended: what clients have learned, and predict with.

Every function here sees one device's share, as in `simulate`.
"""

from typing import Any

import jax
from jax.extend import core

from protonorm_jax.engine import rounds
from protonorm_jax.engine.program import Architecture, Program, RunInputs, State, unpacked
from protonorm_jax.types import Client


def sent_runs(program: Program, rests: State, runs: RunInputs) -> Any:
    """What the servers of all runs on this device send to their clients, leaves `[num_runs, ...]`.

    Args:
      program: what is fixed.
      rests: the states without clients.
      runs: what distinguishes the runs.
    """

    def one(given: tuple[State, RunInputs]) -> Any:
        rest, run = given
        return program.method.broadcast(rest.server, rounds.round_of(rest, run))[0]

    return jax.lax.map(one, (rests, runs))


def received(
    program: Program,
    clients: Client,
    sent: Any,
    run: jax.Array,
    slot: jax.Array,
    *,
    number: int,
) -> Client:
    """A client as it is evaluated: with what it was sent.

    Args:
      program: what is fixed.
      clients: of all runs on this device, leaves `[num_runs, slots, ...]`.
      sent: see `sent_runs`.
      run: `[]` int32, the run's number on this device.
      slot: `[]` int32, the client's.
      number: of the architecture.
    """
    architecture = program.architectures[number]
    client = jax.tree.map(lambda leaf: leaf[run, slot], clients)
    down = jax.tree.map(lambda leaf: leaf[run], sent)
    own = unpacked(client, architecture.client)
    return program.method.receive(own, down, architecture.models)


def predicts_with_sent(
    program: Program, architecture: Architecture, down: Any, inputs: Any
) -> bool:
    """Whether any predictor looks at what was sent, and not at the client alone.

    Args:
      program: what is fixed.
      architecture: of the client.
      down: shapes of what is sent.
      inputs: shapes of a batch of inputs.
    """

    def predict(down: Any, client: Client, inputs: Any) -> Any:
        return program.method.predict(client, down, inputs, models=architecture.models)

    traced = jax.make_jaxpr(predict)(down, architecture.client, inputs).jaxpr
    sent = set(traced.invars[: len(jax.tree.leaves(down))])
    used = [one for equation in traced.eqns for one in equation.invars] + list(traced.outvars)
    return any(isinstance(one, core.Var) and one in sent for one in used)
