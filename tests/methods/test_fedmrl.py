"""FedMRL: golden numbers, its loss by hand, and what belongs to whom."""

import golden_numbers as numbers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_numbers import MENTEE, MODEL, Golden, check, check_trees

from protonorm_jax import methods
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.methods import fedmrl
from protonorm_jax.methods.table import checked_settings
from protonorm_jax.planning import plan
from protonorm_jax.types import Batch, Client, Model, Models, Outputs

KEY = jax.random.key(0)
CASES = {"": {"mentee_dim": 4}, "frozenproj": {"mentee_dim": 4, "projection": "reset"}}
TERMS = {"loss": "loss", "loss_ce": "cross_entropy", "loss_ce_mentee": "mentee_cross_entropy"}


@pytest.mark.parametrize("variant", CASES)
def test_two_rounds(variant):
    golden, settings = Golden("fedmrl", variant), CASES[variant]
    shared = golden.net("mrl_", layers=MENTEE)
    states = []
    for i in range(3):
        projection = numbers.linear(golden, "mrl_proj", i)
        params = {"model": golden.net("init_", i)["params"], "shared": shared["params"]}
        first = projection if variant == "frozenproj" else {}
        statistics = {"model": {}, "shared": {}, "projection": first}
        states.append(Client(params | {"projection": projection}, statistics))
    server = fedmrl.Server(shared, states[0].params["projection"])
    trace = numbers.federate(
        golden, "fedmrl", settings=settings, server=server, states=states, shared=(MODEL, shared)
    )
    numbers.check_steps(golden, trace, TERMS)
    numbers.check_clients(golden, trace)
    for index, server in enumerate(trace.servers):
        for i, upload in enumerate(trace.uploads[index]):
            wanted = golden.net("upload_", (index, i), MENTEE)
            check_trees(f"upload {index}, {i}", upload.mean, wanted)
            assert upload.floats == (12 + 1) * 4 + (4 + 1) * 5
        check_trees(f"server {index}", server.mentee, golden.net("server_", index, MENTEE))
    method, both = numbers.build("fedmrl", settings), Models(MODEL, MODEL)
    for i, client in enumerate(trace.clients):
        client = method.receive(client, trace.servers[-1].mentee, both)
        own = numbers.linear(golden, "client_proj", (1, i))
        check_trees(f"projection {i}", client.params["projection"], own)
        scores = method.predict(client, (), golden["x_test"], models=both)
        check("logits", scores["head"], golden["eval_logits"][2, i])
        assert scores.keys() == {"head"}


def build(*, feature_dim=2, **values):
    """The method for three classes, and its first round; learning rate 0.1."""
    setup = methods.Setup(3, feature_dim, 2, 1, 8)
    settings = checked_settings("fedmrl", values)
    own = jax.tree.map(jnp.float32, settings)
    round = methods.Round(jnp.int32(0), jnp.float32(0.1), own, jnp.ones((2, 3), jnp.int32))
    return methods.build("fedmrl", setup, vars(settings)), round


def fixed_model(features, head, calls):
    """A model of these features, whose head multiplies; `calls` gets what the head is told."""

    def apply(variables, inputs, train=False, *, mask=None, key=None):
        statistics = {"seen": mask.sum()} if train else variables["batch_stats"]
        logits = jnp.full((len(features), 3), jnp.nan)  # Nobody may want these.
        return Outputs(jnp.array(features), logits), {**variables, "batch_stats": statistics}

    def classify(variables, features, *, train=False, key=None):
        calls.append((train, key))
        return features @ variables["params"]["head"]

    variables = {"params": {"head": jnp.array(head)}, "batch_stats": {"seen": jnp.int32(0)}}
    return Model(lambda key: variables, apply, classify)


def example():
    """A client of two models with D = 2 and d = 1, and what its features become.

    The projection maps the mentee's e and the private (f1, f2) to (f1 + 2 e, f2 - e + 1).
    """
    calls = []
    features = [[1.0, 2.0], [0.0, -1.0], [5.0, 5.0]]
    private = fixed_model(features, [[1.0, 0.0, 0.0], [0.0, 1.0, -1.0]], calls)
    shared = fixed_model([[0.5], [-1.0], [7.0]], [[1.0, 2.0, -1.0]], calls)
    projection = {
        "kernel": jnp.array([[2.0, -1.0], [1.0, 0.0], [0.0, 1.0]]),
        "bias": jnp.array([0.0, 1.0]),
    }
    nets = {"model": private.init(KEY), "shared": shared.init(KEY)}
    params = {name: net["params"] for name, net in nets.items()} | {"projection": projection}
    statistics = {name: net["batch_stats"] for name, net in nets.items()} | {"projection": {}}
    merged = np.array([[2.0, 2.5], [-2.0, 1.0]])
    return Client(params, statistics), Models(private, shared), merged, calls


def test_the_first_numbers_are_for_the_shared_head_and_all_are_for_the_private_one():
    """The last row is padding."""
    client, models, merged, _ = example()
    method, round = build(mentee_dim=1)
    batch = Batch(jnp.zeros((3, 1)), jnp.array([0, 1, 2]), jnp.array([True, True, False]))
    loss, info = method.loss(*client, {}, batch, KEY, round, models=models)

    def entropy(logits):
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return -np.log(shares[[0, 1], [0, 1]]).mean()

    own = entropy(merged @ [[1, 0, 0], [0, 1, -1]])
    shared = entropy(merged[:, :1] @ [[1, 2, -1]])
    assert float(info.terms["cross_entropy"]) == pytest.approx(own, rel=1e-5)
    assert float(info.terms["mentee_cross_entropy"]) == pytest.approx(shared, rel=1e-5)
    assert float(loss) == pytest.approx(own + shared, rel=1e-5)
    np.testing.assert_allclose(info.outputs.features[:2], merged, rtol=1e-6)
    assert info.statistics["model"]["seen"] == info.statistics["shared"]["seen"] == 2


def test_heads_drop_out_in_training_and_not_in_predictions():
    client, models, merged, calls = example()
    method, round = build(mentee_dim=1)
    batch = Batch(jnp.zeros((3, 1)), jnp.array([0, 1, 2]), jnp.ones(3, bool))
    method.loss(*client, {}, batch, KEY, round, models=models)
    assert all(train for train, _ in calls)
    one, other = (jax.random.key_data(key) for _, key in calls)
    assert not np.array_equal(one, other)
    calls.clear()
    scores = method.predict(client, {}, batch.inputs, models=models)["head"]
    assert calls == [(False, None)]
    np.testing.assert_allclose(scores[:2], merged @ [[1, 0, 0], [0, 1, -1]], rtol=1e-6)


@pytest.mark.parametrize(
    ("feature_dim", "given", "used"), [(512, 0, 128), (3, 0, 1), (8, 5, 5), (8, 8, 8)]
)
def test_the_mentees_features_are_a_quarter_unless_told_otherwise(feature_dim, given, used):
    method, _ = build(feature_dim=feature_dim, mentee_dim=given)
    assert method.shared == methods.Shared(feature_dim=used)
    first = fixed_model(np.zeros((1, feature_dim)), np.zeros((feature_dim, 3)), [])
    server = method.init_server(KEY, Models(first, first), first.init(KEY))
    kernel, bias = server.projection["kernel"], server.projection["bias"]
    assert kernel.shape == (used + feature_dim, feature_dim) and bias.shape == (feature_dim,)
    bound = (used + feature_dim) ** -0.5
    assert 0.5 * bound < np.abs(kernel).max() <= bound and 0 < np.abs(bias).max() <= bound


def test_more_features_than_the_private_models_have_are_refused(small_set):
    message = r"^fedmrl\.mentee_dim must be <= feature_dim \(8\), got 9$"
    with pytest.raises(UsageError, match=message):
        build(feature_dim=8, mentee_dim=9)
    config = Config(method="fedmrl", feature_dim=8, method_settings={"mentee_dim": 9})
    with pytest.raises(UsageError, match=message):
        plan.make([config.replace(num_clients=4, partition="iid")], small_set)


@pytest.mark.parametrize("projection", ["kept", "reset"])
def test_the_mentee_is_overwritten_and_the_projection_only_if_it_is_reset(projection):
    client, models, _, _ = example()
    method, round = build(mentee_dim=1, projection=projection)
    first = models.private.init(KEY)
    server = method.init_server(KEY, models, first)
    start = method.init_client(KEY, first, server, models, jnp.ones(3, jnp.int32))
    assert start.params["projection"] is server.projection
    statistics = start.statistics | {"shared": {"seen": jnp.int32(7)}}
    trained = Client(client.params, statistics)
    down, floats = method.broadcast(server, round)
    assert floats == 3 + 1 and down is server.mentee
    after = method.receive(trained, down, models)
    assert after.params["shared"] is server.mentee["params"]
    assert after.statistics["shared"] is server.mentee["batch_stats"]
    assert after.params["model"] is client.params["model"]
    wanted = client.params["projection"] if projection == "kept" else server.projection
    jax.tree.map(np.testing.assert_array_equal, after.params["projection"], wanted)


def test_the_mentee_alone_travels_and_all_clients_weigh_the_same():
    """Its head and its running statistics, 3 numbers and 1."""
    client, models, _, _ = example()
    method, round = build(mentee_dim=1)
    upload = method.upload(KEY, client, (), None, {}, round, models=models)
    assert upload.floats == 3 + 1 and method.weighting == "uniform"
    assert upload.mean["params"] is client.params["shared"]
    server = fedmrl.Server({}, client.params["projection"])
    arrived = methods.Received((), upload.mean, jnp.ones(2, bool), jnp.array([1, 9]))
    after, _ = method.aggregate(KEY, server, arrived, round)
    assert after.mentee is upload.mean and after.projection is server.projection
    assert method.nets(after) == {"mentee": upload.mean}
