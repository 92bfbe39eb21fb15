"""FedKD: golden numbers, a loss and a compression by hand, and where both could divide by zero."""

import golden_numbers as numbers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_numbers import MENTEE, MODEL, Golden, check, check_trees

from protonorm_jax import methods
from protonorm_jax.methods import fedkd
from protonorm_jax.methods.shared import averages, low_rank, mentee
from protonorm_jax.methods.table import checked_settings
from protonorm_jax.types import Batch, Client, Model, Models, Outputs

KEY = jax.random.key(0)
ALL = {"low_rank": "all", "mentee_learning_rate": 0.05}
# The energies of `docenergy` are those of one round later.
CASES = {
    "": ALL,
    "dense": {"mentee_learning_rate": 0.05},
    "docenergy": ALL | {"energy_start": 0.965, "energy_end": 0.995},
}
TERMS = {
    "loss": "private_loss",
    "loss_mentee": "mentee_loss",
    "ce": "cross_entropy",
    "ce_mentee": "mentee_cross_entropy",
    "mse_hidden": "feature_mse",
}


def federate(golden, settings, **arguments):
    """The trace of a variant; every client has a projection of its own."""
    shared = golden.net("mentee_", layers=MENTEE)
    states = []
    for i, kernel in enumerate(golden["kd_Wh"]):
        params = {"model": golden.net("init_", i)["params"], "shared": shared["params"]}
        projection = {"kernel": jnp.float32(kernel.T)}
        statistics = {"model": {}, "shared": {}, "projection": {}}
        states.append(Client(params | {"projection": projection}, statistics))
    server = fedkd.Server(shared, jnp.int32(0), states[0].params["projection"])
    given = {"settings": settings, "server": server, "states": states} | arguments
    return numbers.federate(golden, "fedkd", shared=(MODEL, shared), **given)


@pytest.mark.parametrize("variant", CASES)
def test_two_rounds(variant):
    golden = Golden("fedkd", variant)
    trace = federate(golden, CASES[variant])
    numbers.check_steps(golden, trace, TERMS)
    numbers.check_clients(golden, trace)
    for i, client in enumerate(trace.clients):
        own = golden.net("client_", (1, i), MENTEE)["params"]
        check_trees(f"mentee {i}", client.params["shared"], own)
        check("projection", client.params["projection"]["kernel"], golden["client_Wh"][1, i].T)
    for index, server in enumerate(trace.servers):
        for i, upload in enumerate(trace.uploads[index]):
            wanted = golden.net("upload_", (index, i), MENTEE)
            check_trees(f"upload {index}, {i}", upload.mean, wanted)
            assert upload.floats == golden["upload_floats"][index, i]
        check_trees(f"server {index}", server.mentee, golden.net("server_", index, MENTEE))
        assert server.floats == golden["server_floats"][index]
        check("energy", trace.shown[index]["energy"], golden["energy"][index])
    method, both = numbers.build("fedkd", {}), Models(MODEL, MODEL)
    for i, client in enumerate(trace.clients):
        client = method.receive(client, trace.servers[-1].mentee, both)
        scores = method.predict(client, (), golden["x_test"], models=both)
        check("logits", scores["head"], golden["eval_logits"][2, i])
        wanted, _ = numbers.apply(golden.net("server_", 1, MENTEE), golden["x_test"])
        check("mentee's logits", scores["mentee"], wanted.logits)


def test_who_does_not_take_part_is_sent_the_mentee_all_the_same():
    takes_part = np.array([[True, True, True], [True, True, False]])
    trace = federate(Golden("fedkd"), {}, participants=takes_part)
    sent = trace.servers[0].mentee["params"]
    jax.tree.map(np.testing.assert_array_equal, trace.clients[2].params["shared"], sent)


def build(*, feature_dim=2, rounds=1, **values):
    """The method for three classes, and its first round; learning rate 0.1."""
    setup = methods.Setup(3, feature_dim, 2, rounds, 8)
    settings = checked_settings("fedkd", values)
    own = jax.tree.map(jnp.float32, settings)
    round = methods.Round(jnp.int32(0), jnp.float32(0.1), own, jnp.ones((2, 3), jnp.int32))
    return methods.build("fedkd", setup, vars(settings)), round


def fixed_model(features, logits):
    """A model whose parameters are what it says of every batch."""

    def apply(variables, inputs, train=False, *, mask=None, key=None):
        return Outputs(**variables["params"]), variables

    params = {"features": jnp.array(features), "logits": jnp.array(logits)}
    return Model(lambda key: {"params": params, "batch_stats": {}}, apply)


def gradient(private, shared, kernel, labels, mask):
    """The loss, its terms and its gradient at what two models say."""
    method, round = build()
    models = Models(private, shared)
    nets = {"model": private, "shared": shared}
    params = {name: net.init(KEY)["params"] for name, net in nets.items()}
    params["projection"] = {"kernel": jnp.array(kernel)}
    statistics = {"model": {}, "shared": {}, "projection": {}}
    batch = Batch(jnp.zeros((len(labels), 1)), jnp.array(labels), jnp.array(mask))

    def loss(params):
        return method.loss(params, statistics, {}, batch, KEY, round, models=models)

    (value, info), slope = jax.value_and_grad(loss, has_aux=True)(params)
    return value, info.terms, slope


def test_what_models_teach_each_other_is_divided_by_how_wrong_they_are():
    """(KL + MSE) / (CE + CE), with KL a mean over batch and classes. The last row is padding."""
    o = np.array([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0], [9.0, 9.0, 0.0]])
    g = np.array([[0.0, 0.0, 1.0], [1.0, 1.0, -2.0], [0.0, 7.0, 0.0]])
    features = [[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]
    kernel = [[0.0, 2.0], [1.0, 0.0]]
    # The mentee's features (a, b) become (b, 2 a).
    private, shared = fixed_model(features, o), fixed_model([[1.0, 2.0], [2.0, 3.0], [0, 0]], g)
    value, terms, _ = gradient(private, shared, kernel, [0, 1, 2], [True, True, False])

    def log_softmax(x):
        return x - np.log(np.exp(x).sum(1, keepdims=True))

    def entropy(x):
        return -log_softmax(x)[[0, 1], [0, 1]].mean()

    def divergence(target, x):
        p, q = log_softmax(target)[:2], log_softmax(x)[:2]
        return (np.exp(p) * (p - q)).mean()

    distance = ((1 - 2) ** 2 + (2 - 2) ** 2 + (3 - 3) ** 2 + (4 - 4) ** 2) / 4
    doubt = entropy(o) + entropy(g)
    wanted = {
        "feature_mse": distance,
        "private_loss": entropy(o) + (divergence(g, o) + distance) / doubt,
        "mentee_loss": entropy(g) + (divergence(o, g) + distance) / doubt,
    }
    for name, number in wanted.items():
        assert float(terms[name]) == pytest.approx(number, rel=1e-5)
    assert float(value) == pytest.approx(wanted["private_loss"] + wanted["mentee_loss"], rel=1e-5)


def test_models_that_are_never_wrong_have_finite_gradients():
    """Both cross-entropies are zero, the features differ; and a batch without a row."""
    sure = [[50.0, 0.0, 0.0]]
    nets = fixed_model([[1.0, 2.0]], sure), fixed_model([[3.0, 0.0]], sure)
    for mask in ([True], [False]):
        value, terms, slope = gradient(*nets, np.eye(2), [0], mask)
        assert terms["cross_entropy"] == terms["mentee_cross_entropy"] == 0
        for leaf in jax.tree.leaves((value, slope)):
            assert np.isfinite(leaf).all()
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(slope))


def test_every_net_has_its_learning_rate_and_is_clipped_by_itself():
    """A norm of 20 becomes 10, one of 5 stays; the mentee's learning rate is a tenth."""
    method, round = build(mentee_learning_rate=0.01)
    slope = {
        "model": {"w": jnp.array([12.0, 16.0])},
        "shared": {"w": jnp.array([12.0, 16.0])},
        "projection": {"w": jnp.array([3.0, 4.0])},
    }
    optimizer = method.optimizer(round)
    updates, _ = optimizer.update(slope, optimizer.init(slope), slope)
    np.testing.assert_allclose(updates["model"]["w"], [-0.6, -0.8], rtol=1e-5)
    np.testing.assert_allclose(updates["shared"]["w"], [-0.06, -0.08], rtol=1e-5)
    np.testing.assert_allclose(updates["projection"]["w"], [-0.3, -0.4], rtol=1e-5)


def test_all_clients_start_with_the_servers_mentee_and_projection():
    method, round = build(feature_dim=16)
    first = fixed_model(np.zeros((1, 16)), np.zeros((1, 3)))
    models = Models(first, first)
    server = method.init_server(KEY, models, first.init(KEY))
    assert method.broadcast(server, round)[1] == 16 + 3
    clients = [
        method.init_client(key, first.init(key), server, models, jnp.ones(3, jnp.int32))
        for key in jax.random.split(KEY, 2)
    ]
    for client in clients:
        assert client.params["projection"] is server.projection
        assert client.params["shared"] is server.mentee["params"]
    kernel = server.projection["kernel"]
    assert kernel.shape == (16, 16) and 0.2 < np.abs(kernel).max() <= 0.25


def compressed(matrix, energy, which="all"):
    nearest, floats = low_rank.truncate(jnp.float32(matrix), jnp.float32(energy), which=which)
    return np.asarray(nearest), int(floats)


@pytest.mark.parametrize(
    ("energy", "rank"), [(0.5, 1), (0.65, 2), (0.92, 2), (0.94, 3), (0.999, 3), (1.0, 3)]
)
def test_the_rank_is_the_least_with_more_than_the_energy(energy, rank):
    """Singular values 3, 2, 1: energies 9, 4, 1 of 14, together 0.643, 0.929, 1."""
    values = np.zeros((4, 3))
    values[[2, 0, 1], [0, 1, 2]] = [2.0, -3.0, 1.0]
    wanted = np.where(np.abs(values) >= [0, 3, 2, 1][rank], values, 0)
    for matrix, cut in ((values, wanted), (values.T, wanted.T)):
        nearest, floats = compressed(matrix, energy)
        np.testing.assert_allclose(nearest, cut, atol=1e-6)
        assert floats == rank * (4 + 3 + 1)


@pytest.mark.parametrize("shape", [(12, 8), (5, 12), (30, 30), (200, 10)])
@pytest.mark.parametrize("energy", [0.5, 0.8, 0.95])
def test_it_is_the_truncated_singular_value_decomposition(shape, energy):
    matrix = np.random.default_rng(1).normal(size=shape)
    left, values, right = np.linalg.svd(np.float32(matrix).astype(float), full_matrices=False)
    shares = np.cumsum(values**2) / np.sum(values**2)
    rank = np.sum(shares <= energy) + 1
    nearest, floats = compressed(matrix, energy)
    check("nearest", nearest, (left[:, :rank] * values[:rank]) @ right[:rank])
    assert floats == rank * (sum(shape) + 1)


def test_eigenvalues_that_rounding_takes_below_zero_are_no_energy(monkeypatch):
    """All of the energy takes all ranks then, too."""
    values = jnp.array([10.0, -1e-3, -1e-3])
    monkeypatch.setattr(low_rank, "spectrum", lambda gram: (values, jnp.eye(3)))
    matrix = jnp.arange(15.0).reshape(5, 3)
    nearest, floats = low_rank.truncate(matrix, jnp.float32(1.0), which="all")
    np.testing.assert_allclose(nearest, matrix)
    assert floats == 3 * (5 + 3 + 1)


def test_a_matrix_goes_whole_where_a_lower_rank_takes_as_many_numbers():
    matrix = jnp.array([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    nearest, floats = low_rank.truncate(matrix, jnp.float32(0.5))
    np.testing.assert_array_equal(nearest, matrix)
    assert floats == 1 * (3 + 2 + 1) == matrix.size
    nearest, floats = low_rank.truncate(matrix, jnp.float32(0.5), which="all")
    np.testing.assert_allclose(nearest, [[3, 0], [0, 0], [0, 0]], atol=1e-6)
    assert floats == 6


def test_a_matrix_goes_whole_where_a_lower_rank_takes_more_numbers():
    """Rank 1 of 20 x 30 takes 51 numbers, rank 11 of 561 fewer than 600, rank 12 more."""
    rng = np.random.default_rng(2)
    assert compressed(np.outer(rng.normal(size=20), rng.normal(size=30)), 0.9, "smaller")[1] == 51
    for rank, wanted in ((11, 561), (12, 600)):
        matrix = np.zeros((20, 30))
        matrix[range(rank), range(rank)] = 1.0
        matrix[rank, rank] = 0.01
        nearest, floats = compressed(matrix, 1 - 0.5 / rank, "smaller")
        assert floats == wanted
        assert nearest[rank, rank] == (np.float32(0.01) if rank == 12 else 0)


def test_a_matrix_of_zeros_goes_whole_and_so_does_one_that_is_not_finite():
    nearest, floats = compressed(np.zeros((20, 30)), 0.5)
    assert floats == 600 and not np.any(nearest)
    for rubbish in (np.nan, np.inf, 1e30):
        matrix = np.ones((20, 30), np.float32)
        matrix[3, 4] = rubbish
        nearest, floats = compressed(matrix, 0.5)
        np.testing.assert_array_equal(nearest, matrix)
        assert floats == 600


def test_a_kernel_is_one_matrix_of_windows_and_outputs():
    """As `[out, in * height * width]` in PyTorch. Biases and statistics stay as they are."""
    rng = np.random.default_rng(3)
    kernel = rng.normal(size=(3, 3, 4, 6)).astype(np.float32)
    variables = {
        "params": {"conv": {"kernel": jnp.array(kernel), "bias": jnp.arange(6.0)}},
        "batch_stats": {"mean": jnp.arange(5.0)},
    }
    sent, floats = low_rank.compress(variables, jnp.float32(0.6), which="all")
    left, values, right = np.linalg.svd(
        kernel.transpose(3, 2, 0, 1).reshape(6, 36), full_matrices=False
    )
    rank = np.sum(np.cumsum(values**2) / np.sum(values**2) <= 0.6) + 1
    assert 1 < rank < 6
    wanted = ((left[:, :rank] * values[:rank]) @ right[:rank]).reshape(6, 4, 3, 3)
    check("kernel", sent["params"]["conv"]["kernel"], wanted.transpose(2, 3, 1, 0))
    assert sent["params"]["conv"]["bias"] is variables["params"]["conv"]["bias"]
    assert sent["batch_stats"]["mean"] is variables["batch_stats"]["mean"]
    assert floats == rank * (36 + 6 + 1) + 6 + 5


def test_matrices_of_a_batch_are_decomposed_one_by_one():
    batch = jnp.float32(np.random.default_rng(4).normal(size=(2, 3, 20, 10)))

    def one(matrix):
        return low_rank.truncate(matrix, jnp.float32(0.7))

    nearest, floats = jax.jit(jax.vmap(jax.vmap(one)))(batch)
    for index in np.ndindex(2, 3):
        alone, size = one(batch[index])
        np.testing.assert_allclose(nearest[index], alone, atol=1e-5)
        assert floats[index] == size and size.dtype == jnp.int32
    # A batch at once would block XLA's threads on CPU; see `contract/test_decompositions.py`.
    assert "scan" in str(jax.make_jaxpr(jax.vmap(low_rank.spectrum))(jnp.zeros((2, 3, 3))))


def test_the_energy_grows_over_the_rounds_and_the_server_compresses_the_mean():
    """Of diag(3, 2, 1), whose first holds 9/14 = 0.643: rank 1 at 0.6, rank 2 at 0.7."""
    method, round = build(feature_dim=3, rounds=2, low_rank="all", energy_start=0.6, energy_end=0.8)
    mean = {"params": {"kernel": jnp.diag(jnp.array([3.0, 2.0, 1.0]))}, "batch_stats": {}}
    arrived = methods.Received((), mean, jnp.ones(2, bool), jnp.ones(2, jnp.int32))
    server = fedkd.Server(mean, jnp.int32(9), {"kernel": jnp.eye(3)})
    for index, energy, kept in ((0, 0.6, [3.0, 0.0, 0.0]), (1, 0.7, [3.0, 2.0, 0.0])):
        here = round._replace(index=jnp.int32(index))
        after, info = method.aggregate(KEY, server, arrived, here)
        assert float(info["energy"]) == pytest.approx(energy)
        kernel = after.mentee["params"]["kernel"]
        np.testing.assert_allclose(kernel, np.diag(kept), atol=1e-6)
        assert method.broadcast(after, here) == (after.mentee, after.floats)
        assert after.floats == np.count_nonzero(kept) * 7 and after.projection is server.projection


def test_an_upload_counts_what_is_sent_of_the_mentee_alone():
    """A layer of rank 1, its bias and a running mean: 20 + 30 + 1, 30 and 4 numbers."""
    method, round = build(energy_start=0.9)
    rng = np.random.default_rng(5)
    kernel = jnp.float32(np.outer(rng.normal(size=20), rng.normal(size=30)))
    layer = {"kernel": kernel, "bias": jnp.ones(30)}
    client = Client(
        {"model": {"w": jnp.ones((9, 9))}, mentee.SHARED: layer, "projection": jnp.eye(2)},
        {"model": {}, mentee.SHARED: {"mean": jnp.ones(4)}, "projection": {}},
    )
    upload = method.upload(KEY, client, (), None, {}, round, models=Models(MODEL, MODEL))
    assert upload.floats == 51 + 30 + 4 and method.weighting == "uniform"
    check("kernel", upload.mean["params"]["kernel"], kernel)
    assert averages.num_floats(upload.mean) == 600 + 30 + 4
