"""How well one client's model predicts its own test samples. Pure, for one client."""

from typing import Any

import jax
import jax.numpy as jnp

from protonorm_jax.engine import batches, lockstep
from protonorm_jax.methods.method import Method
from protonorm_jax.types import Batch, Client, ClientData, Models


def count_correct(
    client: Client,
    down: Any,
    data: ClientData,
    *,
    models: Models,
    method: Method,
    batch_size: int,
    repeat: batches.Repeat = lockstep.repeat,
) -> dict[str, jax.Array]:
    """Counts right predictions by each of the method's predictors.

    Args:
      client: the state of the client.
      down: what the server sent.
      data: the client's test samples.
      models: the client's architecture, and the shared one.
      method: the federated method.
      batch_size: samples at once.
      repeat: the loop over batches, see `lockstep`.

    Returns:
      `{name: [] int32}` for every name of `method.predict`. A sample without any finite score,
      as before any prototype is known, counts as wrong.
    """

    def correct(batch: Batch, given: tuple[Client, Any]) -> dict[str, jax.Array]:
        scores = method.predict(*given, batch.inputs, models=models)

        def hits(score: jax.Array) -> jax.Array:
            right = jnp.argmax(score, axis=1) == batch.labels
            return jnp.sum(right & jnp.isfinite(score).any(axis=1) & batch.mask)

        return jax.tree.map(hits, scores)

    given = (client, down)
    return batches.total(correct, data, given, batch_size=batch_size, repeat=repeat)
