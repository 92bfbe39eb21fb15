"""FD: against the golden numbers, and by hand."""

import golden_numbers as numbers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_numbers import MODEL, Golden, check

from protonorm_jax import methods
from protonorm_jax.methods import fd
from protonorm_jax.methods.shared import class_table
from protonorm_jax.methods.table import checked_settings
from protonorm_jax.types import Batch, Model, Models, Outputs, Prototypes

KEY = jax.random.key(0)
TERMS = {"loss": "loss", "loss_ce": "cross_entropy", "loss_reg": "distillation_cross_entropy"}


@pytest.mark.parametrize(
    "variant", ["raw", "softmax", "raw_partial", "softmax_partial", "softmax_ep2"]
)
def test_two_rounds(variant):
    golden = Golden("fd", variant)
    values = {"targets": variant.split("_")[0]}
    epochs = 2 if variant.endswith("ep2") else 1
    trace = numbers.federate(golden, "fd", settings=values, epochs=epochs)
    numbers.check_steps(golden, trace, TERMS)
    numbers.check_clients(golden, trace)
    for index, uploads in enumerate(trace.uploads):
        for i, upload in enumerate(uploads):
            wanted = golden["upload_logits"][index, i]
            if upload is None:
                assert np.isnan(wanted).all()
                continue
            means = class_table.class_means(upload.each)
            np.testing.assert_array_equal(upload.each.counts, golden["upload_counts"][index, i])
            np.testing.assert_array_equal(means.known, ~np.isnan(wanted).any(axis=1))
            check(f"upload {index}, {i}", means.vectors, wanted)
            assert upload.floats == 5 * means.known.sum()
        shown, wanted = trace.shown[index], golden["server_logits"][index]
        assert shown.keys() == {"logits", "known", "known_classes"}
        np.testing.assert_array_equal(shown["known"], ~np.isnan(wanted).any(axis=1))
        assert shown["known_classes"] == shown["known"].sum()
        check("logits", shown["logits"], wanted)
    method = numbers.build("fd", values)
    for i, client in enumerate(trace.clients):
        scores = method.predict(client, (), golden["x_test"], models=Models(MODEL))
        assert scores.keys() == {"head"}
        check("predictions", scores["head"], golden["eval_logits"][2, i])


LOGITS = np.array([[0.0, np.log(3)], [np.log(2), 0.0], [50.0, 0.0]], np.float32)
BATCH = Batch(jnp.zeros((3, 1)), jnp.array([0, 1, 0]), jnp.array([True, True, False]))
TABLE = Prototypes(jnp.array([[np.log(4), 0.0], [9.0, 9.0]]), jnp.array([True, False]))


def loss_of(table, **values):
    """The loss of `BATCH`, whose logits are `LOGITS`, and its terms."""

    def apply(variables, inputs, train=False, *, mask=None, key=None):
        return Outputs(jnp.zeros((3, 1)), jnp.asarray(LOGITS)), variables

    chosen = checked_settings("fd", values)
    setup = methods.Setup(num_classes=2, feature_dim=1, num_clients=2, rounds=1, batch_size=3)
    method = methods.build("fd", setup, vars(chosen))
    own = jax.tree.map(jnp.float32, chosen)
    round = methods.Round(jnp.int32(0), jnp.float32(0.1), own, jnp.ones((2, 2), jnp.int32))
    empty, models = {"model": {}}, Models(Model(None, apply))
    value, info = method.loss(empty, empty, table, BATCH, KEY, round, models=models)
    return float(value), {name: float(term) for name, term in info.terms.items()}


# Probabilities of the two real rows: (1/4, 3/4), whose class is known, and (2/3, 1/3).
ENTROPY = (np.log(4) + np.log(3)) / 2
SOFTMAX = (  # Targets (4/5, 1/5), and for the second row its own probabilities.
    (4 / 5 * np.log(4) + 1 / 5 * np.log(4 / 3)) + (2 / 3 * np.log(3 / 2) + 1 / 3 * np.log(3))
) / 2
RAW = (np.log(4) * np.log(4) + np.log(2) * np.log(3 / 2)) / 2


@pytest.mark.parametrize(
    ("targets", "wanted"), [("softmax", SOFTMAX), ("raw", RAW)], ids=["softmax", "raw"]
)
def test_the_loss_by_hand(targets, wanted):
    """The third row is padding."""
    value, terms = loss_of(TABLE, targets=targets, weight=0.5)
    assert terms["cross_entropy"] == pytest.approx(ENTROPY, rel=1e-6)
    assert terms["distillation_cross_entropy"] == pytest.approx(wanted, rel=1e-6)
    assert value == pytest.approx(ENTROPY + 0.5 * wanted, rel=1e-6)


def test_the_default_is_softmax_with_weight_one():
    assert loss_of(TABLE) == loss_of(TABLE, targets="softmax", weight=1.0)


@pytest.mark.parametrize("targets", ["softmax", "raw"])
def test_before_the_first_table_there_is_the_cross_entropy_alone(targets):
    value, terms = loss_of(TABLE._replace(known=jnp.zeros(2, bool)), targets=targets)
    assert terms["distillation_cross_entropy"] == 0
    assert value == terms["cross_entropy"]


def test_the_gradient_at_a_class_that_is_unknown():
    """With softmax none, though its entropy counts in the loss; raw (sum t) softmax(o) - t."""

    def gradient(softmax):
        def value(logits):
            return fd.distillation(logits, TABLE, BATCH, softmax=softmax)

        return np.asarray(jax.grad(value)(jnp.asarray(LOGITS)))

    np.testing.assert_allclose(gradient(True)[1], 0, atol=1e-7)
    np.testing.assert_allclose(gradient(True)[0] * 2, [1 / 4 - 4 / 5, 3 / 4 - 1 / 5], rtol=1e-5)
    wanted = np.log(2) * np.array([2 / 3, 1 / 3]) - [np.log(2), 0]
    np.testing.assert_allclose(gradient(False)[1] * 2, wanted, rtol=1e-5)
    wanted = np.log(4) * np.array([1 / 4, 3 / 4]) - [np.log(4), 0]
    np.testing.assert_allclose(gradient(False)[0] * 2, wanted, rtol=1e-5)
    for softmax in (True, False):
        np.testing.assert_array_equal(gradient(softmax)[2], 0)


def aggregate(server, sums, counts):
    method = methods.build("fd", methods.Setup(3, 8, 2, 1, 8), {"targets": "softmax"})
    server = method.init_server(KEY, None, {}) if server is None else server
    uploads = class_table.ClassSums(jnp.float32(sums), jnp.float32(counts))
    received = methods.Received(uploads, (), jnp.array([True, True]), jnp.array([1, 9]))
    return method.aggregate(KEY, server, received, None)


def test_the_server_takes_the_plain_mean_of_those_who_have_a_class():
    """Class 0: means (1, 2, 0) of two samples and (3, 0, 2) of three. Class 1: one client's."""
    none = [0.0, 0.0, 0.0]
    sums = [[[2.0, 4.0, 0.0], none, none], [[9.0, 0.0, 6.0], [5.0, 5.0, 1.0], none]]
    table, info = aggregate(None, sums, [[2, 0, 0], [3, 1, 0]])
    np.testing.assert_allclose(table.vectors, [[2, 1, 1], [5, 5, 1], none], rtol=1e-6)
    np.testing.assert_array_equal(table.known, [True, True, False])
    assert info["known_classes"] == 2
    # The next round brings a sample of class 2 alone.
    table, info = aggregate(
        table, [[none, none, [4.0, 0.0, -2.0]], [none] * 3], [[0, 0, 1], [0, 0, 0]]
    )
    np.testing.assert_allclose(table.vectors, [[2, 1, 1], [5, 5, 1], [4, 0, -2]], rtol=1e-6)
    assert table.known.all() and info["known_classes"] == 3


def test_floats_are_a_row_of_logits_for_each_class():
    """A.7: 100 x 100 down; up the client's three classes."""
    setup = methods.Setup(num_classes=100, feature_dim=512, num_clients=2, rounds=1, batch_size=8)
    method = methods.build("fd", setup, {"targets": "softmax"})
    logits, labels = jnp.ones((4, 100)), jnp.array([5, 7, 5, 9])
    totals = method.observe(Outputs(jnp.ones((4, 512)), logits), labels, jnp.ones(4, bool))
    upload = method.upload(KEY, None, totals, None, None, None, models=Models(None))
    assert upload.floats == 300 and totals.counts[5] == 2
    assert method.broadcast(method.init_server(KEY, None, {}), None)[1] == 10_000
    assert (method.collect, method.sent_to) == ("during", "trained")
