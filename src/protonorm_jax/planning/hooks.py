"""A method's hooks as functions of one pytree, `Shapes` of what they are given, to be traced."""

from typing import Any

import jax
import jax.numpy as jnp

from protonorm_jax.methods.method import Method, Received, infer
from protonorm_jax.planning.shapes import Shapes
from protonorm_jax.types import Models


def with_batch(given: Shapes, size: int) -> Shapes:
    """The same with a batch of so many samples, as where nothing is trained."""

    def resized(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype)

    return given._replace(batch=jax.tree.map(resized, given.batch))


def optimizer(given: Shapes, *, method: Method) -> Any:
    """The state of a client's optimiser before the first step."""
    return method.optimizer(given.round).init(given.client.params)


def observe(given: Shapes, *, method: Method, models: Models) -> Any:
    """What is observed of a batch."""
    outputs = infer(models, given.client, given.batch.inputs)
    return method.observe(outputs, given.batch.labels, given.batch.mask)


def predict(given: Shapes, *, method: Method, models: Models) -> Any:
    """The scores of a batch."""
    return method.predict(given.client, given.down, given.batch.inputs, models=models)


def upload(given: Shapes, *, method: Method, models: Models) -> Any:
    """What a client sends."""
    rest = (given.totals, given.data, given.down, given.round)
    return method.upload(given.key, given.client, *rest, models=models)


def aggregate(given: Shapes, *, method: Method, num_rows: int) -> Any:
    """What the server makes of so many rows of uploads."""
    each = jax.tree.map(
        lambda leaf: jnp.zeros((num_rows, *jnp.shape(leaf)), leaf.dtype), given.upload.each
    )
    arrived, samples = jnp.zeros(num_rows, bool), jnp.zeros(num_rows, jnp.int32)
    received = Received(each, given.upload.mean, arrived, samples)
    return method.aggregate(given.key, given.server, received, given.round)
