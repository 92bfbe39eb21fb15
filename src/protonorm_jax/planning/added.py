"""What a method adds to local training: numbers sent, memory kept, steps of the server."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from protonorm_jax.engine.program import Program
from protonorm_jax.methods.shared import class_table
from protonorm_jax.planning import memory
from protonorm_jax.planning.shapes import Shapes


class Added(NamedTuple):
    """What one round costs beyond the clients' own models and steps; the most of any client.

    Attributes:
      floats_up: numbers that a client sends, at most.
      floats_down: numbers that it is sent, at most.
      client_bytes: that a client keeps beside its model.
      server_bytes: that the server keeps.
      server_steps: optimiser steps of the server, at most.
    """

    floats_up: int
    floats_down: int
    client_bytes: int
    server_bytes: int
    server_steps: int


def to_local_training(program: Program, given: Sequence[Shapes]) -> Added:
    """What the method of a program adds.

    Args:
      program: which.
      given: of each architecture, see `shapes.of_hooks`.
    """
    up = down = kept = server = 0
    for architecture, shapes in zip(program.architectures, given, strict=True):
        upload = shapes.upload
        up = max(up, _floats(upload.floats, (upload.each, upload.mean)))
        down = max(down, _floats(shapes.floats_down, shapes.down))
        client = architecture.client
        model = (client.params["model"], client.statistics["model"])
        kept = max(kept, memory.num_bytes(client) - memory.num_bytes(model))
        server = memory.num_bytes(shapes.server)
    return Added(up, down, kept, server, program.method.server_steps)


def _floats(told: Any, tree: Any) -> int:
    """How many numbers a client exchanges: what it says, or all there are where that varies.

    Sums by class stand for one vector of each class.
    """
    if isinstance(told, int):
        return told
    tree = jax.tree.map(lambda one: one.sums if _is_sums(one) else one, tree, is_leaf=_is_sums)
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _is_sums(one: Any) -> bool:
    return isinstance(one, class_table.ClassSums)
