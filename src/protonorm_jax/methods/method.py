"""What a federated method is: a tuple of pure functions, with the usual choice as default.

Reading order: what crosses between clients and server (`Round`, `Upload`, `Received`), the hooks as
protocols, the usual hooks, and `Method` that holds them. Everything that crosses is independent of
the client's architecture. M is the number of clients, C of classes, B of samples in a batch, D the
length of features.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from protonorm_jax.errors import UsageError
from protonorm_jax.methods.descent import Descent
from protonorm_jax.types import Batch, Client, ClientData, Models, Outputs, Variables


class Setup(NamedTuple):
    """The sizes that a method is made for; plain numbers, fixed when a program is compiled.

    Attributes:
      num_classes: C.
      feature_dim: D.
      num_clients: M.
      rounds: of the whole run.
      batch_size: of the clients' steps; also of a server that trains on minibatches.
    """

    num_classes: int
    feature_dim: int
    num_clients: int
    rounds: int
    batch_size: int


class Round(NamedTuple):
    """What every hook knows of the round it works in.

    Attributes:
      index: `[]` int32, rounds finished before.
      learning_rate: `[]` float32, of the clients; for their hooks (`loss`, `optimizer`, `upload`)
        as the schedule has it in this round, for the server's as it is set.
      settings: the method's group of settings; traced ones are `[]` float32 arrays.
      class_counts: `[M, C]` int32, the samples of each class that a client trains on.
      draws: random values that stand in for drawn ones, by name; see `drawn`. Empty but where a
        reference's own draws are to be followed.
      schedule: `[]` float32, what the schedule has multiplied `learning_rate` with; for what has a
        learning rate of its own on the clients.
      descent: makes the clients' optimiser of a learning rate.
    """

    index: jax.Array  # type: ignore[assignment]  # It hides `tuple.index`.
    learning_rate: jax.Array
    settings: Any
    class_counts: jax.Array
    draws: Mapping[str, jax.Array] = {}
    schedule: jax.Array | float = 1.0
    descent: Descent = Descent()

    def drawn(self, name: str, draw: Callable[[], jax.Array]) -> jax.Array:
        """The random value called `name`: what was handed in for it, or else `draw()`."""
        return self.draws[name] if name in self.draws else draw()


class LossInfo(NamedTuple):
    """What the loss reports beside its value.

    Attributes:
      outputs: of the private model, in training mode.
      statistics: the client's new `statistics`.
      terms: named scalars to record, averaged over the steps of a round.
    """

    outputs: Outputs
    statistics: dict[str, Any]
    terms: dict[str, jax.Array]


class Upload(NamedTuple):
    """What one client sends up.

    Attributes:
      each: a pytree that the server gets from every client.
      mean: a pytree of float32 arrays of which the server gets the average alone.
      floats: `[]` int32 or a plain number, how many numbers that is.
    """

    each: Any = ()
    mean: Any = ()
    floats: jax.Array | int = 0


class Received(NamedTuple):
    """What reaches the server.

    Attributes:
      each: leaves `[M, ...]` in the order of client ids; zero where nothing arrived. M is the
        number of clients, or with `Method.rows` `"arrived"` maybe less.
      mean: the average of the clients whose upload arrived, weighted as `Method.weighting` says.
      arrived: `[M]` bool.
      num_samples: `[M]` int32, all training samples of each client, used or not.
    """

    each: Any
    mean: Any
    arrived: jax.Array
    num_samples: jax.Array


class Shared(NamedTuple):
    """Asks for a second architecture, known to all clients.

    Attributes:
      architecture: name of a model; `"family"` for the one that `Config.shared_model` names, or
        else the family of the run; `"private"` for the clients' own, which must then be the same
        for all.
      feature_dim: length of its features; None for that of the private models.
    """

    architecture: str = "family"
    feature_dim: int | None = None


class InitServer(Protocol):
    """Makes the server's state, any pytree. Called once, before the clients are made."""

    def __call__(self, key: jax.Array, models: Models, first: Variables, /) -> Any:
        """Maps a key, the models of client 0 and its initial variables to the state."""


class InitClient(Protocol):
    """Makes the state of a client. Called once for each client."""

    def __call__(
        self,
        key: jax.Array,
        variables: Variables,
        server: Any,
        models: Models,
        counts: jax.Array,
        /,
    ) -> Client:
        """Maps a key, the private model's initial variables, the server's state, the models and
        the client's label counts `[C]` int32 to what the client keeps.
        """


class Broadcast(Protocol):
    """Selects, and at most scales, what the server sends. Called in every round and evaluation."""

    def __call__(self, server: Any, round: Round, /) -> tuple[Any, jax.Array | int]:
        """Maps the server's state to what goes down, and how many numbers that is a client."""


class Receive(Protocol):
    """Takes what was sent into a client's state: overwrites a head or a model.

    Called before training for the clients that the method sends to, and before evaluation for all.
    """

    def __call__(self, client: Client, down: Any, models: Models, /) -> Client:
        """Maps a client and what was sent to the client."""


class Loss(Protocol):
    """The objective of a client. Called, and differentiated by `params`, in every step."""

    def __call__(
        self,
        params: dict[str, Any],
        statistics: dict[str, Any],
        down: Any,
        batch: Batch,
        key: jax.Array,
        round: Round,
        /,
        *,
        models: Models,
    ) -> tuple[jax.Array, LossInfo]:
        """Maps a client's parameters and statistics, what was sent, a batch and a key of the step
        to one joint objective `[]` float32 of all parameters, and what else there is to say. Rows
        outside of the batch's mask must change nothing.
        """


class Optimizer(Protocol):
    """Makes the client's optimiser. Called in every round, which starts with a fresh state."""

    def __call__(self, round: Round, /) -> optax.GradientTransformation:
        """Maps the round to a gradient transformation of all of a client's parameters.

        Made of `round.descent.along(learning_rate)` it follows the user's settings. The gradient
        has been clipped by then.
        """


class Observe(Protocol):
    """Sums over samples. Called for batches of a client as `Method.collect` says."""

    def __call__(self, outputs: Outputs, labels: jax.Array, mask: jax.Array, /) -> Any:
        """Maps outputs `[B, ...]`, labels `[B]` int32 and mask `[B]` bool to a pytree of sums,
        which the engine adds up.
        """


class MakeUpload(Protocol):
    """Makes what a client sends up. Called for each client, after training."""

    def __call__(
        self,
        key: jax.Array,
        client: Client,
        totals: Any,
        data: ClientData,
        down: Any,
        round: Round,
        /,
        *,
        models: Models,
    ) -> Upload:
        """Maps a key, the trained client, the sums of `observe`, the client's training samples
        (with those held in reserve) and what was sent to an upload.
        """


class Aggregate(Protocol):
    """Updates the server. Called in every round; where nothing arrived its result is dropped."""

    def __call__(
        self, key: jax.Array, server: Any, received: Received, round: Round, /
    ) -> tuple[Any, dict[str, jax.Array]]:
        """Maps a key, the server's state and what arrived to the new state and a dict, of which
        scalars are recorded in every row, and arrays with what `show` names.
        """


class Predict(Protocol):
    """Classifies samples. Called in evaluations, after `receive`."""

    def __call__(
        self, client: Client, down: Any, inputs: Any, /, *, models: Models
    ) -> dict[str, jax.Array]:
        """Maps a client, what was sent and inputs `[B, ...]` to scores `[B, C]` float32 by the
        name of a predictor, for each of which `NAME_accuracy` is reported. A row of -inf is wrong.
        """


class Show(Protocol):
    """Names what is recorded of the server. Called at evaluations."""

    def __call__(self, server: Any, /) -> dict[str, jax.Array]:
        """Maps the server's state to arrays by name."""


class Nets(Protocol):
    """Names the nets of the server, which are saved once, when a run has ended."""

    def __call__(self, server: Any, /) -> dict[str, Any]:
        """Maps the server's state to pytrees by name."""


def no_server(key: jax.Array, models: Models, first: Variables) -> tuple[()]:
    """A server without state."""
    del key, models, first
    return ()


def model_only(
    key: jax.Array, variables: Variables, server: Any, models: Models, counts: jax.Array
) -> Client:
    """A client that keeps its model and nothing else."""
    del key, server, models, counts
    return Client({"model": variables["params"]}, {"model": variables["batch_stats"]})


def no_broadcast(server: Any, round: Round) -> tuple[Any, int]:
    """Sends nothing down."""
    del server, round
    return (), 0


def keep(client: Client, down: Any, models: Models) -> Client:
    """Takes nothing of what was sent into the client's state."""
    del down, models
    return client


def as_set(round: Round) -> optax.GradientTransformation:
    """The user's optimiser for all parameters alike: plain SGD unless another is asked for."""
    return round.descent.along(round.learning_rate)


def observe_nothing(outputs: Outputs, labels: jax.Array, mask: jax.Array) -> tuple[()]:
    """Collects nothing from the client's samples."""
    del outputs, labels, mask
    return ()


def upload_nothing(
    key: jax.Array,
    client: Client,
    totals: Any,
    data: ClientData,
    down: Any,
    round: Round,
    *,
    models: Models,
) -> Upload:
    """Sends nothing up."""
    del key, client, totals, data, down, round, models
    return Upload()


def no_aggregation(
    key: jax.Array, server: Any, received: Received, round: Round
) -> tuple[Any, dict[str, jax.Array]]:
    """Leaves the server as it is."""
    del key, received, round
    return server, {}


def show_nothing(server: Any) -> dict[str, Any]:
    """Records nothing of the server."""
    del server
    return {}


def variables_of(client: Client, name: str = "model") -> Variables:
    """The variables of one of a client's nets."""
    return {"params": client.params[name], "batch_stats": client.statistics[name]}


def forward(
    models: Models, params: dict[str, Any], statistics: dict[str, Any], batch: Batch, key: jax.Array
) -> tuple[Outputs, dict[str, Any]]:
    """The private model's training-mode outputs and the client's new statistics."""
    variables = {"params": params["model"], "batch_stats": statistics["model"]}
    outputs, variables = models.private.apply(
        variables, batch.inputs, train=True, mask=batch.mask, key=key
    )
    return outputs, {**statistics, "model": variables["batch_stats"]}


def infer(models: Models, client: Client, inputs: Any) -> Outputs:
    """The private model's evaluation-mode outputs."""
    return models.private.apply(variables_of(client), inputs)[0]


def mean_of_rows(values: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean of `values` `[B]` over the rows where `mask` `[B]` is true; zero without any."""
    count = jnp.maximum(jnp.sum(mask), 1).astype(values.dtype)
    return jnp.sum(jnp.where(mask, values, 0.0)) / count


def cross_entropy(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean softmax cross-entropy over the real rows; zero without any."""
    # The gradient of picking the label's entry is a scatter, which XLA merges with the sum that
    # follows or does not, as the program around it has it: the bits would depend on the devices.
    wanted = jax.nn.one_hot(labels, logits.shape[1])
    return mean_of_rows(optax.softmax_cross_entropy(logits, wanted), mask)


def head_loss(
    params: dict[str, Any],
    statistics: dict[str, Any],
    down: Any,
    batch: Batch,
    key: jax.Array,
    round: Round,
    *,
    models: Models,
) -> tuple[jax.Array, LossInfo]:
    """Cross-entropy of the head, and nothing else."""
    del down, round
    outputs, statistics = forward(models, params, statistics, batch, key)
    loss = cross_entropy(outputs.logits, batch.labels, batch.mask)
    return loss, LossInfo(outputs, statistics, {"cross_entropy": loss})


def predict_by_head(
    client: Client, down: Any, inputs: Any, *, models: Models
) -> dict[str, jax.Array]:
    """Class scores of the private model's head alone."""
    del down
    return {"head": infer(models, client, inputs).logits}


class Method(NamedTuple):
    """A federated method.

    Closures hold what is fixed for a program (a `Setup` and the untraced settings); whatever may
    vary between runs that share one arrives as an argument, above all in `Round`.

    Attributes:
      init_server: see `InitServer`, as for all of the hooks.
      init_client: by default a client keeps its model and nothing else.
      broadcast: by default nothing is sent.
      receive: by default nothing is overwritten.
      loss: by default the head's cross-entropy.
      optimizer: by default the user's choice, which is plain SGD unless they say otherwise.
      observe: by default nothing is collected.
      upload: by default nothing is sent up.
      aggregate: by default the server stays as it is.
      predict: by default the head of the private model.
      predictor: the name of the predictor by which the method's paper classifies, the one whose
        accuracy is a result; by default the head, or where there is none the first by name.
      show: by default nothing is recorded.
      nets: by default the server has none.
      collect: what `observe` sees: the model `"after"` training, `"before"` it (both in evaluation
        mode, all samples that are trained on), `"during"` it (the training-mode outputs of every
        step, before its update), or None.
      weighting: of clients in `Received.mean`: by `"samples"`, or `"uniform"`.
      sent_to: who gets what is sent in a round: those who are `"trained"`, or `"all"`.
      rows: of `Received`: one for each of `"all"` clients, or only for those whose upload has
        `"arrived"`, in the order of their ids, then zeros up to as many as take part in a round.
        For an `aggregate` to which it makes no difference: its cost is then theirs.
      reserve: full batches of each client's first samples that are never trained on; a client that
        would be left with less than one batch reserves nothing.
      warmup: rounds at the start in which nobody trains, but all upload.
      server_steps: the most optimiser steps that the server makes in a round; only told.
      shared: the second architecture that the method needs, if any.
      heads: what models it takes: with `"any"` head, with heads whose parameters are all of one
        shape (`"equal"`), or with such heads that are `"linear"` but for dropout.
    """

    init_server: InitServer = no_server
    init_client: InitClient = model_only
    broadcast: Broadcast = no_broadcast
    receive: Receive = keep
    loss: Loss = head_loss
    optimizer: Optimizer = as_set
    observe: Observe = observe_nothing
    upload: MakeUpload = upload_nothing
    aggregate: Aggregate = no_aggregation
    predict: Predict = predict_by_head
    predictor: str = ""
    show: Show = show_nothing
    nets: Nets = show_nothing
    collect: str | None = "after"
    weighting: str = "samples"
    sent_to: str = "trained"
    rows: str = "all"
    reserve: int = 0
    warmup: int = 0
    server_steps: int = 0
    shared: Shared | None = None
    heads: str = "any"


def own_predictor(method: Method, names: Collection[str]) -> str:
    """The name of the method's own predictor, see `Method.predictor`.

    Args:
      method: whose.
      names: of all predictors that `method.predict` has.

    Raises:
      UsageError: the one that the method names is not among them.
    """
    if method.predictor and method.predictor not in names:
        raise UsageError(
            f"Method.predictor must be one of {', '.join(sorted(names))}, got {method.predictor!r}"
        )
    return method.predictor or ("head" if "head" in names else min(names))
