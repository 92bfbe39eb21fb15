"""What is counted right, part by part, in one pass."""

import jax.numpy as jnp
import numpy as np
import pytest

from protonorm_jax import methods
from protonorm_jax.engine import evaluate
from protonorm_jax.types import Client, ClientData

SETUP = methods.Setup(3, 4, 2, 1, 4)


def predicts_brightness(client, down, inputs, *, models):
    """The class is the brightness; nothing is known of images that are black."""
    level = jnp.round((inputs[:, 0, 0, 0] + 1) * 127.5)
    scores = -((level[:, None] - 10.0 - jnp.arange(3.0)[None, :]) ** 2)
    unknown = jnp.where(level[:, None] == 0, -jnp.inf, scores)
    return {"bright": unknown, "first": jnp.zeros_like(scores).at[:, 0].set(1.0)}


@pytest.mark.parametrize("batch_size", [1, 3, 4, 64])
@pytest.mark.parametrize(
    ("counts", "bright", "first"),
    [
        ([7], [3], [4]),
        ([3, 4], [2, 1], [2, 2]),
        ([0, 7], [0, 3], [0, 4]),
        ([2, 0, 5], [1, 0, 2], [2, 0, 2]),
        ([1, 1, 0], [1, 0, 0], [1, 1, 0]),
        ([0, 0], [0, 0], [0, 0]),
    ],
)
def test_right_predictions_are_counted_in_the_part_they_stand_in(counts, bright, first, batch_size):
    """Of rows 6, 0, 2, 5, 1, 3, 4 of which the first, third and sixth are recognised."""
    labels = np.array([0, 0, 2, 1, 0, 1, 0], np.int32)
    images = np.zeros((7, 1, 1, 1), np.uint8)
    images[:, 0, 0, 0] = [12, 11, 12, 11, 0, 10, 10]
    rows = np.append([6, 0, 2, 5, 1, 3, 4], [2, 3]).astype(np.int32)  # The last two are padding.
    method = methods.build("local", SETUP, {})._replace(predict=predicts_brightness)
    data = ClientData(
        jnp.asarray(images), jnp.asarray(labels), jnp.asarray(rows), jnp.int32(sum(counts))
    )
    found = evaluate.count_correct(
        Client({}, {}),
        (),
        data,
        jnp.asarray(counts, jnp.int32),
        models=None,
        method=method,
        batch_size=batch_size,
    )
    assert found["bright"].tolist() == bright
    assert found["first"].tolist() == first
    assert found["bright"].dtype == jnp.int32
