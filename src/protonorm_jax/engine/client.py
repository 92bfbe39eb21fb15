"""One client's round: train on its own samples, then make its upload. Pure, for one client."""

import math
from fractions import Fraction
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from protonorm_jax import scopes
from protonorm_jax.config import Config
from protonorm_jax.engine import augment, batches, lockstep, loops
from protonorm_jax.methods.method import Method, Round, infer, observe_nothing
from protonorm_jax.types import Batch, Client, ClientData, Models, Outputs, is_images, take

_NO_STEP = 2**32 - 1  # Steps are numbered by int32.


class Keys(NamedTuple):
    """What one client's round draws from.

    Attributes:
      order: of the samples.
      loss: of the steps; step i has `fold_in(loss, i)`.
      upload: of what is sent.
      augmentation: of the steps, in the same way.
    """

    order: jax.Array
    loss: jax.Array
    upload: jax.Array
    augmentation: jax.Array


def keys_of(key: jax.Array) -> Keys:
    """Splits the key of one client's round."""
    train, upload = jax.random.split(key)
    order, loss = jax.random.split(train)
    return Keys(order, loss, upload, jax.random.fold_in(loss, _NO_STEP))


def gradient(
    client: Client,
    down: Any,
    batch: Batch,
    key: jax.Array,
    round: Round,
    *,
    models: Models,
    method: Method,
) -> tuple[Client, Outputs, dict[str, jax.Array]]:
    """The gradient of the client's loss at a batch.

    Returns:
      A `Client` of the gradient by `params` and of the new statistics; the outputs of the private
      model; and the terms of the loss, `loss` itself among them.
    """
    (loss, info), gradients = jax.value_and_grad(method.loss, has_aux=True)(
        client.params, client.statistics, down, batch, key, round, models=models
    )
    return Client(gradients, info.statistics), info.outputs, {"loss": loss, **info.terms}


def descend(
    client: Client, state: optax.OptState, gradients: Client, round: Round, *, method: Method
) -> tuple[Client, optax.OptState]:
    """One step of the client's optimiser along what `gradient` has found."""
    slope = round.descent.clipped(gradients.params)
    with jax.numpy_dtype_promotion("standard"):  # Optax counts Adam's steps in integers.
        updates, state = method.optimizer(round).update(slope, state, client.params)
    return Client(optax.apply_updates(client.params, updates), gradients.statistics), state


def local_update(
    key: jax.Array,
    client: Client,
    down: Any,
    data: ClientData,
    round: Round,
    *,
    models: Models,
    method: Method,
    config: Config,
    budget: jax.Array | None = None,
    repeat: batches.Repeat = lockstep.repeat,
) -> tuple[Client, Any, dict[str, Any]]:
    """Trains one client for a round and makes its upload.

    A client whose `data.num_samples` is zero comes back unchanged and contributes zeros. Entries of
    `data.indices` beyond `num_samples` change nothing, bit for bit.

    Args:
      key: consumed; it orders the samples and feeds the method's loss and upload.
      client: the state of the client.
      down: what the server sent.
      data: the client's training samples.
      round: what the hooks know of the round.
      models: the client's architecture, and the shared one.
      method: the federated method.
      config: `local_epochs`, `local_steps`, `batch_size`, `eval_batch_size`, `shuffle`, `augment`
        and `last_batch` (`"drop"`, as the reference codes do, never trains on the last
        `num_samples % batch_size` samples nor takes prototypes from them). Only the images of
        training steps are augmented; what is observed `"during"` training sees them so.
      budget: `[]` int32, the most steps to train; none by default. With 0 the client's parameters
        and statistics stay as they are, but it uploads.
      repeat: the loop over batches, see `lockstep`.

    Returns:
      The client, its upload, and a dict: `terms` (`loss` and the method's terms, their means over
      the steps), `num_steps` `[]` int32 and `finite` `[]` bool.
    """
    chex.assert_rank([data.indices, data.num_samples], [1, 0])
    data = data._replace(num_samples=usable(data.num_samples, config))
    keys = keys_of(key)
    trained, observed, sums, count = _train(
        keys, client, down, data, round, budget, models, method, config, repeat
    )
    if collects(method, "after", "before"):
        source = client if method.collect == "before" else trained
        observed = _observe(source, data, models, method, config, repeat)
    upload = method.upload(keys.upload, trained, observed, data, down, round, models=models)
    upload = upload._replace(floats=jnp.asarray(upload.floats, jnp.int32))
    sent = (upload.each, upload.mean)
    finite = jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((sums, sent))])
    divisor = jnp.maximum(count, 1)
    info = {
        "terms": jax.tree.map(lambda term: term / divisor.astype(term.dtype), sums),
        "num_steps": count,
        "finite": finite.all(),
    }
    return trained, upload, info


def num_steps(num_samples: Any, config: Config, reserve: int = 0) -> Any:
    """Steps of a round for clients with so many training samples; traced or numpy integers.

    Args:
      num_samples: of each client.
      config: `local_epochs`, `local_steps`, `batch_size`, `last_batch`.
      reserve: batches held in reserve, see `Method`.
    """
    used = usable(num_samples, config)
    used = used - reserved(used, config, reserve)
    return _steps(used, config)


def usable(num_samples: Any, config: Config) -> Any:
    """How many of a client's training samples are used at all."""
    if config.last_batch == "drop":
        return num_samples - num_samples % config.batch_size
    return num_samples


def reserved(num_samples: Any, config: Config, reserve: int) -> Any:
    """How many of a client's samples are held in reserve; none where that leaves too few."""
    enough = num_samples >= (reserve + 1) * config.batch_size
    return enough.astype(np.int32) * (reserve * config.batch_size)


def _steps(num_samples: Any, config: Config) -> Any:
    """Steps of a round on so many samples, those in reserve apart."""
    epoch = _steps_per_epoch(num_samples, config.batch_size)
    if config.local_steps:
        return epoch.clip(0, 1) * config.local_steps
    whole, part = divmod(_epochs(config), 1)
    if not part:
        return whole * epoch
    return whole * epoch - (-part.numerator * epoch // part.denominator)


def _epochs(config: Config) -> Fraction:
    """The epochs of a round as a fraction of small numbers, so that 0.3 of 10 steps are 3."""
    return max(Fraction(config.local_epochs).limit_denominator(1000), Fraction(1, 1000))


def _steps_per_epoch(num_samples: Any, batch_size: int) -> Any:
    return -(-num_samples // batch_size)


def collects(method: Method, *when: str) -> bool:
    """Whether a method observes samples at one of these times, see `Method.collect`."""
    return method.observe is not observe_nothing and method.collect in when


class _Given(NamedTuple):
    """What all steps of one client's round share: the arguments of `_train` as they are."""

    keys: Keys
    orders: jax.Array
    down: Any
    data: ClientData
    round: Round


def _train(
    keys: Keys,
    client: Client,
    down: Any,
    data: ClientData,
    round: Round,
    budget: jax.Array | None,
    models: Models,
    method: Method,
    config: Config,
    repeat: batches.Repeat,
) -> tuple[Client, Any, dict[str, jax.Array], jax.Array]:
    """All epochs of one round: the client, what it observed, the terms of the loss (their sums
    over the steps), and the number of steps.
    """
    batch_size = config.batch_size
    if method.reserve:
        held = reserved(data.num_samples, config, method.reserve)
        data = data._replace(
            indices=jnp.roll(data.indices, -held), num_samples=data.num_samples - held
        )
    orders = batches.pad(_orders(keys.order, data, config), batch_size)  # [epochs, padded]
    given = _Given(keys, orders, down, data, round)
    during = collects(method, "during")

    @jax.jit  # Traced once, though used twice.
    def at(client: Client, index: jax.Array, given: _Given) -> tuple[Client, Any, Any]:
        """The gradient at a batch, what the forward pass observed, and the terms of the loss."""
        batch = _batch_at(index, given.orders, given.data, config)
        if config.augment != "none":
            key = jax.random.fold_in(given.keys.augmentation, index)
            batch = batch._replace(inputs=_augmented(key, batch.inputs, given.data, config))
        gradients, outputs, terms = gradient(
            client,
            given.down,
            batch,
            jax.random.fold_in(given.keys.loss, index),
            given.round,
            models=models,
            method=method,
        )
        observed = method.observe(outputs, batch.labels, batch.mask) if during else ()
        return gradients, observed, terms

    def step(index: jax.Array, carry: Any, given: _Given) -> Any:
        client, optimizer_state, observed, sums, orders = carry
        if config.local_steps:
            orders = _renewed(orders, index, given, config)
            given = given._replace(orders=orders)
        gradients, new, terms = at(client, index, given)
        client, optimizer_state = descend(
            client, optimizer_state, gradients, given.round, method=method
        )
        observed = jax.tree.map(jnp.add, observed, new)
        sums = jax.tree.map(jnp.add, sums, terms)
        return client, optimizer_state, observed, sums, orders

    _, observed, sums = loops.zeros_of(at, client, jnp.int32(0), given)
    count = _steps(data.num_samples, config)
    if budget is not None:
        count = jnp.minimum(count, budget)
    optimizer_state = method.optimizer(round).init(client.params)
    initial = (client, optimizer_state, observed, sums, orders if config.local_steps else ())
    with scopes.loop("steps"):
        client, _, observed, sums, _ = repeat(count, step, initial, given)
    return client, observed, sums, count


def _batch_at(index: jax.Array, orders: jax.Array, data: ClientData, config: Config) -> Batch:
    """The batch of step `index`; `orders` is `[epochs, padded]`, or `[1, padded]` of its epoch."""
    batch_size = config.batch_size
    epoch, position = _place(index, data, config)
    start = position * batch_size
    rows = jax.lax.dynamic_slice(orders, (epoch, start), (1, batch_size))[0]
    if config.last_batch == "drop":  # A constant, so that the compiler drops the masks as well.
        return take(data, rows, jnp.ones(batch_size, bool))
    return take(data, rows, start + jnp.arange(batch_size) < data.num_samples)


def _place(index: jax.Array, data: ClientData, config: Config) -> tuple[jax.Array, jax.Array]:
    """The epoch of step `index`, and the step's number in it."""
    steps = jnp.maximum(_steps_per_epoch(data.num_samples, config.batch_size), 1)
    return jnp.divmod(index, steps)


def _augmented(key: jax.Array, inputs: Any, data: ClientData, config: Config) -> Any:
    """The inputs of a batch, those that are images augmented."""

    def one(taken: jax.Array, whole: Any) -> jax.Array:
        return augment.images(key, taken, config.augment) if is_images(whole) else taken

    return jax.tree.map(one, inputs, data.inputs)


def _orders(key: jax.Array, data: ClientData, config: Config) -> jax.Array:
    """The rows to visit in each epoch, `[epochs, n]`, the client's own rows first.

    Where `local_steps` counts, which may be many epochs of a small client, those of the first; the
    others follow by `_renewed`.
    """
    epochs = 1 if config.local_steps else math.ceil(_epochs(config))
    if not config.shuffle:
        return jnp.broadcast_to(data.indices, (epochs, data.indices.shape[0]))
    if config.local_steps:
        return _order(jax.random.fold_in(key, 0), data)[None]
    return jax.vmap(_order, (0, None))(jax.random.split(key, epochs), data)


def _order(key: jax.Array, data: ClientData) -> jax.Array:
    """The rows to visit in an epoch, `[n]`.

    Threefry's bits do not depend on how many are drawn, so neither does the order.
    """
    length = data.indices.shape[0]
    real = jnp.arange(length) < data.num_samples
    ranks = jax.random.bits(key, (length,)) >> 1
    return data.indices[jnp.argsort(jnp.where(real, ranks, jnp.uint32(2**32 - 1)))]


def _renewed(orders: jax.Array, index: jax.Array, given: _Given, config: Config) -> jax.Array:
    """The order `[1, padded]` of the epoch of step `index`, drawn when it begins."""
    if not config.shuffle:
        return orders
    epoch, position = _place(index, given.data, config)

    def draw() -> jax.Array:
        order = _order(jax.random.fold_in(given.keys.order, epoch), given.data)
        return batches.pad(order[None], config.batch_size)

    return jax.lax.cond(position == 0, draw, lambda: orders)


def _observe(
    client: Client,
    data: ClientData,
    models: Models,
    method: Method,
    config: Config,
    repeat: batches.Repeat,
) -> Any:
    """Sums `method.observe` over all of a client's samples, in evaluation mode."""

    def observe(batch: Batch, client: Client, places: jax.Array) -> Any:
        return method.observe(infer(models, client, batch.inputs), batch.labels, batch.mask)

    return batches.total(observe, data, client, batch_size=config.eval_batch_size, repeat=repeat)
