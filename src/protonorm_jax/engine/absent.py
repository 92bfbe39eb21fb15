"""What clients that do not train in a round take in of what the server sends to all."""

from typing import Any

import jax
from jax.extend import core

from protonorm_jax.methods.method import Receive
from protonorm_jax.types import Client, Models


def overwrites(receive: Receive, client: Client, down: Any, models: Models) -> bool:
    """Whether of all that a client receives only the last counts, as where a head is replaced.

    That is so if every array of the client is either left as it is or made of nothing but what
    was sent. Where it cannot be told the answer is no.

    Args:
      receive: the method's hook.
      client: shapes of what a client keeps.
      down: shapes of what is sent.
      models: the client's.
    """
    program = jax.make_jaxpr(lambda client, down: receive(client, down, models))(client, down).jaxpr
    own = program.invars[: len(jax.tree.leaves(client))]
    of_client = set(own)
    for equation in program.eqns:
        if any(isinstance(one, core.Var) and one in of_client for one in equation.invars):
            of_client.update(equation.outvars)
    return all(
        new is old or not isinstance(new, core.Var) or new not in of_client
        for new, old in zip(program.outvars, own, strict=True)
    )
