"""Who trains in a round and how much of it, whose upload arrives: drawn from the run's key."""

from typing import Any

import jax
import jax.numpy as jnp

from protonorm_jax import keys
from protonorm_jax.engine import draws


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
