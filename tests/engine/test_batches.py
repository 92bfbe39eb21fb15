"""Sums over a client's samples batch by batch, and the predictions that are counted so."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from protonorm_jax.engine import batches, evaluate, lockstep
from protonorm_jax.methods.method import Method
from protonorm_jax.types import Client, ClientData, Images, Models, take

VALUES = np.random.default_rng(0).integers(1, 9, (20, 3)).astype(np.float32)
LABELS = np.arange(20, dtype=np.int32) % 4
ROWS = np.random.default_rng(1).permutation(20)[:11].astype(np.int32)


def data_of(count, rows=ROWS):
    return ClientData(jnp.array(VALUES), jnp.array(LABELS), jnp.array(rows), jnp.int32(count))


@pytest.mark.parametrize(
    ("length", "size", "padded"), [(0, 3, 3), (1, 3, 3), (3, 3, 3), (4, 3, 6), (7, 1, 7)]
)
def test_indices_are_padded_with_zeros_to_whole_batches_and_at_least_one(length, size, padded):
    indices = jnp.arange(1, 2 * length + 1).reshape(2, length)
    result = batches.pad(indices, size)
    wanted = np.zeros((2, padded))
    wanted[:, :length] = indices
    np.testing.assert_array_equal(result, wanted)
    np.testing.assert_array_equal(batches.pad(indices[1], size), wanted[1])


def test_images_are_taken_alike_as_rows_of_numbers_and_in_their_shape():
    images = np.random.default_rng(2).integers(0, 256, (20, 4, 5, 3), np.uint8)
    rows, mask = jnp.array([3, 0, 19]), jnp.array([True, True, False])
    data = ClientData(Images.of(images), jnp.array(LABELS), jnp.array(ROWS), jnp.int32(3))
    assert data.inputs.pixels.shape == (20, 60)
    batch = jax.jit(take)(data, rows, mask)
    np.testing.assert_allclose(batch.inputs, images[[3, 0, 19]] / 127.5 - 1, atol=1e-6)
    other = jax.jit(take)(data._replace(inputs=images), rows, mask)
    jax.tree.map(np.testing.assert_array_equal, batch, other)


def sums(batch, constants, places):
    """Of the real rows: values times a constant, labels, places, and how many of each batch."""
    real = batch.mask.astype(jnp.float32)
    return {
        "values": constants["factor"] * (real @ batch.inputs),
        "labels": jnp.sum(jnp.where(batch.mask, batch.labels, 0)),
        "places": jnp.sum(jnp.where(batch.mask, places**2, 0)),
        "rows": jnp.stack([jnp.sum(batch.mask), batch.mask.size]),
    }


@pytest.mark.parametrize("size", [1, 4, 5, 16])
def test_every_sample_of_a_client_counts_once_and_no_other(size):
    """Whether the batch divides their number, or is larger; what is behind them is left out."""
    function = functools.partial(batches.total, sums, batch_size=size)
    total = jax.jit(lambda data, factor: function(data, {"factor": factor}))
    for count in (0, 1, 4, 8, 11):
        result = total(data_of(count), 3.0)
        own = ROWS[:count]
        np.testing.assert_array_equal(result["values"], 3 * VALUES[own].sum(0))
        assert result["labels"] == LABELS[own].sum()
        assert result["places"] == sum(place**2 for place in range(count))
        np.testing.assert_array_equal(result["rows"], [count, -(-count // size) * size])


def test_a_batch_is_traced_once_though_its_shapes_are_asked_for():
    """Alone, and side by side with others."""
    traced = []

    def function(batch, constants, places):
        traced.append("batch")
        return sums(batch, {"factor": constants}, places)["values"]

    def total(rows, count, repeat=lockstep.repeat):
        return batches.total(function, data_of(count, rows), 2.0, batch_size=2, repeat=repeat)

    rows, counts = ROWS[:10].reshape(2, 5), jnp.array([3, 4])
    jax.jit(total).trace(rows[0], counts[0])
    assert traced == ["batch"]
    narrowing = functools.partial(lockstep.repeat, widths=(2, 1))
    several = jax.jit(jax.vmap(functools.partial(total, repeat=narrowing)))
    several.trace(rows, counts)
    assert traced == ["batch"] * 2
    wanted = [2 * VALUES[rows[0, :3]].sum(0), 2 * VALUES[rows[1, :4]].sum(0)]
    np.testing.assert_array_equal(several(rows, counts), wanted)


def scores_of(client, down, inputs, *, models):
    """Two predictors: the largest value, and that of the client's weights on what was sent."""
    del models
    known = jnp.where(inputs[:, :1] > 2, 0.0, -jnp.inf)
    return {"plain": inputs, "known": inputs * client.params[None] + down[None] + known}


METHOD = Method(predict=scores_of)


@pytest.mark.parametrize("parts", [[11], [3, 0, 6, 2], [0, 4, 0]])
@pytest.mark.parametrize("size", [4, 32])
def test_right_predictions_are_counted_by_part(parts, size):
    """Parts of unequal sizes, empty ones too, which no batch divides; rows of -inf are wrong."""
    weights, down = np.float32([1, -1, 2]), np.float32([0.5, 9, 0])
    count = jax.jit(
        functools.partial(
            evaluate.count_correct, models=Models(None), method=METHOD, batch_size=size
        )
    )
    result = count(Client(weights, {}), down, data_of(sum(parts)), jnp.array(parts))
    own = ROWS[: sum(parts)]
    known = VALUES[own] * weights + down
    right = {
        "plain": VALUES[own].argmax(1) == LABELS[own],
        "known": (known.argmax(1) == LABELS[own]) & (VALUES[own][:, 0] > 2),
    }
    ends = np.cumsum(parts)
    for name, hits in right.items():
        wanted = [hits[end - part : end].sum() for part, end in zip(parts, ends, strict=True)]
        np.testing.assert_array_equal(result[name], wanted)
        assert result[name].dtype == jnp.int32
