"""A federation in plain Python, client after client: what a round is, without the engine.

The hooks are those of `methods.Method`, called in the order in which `engine.simulate` calls them,
and so are the keys; a test holds the two to each other. Nothing is padded, grouped or spread over
devices here, and every client may hold batches of any size.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from protonorm_jax import keys
from protonorm_jax.engine import augment as augmentation
from protonorm_jax.engine.client import descend, gradient, keys_of
from protonorm_jax.engine.loops import zeros_of
from protonorm_jax.errors import UsageError
from protonorm_jax.methods import Method, Received, Round, Setup, Upload
from protonorm_jax.methods.descent import Descent
from protonorm_jax.methods.method import infer, observe_nothing
from protonorm_jax.methods.table import build, checked_settings, free_settings
from protonorm_jax.types import Batch, Client, ClientData, Model, Models, Variables

Batches = Sequence[tuple[Any, Any]]


class Trace(NamedTuple):
    """What has happened.

    Attributes:
      losses: `[round][client][step]`, the whole loss before the step's update; no steps where a
        client was absent.
      terms: `[round][client][step]`, all that the loss reports, by name.
      uploads: `[round][client]`, None where a client was absent.
      shown: `[round]`, arrays by name: what the method shows of the server after the round, and
        what its aggregation reported.
      servers: `[round]`, the whole state of the server after the round.
      clients: at the end, as training has left them.
    """

    losses: list[list[list[float]]]
    terms: list[list[list[dict[str, float]]]]
    uploads: list[list[Upload | None]]
    shown: list[dict[str, np.ndarray]]
    servers: list[Any]
    clients: list[Client]


def federate(
    method: str | Method,
    clients: Sequence[tuple[Model, Variables, Batches]],
    *,
    num_classes: int,
    feature_dim: int,
    rounds: int,
    learning_rate: float,
    settings: Mapping[str, Any] = {},
    seed: int = 0,
    shared: tuple[Model, Variables | None] | None = None,
    batch_size: int | None = None,
    num_samples: Sequence[int] | None = None,
    participants: Any = None,
    steps: Any = None,
    descent: Descent | None = None,
    schedule: Sequence[float] | None = None,
    augment: str = "none",
    server: Any = None,
    states: Sequence[Client] | None = None,
    draws: Sequence[Mapping[str, Any]] | None = None,
    client_draws: Sequence[Sequence[Mapping[str, Any]]] | None = None,
) -> Trace:
    """Runs a federation of one local epoch a round.

    Args:
      method: a name of `METHODS`, or a method.
      clients: of each its model, initial variables and batches `(images, labels)` in the order to
        be used; images go to `Model.apply` as they are, `Model.init` is never called.
      num_classes: C.
      feature_dim: D.
      rounds: how many.
      learning_rate: of the clients.
      settings: of the method; those left out have their defaults. For a `Method` all that its
        hooks look for in `round.settings`.
      seed: of the keys.
      shared: the second architecture and its initial variables, for methods that ask for one;
        None for those that its `init` draws. FedAvg's is the clients' own and need not be given.
      batch_size: of a server that trains; by default that of the largest batch.
      num_samples: training samples that a client weighs; by default those in its batches.
      participants: bool `[rounds, clients]`, who takes part; by default all.
      steps: int `[rounds, clients]`, the most steps that a client trains; by default all.
      descent: the clients' optimiser; by default plain SGD.
      schedule: by round, what the clients' learning rate is multiplied with; by default 1.
      augment: what is done to the images that are trained on, one of `config.AUGMENTATIONS`;
        they must be in [-1, 1] then.
      server: the server's first state, in place of the one drawn.
      states: the clients' first states, in place of the ones drawn.
      draws: by round, values by name that take the place of those that the server draws.
      client_draws: by round and client, the same for clients; `[steps, ...]` each, of which every
        step has its own row, and the upload all.

    Raises:
      UsageError: settings that cannot be used, or a missing `shared`.
    """
    size = batch_size or max(len(labels) for *_, batches in clients for _, labels in batches)
    setup = Setup(num_classes, feature_dim, len(clients), rounds, size)
    if isinstance(method, Method):
        own = free_settings(settings)
    else:
        own = checked_settings(method, settings)
        method = build(method, setup, vars(own))
    own = jax.tree.map(jnp.float32, own)
    root = keys.root(seed)
    private = method.shared is not None and method.shared.architecture == "private"
    if method.shared is not None and not private and shared is None:
        raise UsageError("federate.shared must be given to a method that has a shared model")
    common = _shared(shared)
    models = [Models(model, model if private else common) for model, *_ in clients]
    example = next(_batch(batch) for *_, batches in clients for batch in batches)
    data = [_data(batches, example) for *_, batches in clients]
    counts = jnp.stack([jnp.bincount(one.labels, length=num_classes) for one in data])
    held = [len(one.labels) for one in data] if num_samples is None else num_samples
    weights = jnp.asarray(held, jnp.int32)
    takes_part = np.ones((rounds, len(clients)), bool) if participants is None else participants

    if server is None:
        key = keys.derive(root, keys.Stream.SERVER_INIT)
        server = method.init_server(key, models[0], clients[0][1])
    if states is None:
        states = [
            method.init_client(
                jax.random.split(keys.derive(root, keys.Stream.CLIENT_INIT, i))[1],
                *(variables, server, models[i], counts[i]),
            )
            for i, (_, variables, _) in enumerate(clients)
        ]
    states = list(states)
    compiled = {model: _compiled(method, model, augment) for model in models}
    trace = Trace([], [], [], [], [], states)
    for index in range(rounds):
        given = draws[index] if draws else {}
        round = Round(jnp.int32(index), jnp.float32(learning_rate), own, counts, given)
        down, _ = method.broadcast(server, round)
        uploads: list[Upload | None] = []
        trace.terms.append([])
        for i, (_, _, batches) in enumerate(clients):
            if method.sent_to == "all" or takes_part[index][i]:
                states[i] = method.receive(states[i], down, models[i])
            if not takes_part[index][i]:
                uploads.append(None)
                trace.terms[-1].append([])
                continue
            key = keys.derive(root, keys.Stream.LOCAL_UPDATE, index, i)
            factor = jnp.float32(schedule[index] if schedule else 1)
            local = round._replace(
                learning_rate=round.learning_rate * factor,
                draws=client_draws[index][i] if client_draws else {},
                schedule=factor,
                descent=jax.tree.map(jnp.float32, descent or Descent()),
            )
            most = len(batches) if steps is None else int(steps[index][i])
            step, observe = compiled[models[i]]
            states[i], upload, terms = _update(
                *(key, states[i], down, batches, data[i], local, method, models[i], most, step),
                *(observe, zeros_of(observe, states[i], example)),
            )
            uploads.append(upload)
            trace.terms[-1].append(terms)
        trace.uploads.append(uploads)
        trace.losses.append([[term["loss"] for term in terms] for terms in trace.terms[-1]])
        info: dict[str, Any] = {}
        if any(upload is not None for upload in uploads):
            key = keys.derive(root, keys.Stream.AGGREGATE, index)
            received = _receive(uploads, weights, method)
            server, info = jax.jit(method.aggregate)(key, server, received, round)
        trace.servers.append(server)
        trace.shown.append(jax.device_get({**info, **method.show(server)}))
    return trace


def _update(
    key: jax.Array,
    client: Client,
    down: Any,
    batches: Batches,
    data: ClientData,
    round: Round,
    method: Method,
    models: Models,
    most: int,
    step: Callable[..., Any],
    observe: Callable[..., Any],
    nothing: Any,
) -> tuple[Client, Upload, list[dict[str, float]]]:
    """One client's round: an epoch over its batches, `most` at most, then its upload.

    `step` and `observe` are those of `_compiled`; `nothing` is what `observe` sums up to without a
    batch.
    """
    used = keys_of(key)
    before, terms, totals = client, [], []
    state = method.optimizer(round).init(client.params)
    left = sum(len(labels) for _, labels in batches[method.reserve :])
    reserve = method.reserve if batches and left >= len(batches[0][1]) else 0
    train = [] if int(round.index) < method.warmup else batches[reserve:]
    for i, batch in enumerate(map(_batch, train[:most])):
        own = round._replace(draws={name: value[i] for name, value in round.draws.items()})
        step_keys = [jax.random.fold_in(key, i) for key in (used.loss, used.augmentation)]
        client, state, observed, info = step(client, state, down, batch, *step_keys, own)
        terms.append({name: float(value) for name, value in info.items()})
        totals.append(observed)
    if method.collect != "during":
        source = before if method.collect == "before" else client
        totals = [observe(source, batch) for batch in map(_batch, batches)]
    total = functools.reduce(functools.partial(jax.tree.map, jnp.add), totals, nothing)
    upload = method.upload(used.upload, client, total, data, down, round, models=models)
    return client, upload, terms


def _compiled(method: Method, models: Models, augment: str) -> tuple[Any, Any]:
    """The step of one architecture's clients, and what `observe` sees of a batch in evaluation."""
    during = method.collect == "during"
    collects = method.collect is not None and method.observe is not observe_nothing

    @jax.jit
    def step(
        client: Client,
        state: Any,
        down: Any,
        batch: Batch,
        key: jax.Array,
        augmentation_key: jax.Array,
        round: Round,
    ) -> Any:
        if augment != "none":
            images = augmentation.images(augmentation_key, batch.inputs, augment)
            batch = batch._replace(inputs=images)
        gradients, outputs, terms = gradient(
            client, down, batch, key, round, models=models, method=method
        )
        observed = method.observe(outputs, batch.labels, batch.mask) if during else ()
        return *descend(client, state, gradients, round, method=method), observed, terms

    @jax.jit
    def observe(client: Client, batch: Batch) -> Any:
        if not collects:
            return ()
        return method.observe(infer(models, client, batch.inputs), batch.labels, batch.mask)

    return step, observe


def _receive(uploads: Sequence[Upload | None], weights: jax.Array, method: Method) -> Received:
    """What the server gets: each upload, with zeros for those absent, and the weighted mean."""
    arrived = np.array([upload is not None for upload in uploads])
    some = next(upload for upload in uploads if upload is not None)
    absent = jax.tree.map(jnp.zeros_like, some)
    whole = [absent if upload is None else upload for upload in uploads]
    shares = weights if method.weighting == "samples" else jnp.ones_like(weights)
    shares = jnp.where(arrived, shares, 0) / jnp.where(arrived, shares, 0).sum()
    each = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[one.each for one in whole])
    mean = jax.tree.map(
        lambda *leaves: sum(share * leaf for share, leaf in zip(shares, leaves, strict=True)),
        *[one.mean for one in whole],
    )
    return Received(each, mean, jnp.asarray(arrived), weights)


def _shared(given: tuple[Model, Variables | None] | None) -> Model | None:
    """The shared model, the same for all clients; its `init` gives the variables handed in."""
    if given is None:
        return None
    model, variables = given
    return model if variables is None else model._replace(init=lambda key: variables)


def _batch(pair: tuple[Any, Any]) -> Batch:
    images, labels = pair
    labels = jnp.asarray(labels, jnp.int32)
    return Batch(jnp.asarray(images, jnp.float32), labels, jnp.ones(labels.shape, bool))


def _data(batches: Batches, example: Batch) -> ClientData:
    """All samples of a client in one; none, of the shape of an example's, without a batch."""
    whole = [example._replace(inputs=example.inputs[:0], labels=example.labels[:0])]
    whole += map(_batch, batches)
    labels = jnp.concatenate([batch.labels for batch in whole])
    images = jnp.concatenate([batch.inputs for batch in whole])
    rows = jnp.arange(len(labels), dtype=jnp.int32)
    return ClientData(images, labels, rows, jnp.int32(len(labels)))
