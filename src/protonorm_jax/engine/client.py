"""One client's round: train on its own samples, then make its upload. Pure, for one client."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from protonorm_jax.config import Config
from protonorm_jax.engine import batches
from protonorm_jax.engine.lockstep import repeat
from protonorm_jax.methods.method import Hyperparameters, Method, infer
from protonorm_jax.types import Batch, Client, ClientData, Model


def local_update(
    key: jax.Array,
    client: Client,
    broadcast: Any,
    data: ClientData,
    hyperparameters: Hyperparameters,
    *,
    model: Model,
    method: Method,
    config: Config,
    widths: Sequence[int] = (),
) -> tuple[Client, Any, dict[str, Any]]:
    """Trains one client for a round and makes its upload.

    A client whose `data.num_samples` is zero comes back unchanged and contributes zeros. Entries of
    `data.indices` beyond `num_samples` change nothing, bit for bit.

    Args:
      key: consumed; it orders the samples and feeds the method's loss and upload.
      client: the state of the client.
      broadcast: what the server sent.
      data: the client's training samples.
      hyperparameters: traced scalars.
      model: the client's architecture.
      method: the federated method.
      config: `local_epochs`, `batch_size`, `eval_batch_size`, `shuffle`, `last_batch`
        (`"drop"`, as the reference codes do, never trains on the last `num_samples % batch_size`
        samples nor takes prototypes from them) and `collect` (`"before"` takes the prototypes of
        the model as it was before this round, as the reference code of ProtoNorm does).
      widths: for clients under `vmap`, see `lockstep.repeat`.

    Returns:
      The client, its upload, and a dict: `steps` (`loss` and the method's terms, `[max_steps]`
      float32, zero after the last step), `terms` (their means over the steps), `num_steps` `[]`
      int32, `num_samples` `[]` int32, `floats` (numbers sent up) and `finite` `[]` bool.
    """
    chex.assert_rank([data.indices, data.num_samples], [1, 0])
    data = data._replace(num_samples=_usable(data.num_samples, config))
    train_key, upload_key = jax.random.split(key)
    trained, observed, (sums, steps), count = _train(
        train_key, client, broadcast, data, hyperparameters, model, method, config, widths
    )
    if config.collect != "during":
        source = client if config.collect == "before" else trained
        observed = _observe(source, data, model, method, config, widths)
    upload, floats = method.upload(
        upload_key, trained, observed, data, broadcast, hyperparameters, model=model
    )
    finite = jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((sums, upload))])
    info = {
        "steps": steps,
        "terms": jax.tree.map(lambda term: term / jnp.maximum(count, 1), sums),
        "num_steps": count,
        "num_samples": data.num_samples,
        "floats": jnp.asarray(floats, jnp.float32),
        "finite": finite.all(),
    }
    return trained, upload, info


def num_steps(num_samples: Any, config: Config) -> Any:
    """Steps of a round for clients with so many training samples; traced or numpy integers."""
    return config.local_epochs * _steps_per_epoch(_usable(num_samples, config), config.batch_size)


def _usable(num_samples: Any, config: Config) -> Any:
    if config.last_batch == "drop":
        return num_samples - num_samples % config.batch_size
    return num_samples


def _steps_per_epoch(num_samples: Any, batch_size: int) -> Any:
    return -(-num_samples // batch_size)


def _train(
    key: jax.Array,
    client: Client,
    broadcast: Any,
    data: ClientData,
    hyperparameters: Hyperparameters,
    model: Model,
    method: Method,
    config: Config,
    widths: Sequence[int],
) -> tuple[Client, Any, tuple[dict[str, jax.Array], dict[str, jax.Array]], jax.Array]:
    """All epochs of one round: the client, what it observed, the terms of the loss (their sums
    over the steps, and step by step), and the number of steps.
    """
    batch_size = config.batch_size
    order_key, loss_key = jax.random.split(key)
    orders = batches.pad(_orders(order_key, data, config), batch_size)  # [epochs, padded]
    given = _Given(orders, loss_key, broadcast, data, hyperparameters)

    @jax.jit  # Traced once, though used twice.
    def gradient(
        client: Client, index: jax.Array, given: _Given
    ) -> tuple[Client, Any, dict[str, jax.Array]]:
        """The gradient at a batch, what the forward pass observed, and the terms of the loss."""
        batch = _batch_at(index, given.orders, given.data, config)
        (loss, info), gradients = jax.value_and_grad(method.loss, has_aux=True)(
            client.params,
            client.statistics,
            given.broadcast,
            batch,
            jax.random.fold_in(given.loss_key, index),
            given.hyperparameters,
            model=model,
        )
        observed = ()
        if config.collect == "during":
            observed = method.observe(info.outputs, batch.labels, batch.mask)
        return Client(gradients, info.statistics), observed, {"loss": loss, **info.terms}

    def step(index: jax.Array, carry: Any, given: _Given) -> Any:
        client, optimizer_state, observed, sums, history = carry
        (gradients, statistics), new, terms = gradient(client, index, given)
        optimizer = method.optimizer(given.hyperparameters)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, client.params)
        client = Client(optax.apply_updates(client.params, updates), statistics)
        observed = jax.tree.map(jnp.add, observed, new)
        # Added up here, since the bits of a sum over `history` would depend on its length.
        sums = jax.tree.map(jnp.add, sums, terms)
        history = jax.tree.map(lambda all, one: all.at[index].set(one), history, terms)
        return client, optimizer_state, observed, sums, history

    _, observed, terms = jax.eval_shape(gradient, client, jnp.int32(0), given)
    observed = jax.tree.map(jnp.zeros_like, observed)
    max_steps = orders.shape[0] * (orders.shape[1] // batch_size)
    history = jax.tree.map(lambda term: jnp.zeros(max_steps, term.dtype), terms)
    count = orders.shape[0] * _steps_per_epoch(data.num_samples, batch_size)
    optimizer_state = method.optimizer(hyperparameters).init(client.params)
    sums = jax.tree.map(jnp.zeros_like, terms)
    initial = (client, optimizer_state, observed, sums, history)
    client, _, observed, sums, history = repeat(count, step, initial, given, widths=widths)
    return client, observed, (sums, history), count


class _Given(NamedTuple):
    """What all steps of one client's round share: the arguments of `_train` as they are."""

    orders: jax.Array
    loss_key: jax.Array
    broadcast: Any
    data: ClientData
    hyperparameters: Hyperparameters


def _batch_at(index: jax.Array, orders: jax.Array, data: ClientData, config: Config) -> Batch:
    """The batch of step `index`; `orders` is `[epochs, padded]`."""
    batch_size = config.batch_size
    epoch, position = jnp.divmod(
        index, jnp.maximum(_steps_per_epoch(data.num_samples, batch_size), 1)
    )
    start = position * batch_size
    rows = jax.lax.dynamic_slice(orders, (epoch, start), (1, batch_size))[0]
    if config.last_batch == "drop":  # A constant, so that the compiler drops the masks as well.
        return batches.take(data, rows, jnp.ones(batch_size, bool))
    return batches.take(data, rows, start + jnp.arange(batch_size) < data.num_samples)


def _orders(key: jax.Array, data: ClientData, config: Config) -> jax.Array:
    """The rows to visit in each epoch, `[local_epochs, n]`, the client's own rows first.

    Threefry's bits do not depend on how many are drawn, so neither does the order.
    """
    length = data.indices.shape[0]
    if not config.shuffle:
        return jnp.broadcast_to(data.indices, (config.local_epochs, length))
    real = jnp.arange(length) < data.num_samples

    def epoch(key: jax.Array) -> jax.Array:
        ranks = jax.random.bits(key, (length,)) >> 1
        return data.indices[jnp.argsort(jnp.where(real, ranks, jnp.uint32(2**32 - 1)))]

    return jax.vmap(epoch)(jax.random.split(key, config.local_epochs))


def _observe(
    client: Client,
    data: ClientData,
    model: Model,
    method: Method,
    config: Config,
    widths: Sequence[int],
) -> Any:
    """Sums `method.observe` over all of a client's samples, in evaluation mode."""

    def observe(batch: Batch, client: Client) -> Any:
        return method.observe(infer(model, client, batch.images), batch.labels, batch.mask)

    return batches.total(observe, data, client, batch_size=config.eval_batch_size, widths=widths)
