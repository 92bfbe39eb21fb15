"""Training on class means by the server, against a plain loop; who has which class differs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from protonorm_jax import methods
from protonorm_jax.methods.shared import server_training
from protonorm_jax.methods.shared.class_table import ClassSums

# Three clients, two classes: client 0 has class 1 alone, client 1 both, client 2 none.
COUNTS = np.float32([[0, 2], [1, 4], [0, 0]])
MEANS = np.float32([[[9, 9, 9], [1, 2, 3]], [[4, 0, 0], [0, 1, 5]], [[9, 9, 9], [9, 9, 9]]])
UPLOADS = ClassSums(MEANS * COUNTS[..., None], COUNTS)
VECTORS, LABELS = np.float32([[1, 2, 3], [4, 0, 0], [0, 1, 5]]), [1, 0, 1]
KEY = jax.random.key(4)


def round_of(**draws):
    return methods.Round(jnp.int32(0), jnp.float32(0.1), (), jnp.ones((3, 2)), draws)


def test_the_means_that_exist_come_first_by_client_and_class():
    pairs = server_training.pairs_of(UPLOADS)
    assert pairs.num_pairs == 3 and pairs.vectors.shape == (6, 3)
    np.testing.assert_allclose(pairs.vectors[:3], VECTORS)
    assert (
        pairs.labels[:3].tolist() == LABELS and sorted(pairs.labels.tolist()) == [0] * 3 + [1] * 3
    )


def test_orders_are_drawn_for_each_epoch_and_existing_pairs_come_first():
    pairs = server_training.pairs_of(UPLOADS)
    orders = np.asarray(server_training.orders_of(KEY, pairs, 40, round_of()))
    assert orders.shape == (40, 6)
    np.testing.assert_array_equal(np.sort(orders), [range(6)] * 40)
    np.testing.assert_array_equal(np.sort(orders[:, :3]), [range(3)] * 40)
    assert len({tuple(order) for order in orders[:, :3]}) == 6
    given = jnp.array([[2, 0, 1], [1, 2, 0]])
    orders = server_training.orders_of(KEY, pairs, 2, round_of(order=given))
    np.testing.assert_array_equal(orders, [[2, 0, 1, 5, 5, 5], [1, 2, 0, 5, 5, 5]])


@pytest.mark.parametrize(("size", "steps"), [(1, 15), (4, 4), (5, 3), (14, 2), (15, 1), (99, 1)])
def test_the_most_steps_are_those_of_all_clients_with_all_classes(size, steps):
    setup = methods.Setup(num_classes=3, feature_dim=2, num_clients=5, rounds=9, batch_size=size)
    assert server_training.most_steps(setup, 7) == 7 * steps


def loss(net, vectors, labels, mask):
    """Half the squared distance to the net's vector of the label, a mean over real rows."""
    squares = jnp.sum(jnp.square(net[labels] - vectors), axis=1) / 2
    return jnp.sum(jnp.where(mask, squares, 0)) / jnp.maximum(jnp.sum(mask), 1)


def plainly(size, orders):
    net, losses = np.zeros((2, 3)), []
    for order in orders:
        losses = []
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            away = net[[LABELS[row] for row in rows]] - VECTORS[rows]
            losses.append((away**2).sum() / 2 / len(rows))
            for row, one in zip(rows, away, strict=True):
                net[LABELS[row]] -= 0.5 * one / len(rows)
    return net, np.mean(losses)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_every_pair_is_trained_on_once_an_epoch_in_its_order(size):
    """With batches that divide their number, do not, and are larger than all there are."""
    pairs = server_training.pairs_of(UPLOADS)
    orders = [[2, 0, 1], [1, 2, 0], [0, 1, 2]]
    net, last = server_training.train(
        *(KEY, jnp.zeros((2, 3)), pairs, loss, optax.sgd(0.5), round_of(order=jnp.array(orders))),
        epochs=3,
        batch_size=size,
    )
    wanted, loss_of_last = plainly(size, orders)
    np.testing.assert_allclose(net, wanted, rtol=1e-5)
    assert float(last) == pytest.approx(loss_of_last, rel=1e-5)


def test_without_a_pair_nothing_is_trained():
    pairs = server_training.pairs_of(jax.tree.map(jnp.zeros_like, UPLOADS))
    arguments = (KEY, jnp.ones((2, 3)), pairs, loss, optax.sgd(0.5), round_of())
    net, last = server_training.train(*arguments, epochs=2, batch_size=2)
    np.testing.assert_array_equal(net, np.ones((2, 3)))
    assert float(last) == 0
