"""The contract that every row of the table of methods keeps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from protonorm_jax import methods, models
from protonorm_jax.config import Config
from protonorm_jax.engine import evaluate
from protonorm_jax.engine.client import local_update
from protonorm_jax.errors import UsageError
from protonorm_jax.methods.method import Arrivals
from protonorm_jax.types import ClientData

NUM_CLASSES, FEATURE_DIM, NUM_CLIENTS = 5, 12, 3
CONFIG = Config(batch_size=8, feature_dim=FEATURE_DIM)


@pytest.fixture(scope="module", params=sorted(methods.METHODS))
def federation(request, small_set):
    """Two rounds of three clients of one architecture, as a jitted function of key and length.

    Class 4 is held by nobody.
    """
    method = methods.build(request.param, num_classes=NUM_CLASSES, feature_dim=FEATURE_DIM)
    model = models.build(
        "mlp", num_classes=NUM_CLASSES, feature_dim=FEATURE_DIM, image_shape=(8, 8, 1)
    )
    settings = {"learning_rate": 0.02} | {"scale": 4.0, "proximity": 1.0}
    settings = {name: jnp.float32(value) for name, value in settings.items()}
    images, labels = jnp.asarray(small_set.images), jnp.asarray(small_set.labels)
    rows = np.flatnonzero(small_set.labels < 4).astype(np.int32)
    held = np.stack([rows[client::NUM_CLIENTS][:20] for client in range(NUM_CLIENTS)])
    traces = []

    @functools.partial(jax.jit, static_argnames="padding")
    def run(key, padding=0):
        traces.append(padding)
        server = method.init_server(key)
        init = jax.vmap(lambda key: method.init_client(key, model.init(key), server))
        clients = init(jax.random.split(key, NUM_CLIENTS))
        indices = jnp.pad(held, ((0, 0), (0, padding)))
        for round_index in range(2):
            broadcast, _ = method.broadcast(server, jnp.int32(round_index), settings)

            def one(key, client, indices, broadcast=broadcast):
                data = ClientData(images, labels, indices, jnp.int32(20))
                client = method.receive(client, broadcast)
                return local_update(
                    key,
                    client,
                    broadcast,
                    data,
                    settings,
                    model=model,
                    method=method,
                    config=CONFIG,
                )

            keys = jax.random.split(jax.random.fold_in(key, round_index), NUM_CLIENTS)
            clients, uploads, info = jax.vmap(one)(keys, clients, indices)
            arrivals = Arrivals(jnp.ones(NUM_CLIENTS, bool), info["num_samples"])
            server, report = method.aggregate(key, server, uploads, arrivals, settings)
        broadcast, _ = method.broadcast(server, jnp.int32(2), settings)

        def count(client, indices):
            data = ClientData(images, labels, indices, jnp.int32(20))
            return evaluate.count_correct(
                client, broadcast, data, model=model, method=method, batch_size=16
            )

        correct = jax.vmap(count)(clients, indices)
        return {"server": server, "report": report, "correct": correct, "terms": info["terms"]}

    run.traces = traces
    return run


def test_everything_is_finite(federation):
    result = federation(jax.random.key(0))
    for name in ("server", "terms", "correct"):
        for leaf in jax.tree.leaves(result[name]):
            assert np.all(np.isfinite(leaf)), name


def test_same_key_same_bits_and_one_trace(federation):
    results = [federation(jax.random.key(seed)) for seed in (3, 3, 4)]
    jax.tree.map(np.testing.assert_array_equal, results[0], results[1])
    assert np.any(results[0]["terms"]["loss"] != results[2]["terms"]["loss"])
    assert federation.traces.count(0) == 1


def test_padding_is_a_no_op(federation):
    plain, padded = federation(jax.random.key(3)), federation(jax.random.key(3), padding=9)
    jax.tree.map(np.testing.assert_array_equal, plain, padded)


def test_seeds_can_be_vmapped(federation):
    seeds = jnp.stack([jax.random.key(3), jax.random.key(4)])
    together = jax.vmap(federation)(seeds)
    alone = federation(jax.random.key(4))
    jax.tree.map(
        lambda many, one: np.testing.assert_allclose(many[1], one, rtol=2e-3, atol=1e-4),
        (together["terms"], together["server"]),
        (alone["terms"], alone["server"]),
    )


def test_an_absent_class_stays_unknown_and_is_never_predicted(federation):
    result = federation(jax.random.key(0))
    if isinstance(result["server"], methods.prototype.Prototypes):
        np.testing.assert_array_equal(result["server"].known, [True] * 4 + [False])
        assert not np.any(result["server"].vectors[4])
    for correct in result["correct"].values():
        assert np.all((correct >= 0) & (correct <= 20))


def test_fedproto_averages_class_means_of_clients():
    """Two clients, hand-computed: the plain mean of the means, or weighted by samples."""
    sums = jnp.array([[[2.0, 4.0], [0.0, 0.0]], [[9.0, 0.0], [5.0, 5.0]]])
    counts = jnp.array([[2.0, 0.0], [3.0, 1.0]])
    uploads = methods.prototype.prototypes.ClassSums(sums, counts)
    arrivals = Arrivals(jnp.ones(2, bool), jnp.array([2, 4]))
    for weighting, first in (("uniform", [2.0, 1.0]), ("samples", [11 / 5, 4 / 5])):
        method = methods.fedproto(num_classes=2, feature_dim=2, weighting=weighting)
        server = method.init_server(jax.random.key(0))
        means, report = method.aggregate(jax.random.key(0), server, uploads, arrivals, {})
        np.testing.assert_allclose(means.vectors, [first, [5.0, 5.0]], rtol=1e-6)
        assert means.known.all() and int(report["known_classes"]) == 2


def test_a_class_without_upload_keeps_its_prototype():
    method = methods.protonorm(num_classes=3, feature_dim=4, align="none")
    uploads = methods.prototype.prototypes.ClassSums(
        jnp.zeros((1, 3, 4)).at[0, 0].set(jnp.array([0.0, 3.0, 0.0, 0.0])),
        jnp.array([[1.0, 0.0, 0.0]]),
    )
    before = methods.prototype.Prototypes(jnp.eye(3, 4), jnp.array([True, True, False]))
    arrivals = Arrivals(jnp.ones(1, bool), jnp.array([1]))
    after, _ = method.aggregate(jax.random.key(0), before, uploads, arrivals, {})
    np.testing.assert_allclose(after.vectors[:2], np.eye(3, 4)[[1, 1]], atol=1e-6)
    np.testing.assert_array_equal(after.known, [True, True, False])


def test_upscaling_multiplies_what_is_sent():
    method = methods.protonorm(num_classes=3, feature_dim=4)
    server = methods.prototype.Prototypes(jnp.eye(3, 4), jnp.ones(3, bool))
    sent, floats = method.broadcast(server, jnp.int32(0), {"scale": jnp.float32(80.0)})
    np.testing.assert_array_equal(sent.vectors, 80 * np.eye(3, 4))
    assert floats == 12


def test_unknown_method_and_option():
    sizes = {"num_classes": 3, "feature_dim": 4}
    with pytest.raises(UsageError, match=r"Config\.method must be one of .* got 'fedsgd'"):
        methods.build("fedsgd", **sizes)
    with pytest.raises(UsageError, match=r"Config\.align must be left out for method fedproto"):
        methods.build("fedproto", align="none", **sizes)
