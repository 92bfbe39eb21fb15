"""FedGH: against the golden numbers, and by hand."""

import golden_numbers as numbers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_numbers import MODEL, Golden, check, check_trees

from protonorm_jax import methods
from protonorm_jax.methods.shared import class_table
from protonorm_jax.types import Client, Models, Outputs

KEY = jax.random.key(0)
SETTINGS = {"server_learning_rate": 0.05, "server_epochs": 2}


@pytest.mark.parametrize("variant", ["", "fullbatch", "tail"])
def test_two_rounds(variant):
    golden = Golden("fedgh", variant)
    arguments = {"draws": [{"order": jnp.int32(order)} for order in golden["gh_order"]]}
    if variant == "fullbatch":  # The order does not matter, so ours will do.
        arguments = {"batch_size": 16}
    trace = numbers.federate(golden, "fedgh", settings=SETTINGS, **arguments)
    numbers.check_steps(golden, trace, {"loss": "loss"})
    numbers.check_clients(golden, trace)
    for index, uploads in enumerate(trace.uploads):
        for i, upload in enumerate(uploads):
            means = class_table.class_means(upload.each)
            wanted = golden["upload_protos"][index, i]
            np.testing.assert_array_equal(means.known, ~np.isnan(wanted).any(axis=1))
            check(f"upload {index}, {i}", means.vectors, wanted)
            assert upload.floats == 8 * means.known.sum()
        head = numbers.linear(golden, "server_head", index)
        check_trees(f"server {index}", trace.servers[index], head)
        last = np.nanmean(golden["server_loss"][index, -1])
        check("server loss", trace.shown[index]["server_loss"], last)
    method = numbers.build("fedgh", SETTINGS)
    for i, client in enumerate(trace.clients):
        client = method.receive(client, trace.servers[-1], Models(MODEL))
        scores = method.predict(client, (), golden["x_test"], models=Models(MODEL))
        assert scores.keys() == {"head"}
        check("predictions", scores["head"], golden["eval_logits"][2, i])


def aggregate(server, sums, counts, **values):
    """One round of the server: two classes, two numbers, learning rate 1, batches of two."""
    chosen = {"server_learning_rate": 1.0, "server_epochs": 1} | values
    method = methods.build("fedgh", methods.Setup(2, 2, 2, 1, 2), chosen)
    own = jax.tree.map(jnp.float32, methods.settings_of("fedgh", chosen))
    round = methods.Round(jnp.int32(0), jnp.float32(9.0), own, jnp.ones((2, 2), jnp.int32))
    uploads = class_table.ClassSums(jnp.float32(sums), jnp.float32(counts))
    received = methods.Received(uploads, (), jnp.array([True, True]), jnp.array([1, 9]))
    head, info = method.aggregate(KEY, server, received, round)
    return jax.device_get(head), float(info["server_loss"])


ZERO = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
NONE = [0.0, 0.0]


def test_a_step_of_the_server_by_hand():
    """Means (2, 0) of class 0, of three samples, and (0, 4) of class 1, of one: they count alike.

    Both classes have probability 1/2 by a head of zeros. The gradient of a pair is its mean times
    (-1/2, 1/2) or the negative; the batch has two. The clients' learning rate plays no part.
    """
    sums, counts = [[[6.0, 0.0], NONE], [NONE, [0.0, 4.0]]], [[3, 0], [0, 1]]
    head, loss = aggregate(ZERO, sums, counts)
    np.testing.assert_allclose(head["kernel"], [[0.5, -0.5], [-1.0, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(head["bias"], [0, 0], atol=1e-7)
    assert loss == pytest.approx(np.log(2), rel=1e-6)
    slower, _ = aggregate(ZERO, sums, counts, server_learning_rate=0.25)
    np.testing.assert_allclose(slower["kernel"], head["kernel"] / 4, rtol=1e-6)
    # A second epoch goes on from there; its loss is the one reported.
    twice, loss = aggregate(ZERO, sums, counts, server_epochs=2)
    wrong = [1 / (1 + np.exp(2)), 1 / (1 + np.exp(8))]
    assert loss == pytest.approx(-np.log1p(-np.array(wrong)).mean(), rel=1e-5)
    np.testing.assert_allclose(
        twice["kernel"] - head["kernel"],
        [[wrong[0], -wrong[0]], [-2 * wrong[1], 2 * wrong[1]]],
        rtol=1e-3,
    )


def test_without_a_single_class_mean_the_head_stays():
    """Uploads arrive, but of clients that have no batch."""
    head = {"kernel": jnp.arange(4.0).reshape(2, 2), "bias": jnp.ones(2)}
    after, loss = aggregate(head, [[NONE, NONE]] * 2, [[0, 0]] * 2)
    jax.tree.map(np.testing.assert_array_equal, after, head)
    assert loss == 0


def test_who_does_not_take_part_is_sent_the_head_all_the_same():
    golden = Golden("fedgh")
    present = [[True, True, True], [True, True, False]]
    whole, half = (
        numbers.federate(golden, "fedgh", participants=takes_part)
        for takes_part in (np.ones((2, 3), bool), present)
    )
    absent = half.clients[2].params["model"]
    check_trees("head", absent["head"], half.servers[0])
    check_trees("server", whole.servers[0], half.servers[0])
    first = golden.net("client_", (0, 2))["params"]
    check_trees("base", absent["base"], first["base"])


def test_floats_are_class_means_up_and_a_head_down():
    """A.7's 51,300 for 100 classes and 512 features; up the client's three classes."""
    setup = methods.Setup(num_classes=100, feature_dim=512, num_clients=2, rounds=1, batch_size=8)
    method = methods.build("fedgh", setup, SETTINGS)
    features, labels = jnp.ones((4, 512)), jnp.array([5, 7, 5, 9])
    totals = method.observe(Outputs(features, jnp.ones((4, 100))), labels, jnp.ones(4, bool))
    upload = method.upload(KEY, None, totals, None, None, None, models=Models(None))
    assert upload.floats == 3 * 512
    head = {"kernel": jnp.zeros((512, 100)), "bias": jnp.zeros(100)}
    server = method.init_server(KEY, None, {"params": {"base": jnp.ones(9), "head": head}})
    down, floats = method.broadcast(server, None)
    assert floats == 51_300
    own = Client({"model": {"base": jnp.ones(9), "head": None}}, {"model": {"mean": jnp.ones(7)}})
    after = method.receive(own, down, Models(None))
    assert after.params["model"]["head"] is head and after.statistics is own.statistics
