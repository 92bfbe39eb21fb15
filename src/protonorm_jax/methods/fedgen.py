"""FedGen: heads also learn from features that a generator makes, which the server trains."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from protonorm_jax import settings
from protonorm_jax.methods.method import (
    LossInfo,
    Method,
    Received,
    Round,
    Setup,
    cross_entropy,
    forward,
    variables_of,
)
from protonorm_jax.methods.shared import averages, heads, linear
from protonorm_jax.types import Batch, Client, Models, Variables, linear_classify


@settings.group
class Settings:
    """Of FedGen."""

    noise_dim: int = settings.setting(
        32,
        "length of the generator's noise (the reference code's default is 512)",
        least=1,
        probe=(4, 8),
    )
    hidden_dim: int = settings.setting(
        512, "units in the generator's hidden layer", least=1, probe=(16, 32)
    )
    generator_learning_rate: float = settings.setting(
        0.1,
        "of the server, for the generator (the reference code's default is 0.005)",
        traced=True,
        above=0,
        tune=settings.between(0.001, 1, log=True),
    )
    server_epochs: int = settings.setting(
        100, "steps that the server trains the generator each round", least=1, probe=(2, 5)
    )
    send_trained: bool = settings.setting(
        True,
        "whether clients are sent the generator as the server has trained it, or always the first "
        "one, from which the server starts again",
        probe=(True, False),
        reference=False,
    )


class Server(NamedTuple):
    """The server's state, all of which is sent.

    Attributes:
      head: `{"kernel": [D, C], "bias": [C]}`.
      generator: `{"fc1": {"kernel": [noise_dim + C, hidden_dim], "bias": [hidden_dim]}, "norm":
        {"scale": [hidden_dim], "bias": [hidden_dim]}, "fc2": {"kernel": [hidden_dim, D], "bias":
        [D]}}`.
    """

    head: Any
    generator: Any


class Samples(NamedTuple):
    """What features are generated from.

    Attributes:
      labels: `[..., B]` int32.
      noise: `[..., B, noise_dim]`.
    """

    labels: jax.Array
    noise: jax.Array


def init_generator(key: jax.Array, inputs: int, hidden: int, outputs: int) -> Any:
    """Draws a generator."""
    first, last = jax.random.split(key)
    return {
        "fc1": linear.draw(first, inputs, hidden),
        "norm": {"scale": jnp.ones(hidden), "bias": jnp.zeros(hidden)},
        "fc2": linear.draw(last, hidden, outputs),
    }


def generate(generator: Any, samples: Samples) -> jax.Array:
    """Features `[B, D]`: linear, batch norm by the batch's own statistics, ReLU, linear.

    The batch norm takes the first layer's bias away again. Its gradient is zero, of which rounding
    would leave something that Adam makes whole steps of; so none is taken.
    """
    fc1, norm, fc2 = generator["fc1"], generator["norm"], generator["fc2"]
    num_labels = fc1["kernel"].shape[0] - samples.noise.shape[1]
    inputs = jnp.concatenate([samples.noise, jax.nn.one_hot(samples.labels, num_labels)], axis=1)
    hidden = inputs @ fc1["kernel"] + jax.lax.stop_gradient(fc1["bias"]).reshape(1, -1)
    centred = hidden - jnp.mean(hidden, axis=0, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=0, keepdims=True)
    normal = centred * jax.lax.rsqrt(variance + 1e-5)
    hidden = jax.nn.relu(normal * norm["scale"].reshape(1, -1) + norm["bias"].reshape(1, -1))
    return hidden @ fc2["kernel"] + fc2["bias"].reshape(1, -1)


def draw(key: jax.Array, round: Round, shape: tuple[int, ...], noise_dim: int) -> Samples:
    """Labels as frequent as in the training samples of all clients, and noise between 0 and 1.

    The draws `labels` and `noise` take their places where they are given.

    Args:
      key: consumed.
      round: of the federation.
      shape: of the labels.
      noise_dim: length of the noise.
    """
    label_key, noise_key = jax.random.split(key)

    def labels() -> jax.Array:
        ends = jnp.cumsum(jnp.sum(round.class_counts, axis=0))
        numbers = jax.random.randint(label_key, shape, 0, ends[-1])
        return jnp.searchsorted(ends[:-1], numbers, side="right").astype(jnp.int32)

    return Samples(
        round.drawn("labels", labels),
        round.drawn("noise", lambda: jax.random.uniform(noise_key, (*shape, noise_dim))),
    )


def fedgen(setup: Setup, fixed: Settings) -> Method:
    """Clients' heads also learn from features that a generator of the server makes.

    Every client goes on from the server's head. With B labels z, drawn from the label counts of all
    clients, and noise u, both anew in every step, its loss is `CE(h(f(x)), y) + CE(h(G(u, z)), z)`;
    it trains its model alone, and uploads the head. The server then takes `server_epochs` steps of
    Adam, which starts anew in every round, on `CE(sum_i (n_i / n) h_i(G(u, z)), z)` by G. As heads
    are linear, the average of their outputs is the output of the average head, which the server
    sends next, and it needs no single one of them. (Dropout before a head is applied on clients and
    not on the server.) The first head is client 0's; head and generator are sent to all clients in
    every round.

    Source: FedGen (arXiv:2105.10056) as HtFLlib has it. There the trained generator is thrown away
    in every round (`send_trained=False`). The paper adds a term for diverse features, a divergence
    on the clients, and weights that decay.
    """
    size, num_classes, noise_dim = setup.batch_size, setup.num_classes, fixed.noise_dim

    def entropy_of(logits: jax.Array, samples: Samples) -> jax.Array:
        return cross_entropy(logits, samples.labels, jnp.ones(size, bool))

    def init_server(key: jax.Array, models: Models, first: Variables) -> Server:
        generator = init_generator(
            key, noise_dim + num_classes, fixed.hidden_dim, setup.feature_dim
        )
        return Server(heads.init_server(key, models, first), generator)

    def loss(
        params: dict[str, Any],
        statistics: dict[str, Any],
        down: Server,
        batch: Batch,
        key: jax.Array,
        round: Round,
        *,
        models: Models,
    ) -> tuple[jax.Array, LossInfo]:
        model_key, head_key, draw_key = jax.random.split(key, 3)
        outputs, statistics = forward(models, params, statistics, batch, model_key)
        entropy = cross_entropy(outputs.logits, batch.labels, batch.mask)
        samples = draw(draw_key, round, (size,), noise_dim)
        logits = models.private.classify(
            variables_of(Client(params, statistics)),
            generate(down.generator, samples),
            train=True,
            key=head_key,
        )
        generated = entropy_of(logits, samples)
        terms = {"cross_entropy": entropy, "generated_cross_entropy": generated}
        return entropy + generated, LossInfo(outputs, statistics, terms)

    def aggregate(
        key: jax.Array, server: Server, received: Received, round: Round
    ) -> tuple[Server, dict[str, jax.Array]]:
        optimizer = optax.adam(round.settings.generator_learning_rate)

        def loss(generator: Any, samples: Samples) -> jax.Array:
            features = generate(generator, samples)
            logits = linear_classify({"params": {"head": received.mean}}, features)
            return entropy_of(logits, samples)

        def step(carry: Any, samples: Samples) -> tuple[Any, jax.Array]:
            generator, state = carry
            value, gradient = jax.value_and_grad(loss)(generator, samples)
            updates, state = optimizer.update(gradient, state, generator)
            return (optax.apply_updates(generator, updates), state), value

        samples = draw(key, round, (fixed.server_epochs, size), noise_dim)
        start = (server.generator, optimizer.init(server.generator))
        (generator, _), losses = jax.lax.scan(step, start, samples)
        kept = generator if fixed.send_trained else server.generator
        return Server(received.mean, kept), {"server_loss": jnp.mean(losses)}

    return Method(
        init_server=init_server,
        broadcast=averages.broadcast,
        receive=lambda client, down, models: heads.receive(client, down.head, models),
        loss=loss,
        upload=averages.upload_of(lambda client: client.params["model"]["head"]),
        aggregate=aggregate,
        nets=lambda server: {"head": server.head, "generator": server.generator},
        collect=None,
        sent_to="all",
        heads="linear",
        server_steps=fixed.server_epochs,
    )
