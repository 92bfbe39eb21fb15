"""How well one client's model predicts samples that are not trained on. Pure, for one client."""

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
    counts: jax.Array,
    *,
    models: Models,
    method: Method,
    batch_size: int,
    repeat: batches.Repeat = lockstep.repeat,
) -> dict[str, jax.Array]:
    """Counts right predictions by each of the method's predictors, in one pass over all parts.

    Args:
      client: the state of the client.
      down: what the server sent.
      data: the samples of all parts, one part after the other.
      counts: `[parts]` int32, how many samples each part has; together all of the data.
      models: the client's architecture, and the shared one.
      method: the federated method.
      batch_size: samples at once.
      repeat: the loop over batches, see `lockstep`.

    Returns:
      `{name: [parts] int32}` for every name of `method.predict`. A sample without any finite score,
      as before any prototype is known, counts as wrong.
    """

    def correct(batch: Batch, given: Any, places: jax.Array) -> dict[str, jax.Array]:
        client, down, counts = given
        scores = method.predict(client, down, batch.inputs, models=models)
        place, end = places[:, None], jnp.cumsum(counts)[None, :]
        inside = (place >= end - counts[None, :]) & (place < end)  # [B, parts]

        def hits(score: jax.Array) -> jax.Array:
            right = jnp.argmax(score, axis=1) == batch.labels
            right &= jnp.isfinite(score).any(axis=1) & batch.mask
            return jnp.sum(right[:, None] & inside, axis=0)

        return jax.tree.map(hits, scores)

    given = (client, down, counts)
    return batches.total(correct, data, given, batch_size=batch_size, repeat=repeat)
