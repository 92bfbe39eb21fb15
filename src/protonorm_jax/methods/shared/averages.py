"""What the methods share whose server averages parameters."""

from collections.abc import Callable
from typing import Any

import jax

from protonorm_jax.methods.method import MakeUpload, Received, Round, Upload
from protonorm_jax.types import Client, ClientData, Models, Variables


def num_floats(tree: Any) -> int:
    """How many numbers a pytree of arrays holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def upload_of(choose: Callable[[Client], Variables]) -> MakeUpload:
    """The `upload` hook that sends a part of the client's variables to be averaged."""

    def upload(
        key: jax.Array,
        client: Client,
        totals: Any,
        data: ClientData,
        down: Any,
        round: Round,
        *,
        models: Models,
    ) -> Upload:
        del key, totals, data, down, round, models
        return Upload(mean=choose(client), floats=num_floats(choose(client)))

    return upload


def aggregate(
    key: jax.Array, server: Variables, received: Received, round: Round
) -> tuple[Variables, dict[str, jax.Array]]:
    """Puts the average of what arrived in the place of the server's variables."""
    del key, server, round
    return received.mean, {}


def broadcast(server: Variables, round: Round) -> tuple[Variables, int]:
    """Sends all of the server's variables down."""
    del round
    return server, num_floats(server)
