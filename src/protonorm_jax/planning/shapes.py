"""The shapes of what a method's hooks are given and return, found without computing anything."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from protonorm_jax import keys, methods
from protonorm_jax.engine.program import Architecture, Program
from protonorm_jax.methods import descent
from protonorm_jax.methods.method import Round, Upload
from protonorm_jax.types import Batch, Client, ClientData, Dataset


class Shapes(NamedTuple):
    """What the hooks of one architecture's clients are given, as shapes.

    Attributes:
      server: the server's state.
      down: what is sent.
      floats_down: how many numbers that is; a shape if it is not known before.
      client: the state of a client.
      batch: of a step.
      data: of a client.
      round: the round.
      key: a key.
      totals: what was observed of the client's samples.
      upload: what the client sends up.
    """

    server: Any
    down: Any
    floats_down: Any
    client: Client
    batch: Batch
    data: ClientData
    round: Round
    key: jax.Array
    totals: Any
    upload: Upload


def of_hooks(program: Program, architecture: Architecture, dataset: Dataset) -> Shapes:
    """The shapes of everything that the hooks are given."""
    config, method, models = program.config, program.method, architecture.models
    size, num_clients = config.batch_size, config.num_clients

    known: list[Any] = []  # Plain numbers do not come back from `eval_shape` as such.

    def make(key: jax.Array) -> Shapes:
        first = program.architectures[program.first].models
        server = method.init_server(key, first, first.private.init(key))
        counts = jnp.zeros((num_clients, dataset.num_classes), jnp.int32)
        own = methods.settings_of(config.method, config.method_settings)
        own, chosen = jax.tree.map(jnp.float32, (own, descent.of(config)))
        round = Round(jnp.int32(0), jnp.float32(0), own, counts, descent=chosen)
        down, floats_down = method.broadcast(server, round)
        client = method.init_client(key, models.private.init(key), server, models, counts[0])
        images = (size, *dataset.images.shape[1:])
        labels, mask = jnp.zeros(size, jnp.int32), jnp.zeros(size, bool)
        batch = Batch(jnp.zeros(images), labels, mask)
        data = ClientData(jnp.zeros(images, jnp.uint8), labels, labels, jnp.int32(size))
        _, info = method.loss(
            client.params, client.statistics, down, batch, key, round, models=models
        )
        totals = method.observe(info.outputs, labels, mask) if method.collect else ()
        upload = method.upload(key, client, totals, data, down, round, models=models)
        known.extend((floats_down, upload.floats))
        return Shapes(server, down, floats_down, client, batch, data, round, key, totals, upload)

    shapes = jax.eval_shape(make, jax.eval_shape(lambda: keys.root(0)))
    down, up = (one if isinstance(one, int) else None for one in known)
    upload = shapes.upload if up is None else shapes.upload._replace(floats=up)
    return shapes._replace(floats_down=shapes.floats_down if down is None else down, upload=upload)
