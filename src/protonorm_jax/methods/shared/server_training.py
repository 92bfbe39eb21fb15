"""What the methods share whose server trains on the class means that clients have sent."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from protonorm_jax import scopes
from protonorm_jax.methods.method import Round, Setup
from protonorm_jax.methods.shared.class_table import ClassSums, class_means


class Pairs(NamedTuple):
    """Class means of all clients in a list, those that exist first, by client and then by class.

    Attributes:
      vectors: `[M * C, D]`.
      labels: `[M * C]` int32.
      num_pairs: `[]` int32, how many exist.
    """

    vectors: jax.Array
    labels: jax.Array
    num_pairs: jax.Array


def pairs_of(uploads: ClassSums) -> Pairs:
    """Lists the class means of `uploads`, leaves `[M, C, ...]`."""
    means = jax.vmap(class_means)(uploads)
    known = means.known.reshape(-1)
    first = jnp.argsort(~known, stable=True)
    num_clients, num_classes, dim = means.vectors.shape
    labels = jnp.tile(jnp.arange(num_classes, dtype=jnp.int32), num_clients)
    return Pairs(means.vectors.reshape(-1, dim)[first], labels[first], jnp.sum(known))


def orders_of(key: jax.Array, pairs: Pairs, epochs: int, round: Round) -> jax.Array:
    """The order of the pairs in each epoch, `[epochs, M * C]` int32; existing ones come first.

    The draw `order` `[epochs, n]` takes their place where it is given; it may be shorter.
    """
    total = pairs.labels.shape[0]

    def draw() -> jax.Array:
        ranks = jax.random.bits(key, (epochs, total)) >> 1
        existing = (jnp.arange(total) < pairs.num_pairs).reshape(1, -1)
        return jnp.argsort(jnp.where(existing, ranks, jnp.uint32(2**32 - 1)), axis=1)

    orders = round.drawn("order", draw)
    return jnp.pad(orders, ((0, 0), (0, total - orders.shape[1])), constant_values=total - 1)


def most_steps(setup: Setup, epochs: int) -> int:
    """The steps of `train` if all clients hold all classes."""
    return epochs * -(-setup.num_clients * setup.num_classes // setup.batch_size)


def train(
    key: jax.Array,
    net: Any,
    pairs: Pairs,
    loss: Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array],
    optimizer: optax.GradientTransformation,
    round: Round,
    *,
    epochs: int,
    batch_size: int,
) -> tuple[Any, jax.Array]:
    """Trains a net of the server on minibatches of class means, in another order every epoch.

    The last batch of an epoch may be incomplete; batches in which nothing exists are not run.

    Args:
      key: consumed; it orders the pairs.
      net: a pytree of parameters.
      pairs: what to train on.
      loss: `(net, vectors [B, D], labels [B], mask [B]) -> []`.
      optimizer: starts anew.
      round: of the federation; see `orders_of`.
      epochs: how often to go over the pairs.
      batch_size: pairs a step.

    Returns:
      The net, and the mean loss of the last epoch's steps.
    """
    orders = orders_of(key, pairs, epochs, round)
    total = orders.shape[1]
    width = -(-total // batch_size) * batch_size
    orders = jnp.pad(orders, ((0, 0), (0, width - total)))
    steps = -(-pairs.num_pairs // batch_size)  # Of one epoch.

    def step(index: jax.Array, carry: Any) -> Any:
        net, state, last = carry
        epoch, position = jnp.divmod(index, jnp.maximum(steps, 1))
        start = position * batch_size
        rows = jax.lax.dynamic_slice(orders, (epoch, start), (1, batch_size))[0]
        mask = start + jnp.arange(batch_size) < pairs.num_pairs
        value, gradient = jax.value_and_grad(loss)(
            net, pairs.vectors[rows], pairs.labels[rows], mask
        )
        updates, state = optimizer.update(gradient, state, net)
        last = last + jnp.where(epoch == epochs - 1, value, 0.0)
        return optax.apply_updates(net, updates), state, last

    start = (net, optimizer.init(net), jnp.zeros(()))
    with scopes.loop("times", epochs * (width // batch_size)):
        net, _, last = jax.lax.fori_loop(0, epochs * steps, step, start)
    return net, last / jnp.maximum(steps, 1).astype(last.dtype)
