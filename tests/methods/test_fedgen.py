"""FedGen: two rounds against `golden_numbers`, and what can be computed by hand."""

import golden_numbers as numbers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_numbers import MODEL, Golden, check, check_trees

from protonorm_jax import methods
from protonorm_jax.methods import fedgen
from protonorm_jax.types import Batch, Client, Model, Models, Outputs

KEY = jax.random.key(0)
SETTINGS = {
    "noise_dim": 4,
    "hidden_dim": 16,
    "server_epochs": 3,
    "generator_learning_rate": 0.01,
}


def generator_of(golden, prefix, index=()):
    """A generator of the golden file: its arrays begin with `prefix`."""
    norm = {"scale": golden[f"{prefix}bn_w"][index], "bias": golden[f"{prefix}bn_b"][index]}
    return {
        "fc1": numbers.linear(golden, f"{prefix}fc1", index),
        "norm": jax.tree.map(jnp.float32, norm),
        "fc2": numbers.linear(golden, f"{prefix}fc", index),
    }


@pytest.mark.parametrize("variant", ["", "frozen"])
def test_two_rounds(variant):
    golden = Golden("fedgen", variant)
    first = fedgen.Server(golden.net("init_", 0)["params"]["head"], generator_of(golden, "gen_"))
    settings = SETTINGS | {"send_trained": not variant}
    method = numbers.build("fedgen", settings)
    labels, noise = jnp.int32(golden["gen_client_labels"]), golden["gen_client_noise"]
    trace = numbers.federate(
        golden,
        "fedgen",
        settings=settings,
        server=first,
        draws=[
            {"labels": jnp.int32(golden["gen_server_labels"][r])}
            | {"noise": jnp.float32(golden["gen_server_noise"][r])}
            for r in range(2)
        ],
        client_draws=[
            [{"labels": labels[r, i], "noise": jnp.float32(noise[r, i])} for i in range(3)]
            for r in range(2)
        ],
    )
    terms = {"loss": "loss", "loss_ce": "cross_entropy", "loss_reg": "generated_cross_entropy"}
    numbers.check_steps(golden, trace, terms)
    numbers.check_clients(golden, trace)
    for index, (server, shown) in enumerate(zip(trace.servers, trace.shown, strict=True)):
        check_trees(f"head {index}", server.head, numbers.linear(golden, "server_head", index))
        wanted = first.generator
        if not variant:  # Its first bias does not matter, see `generate`.
            wanted = generator_of(golden, "server_gen_", index)
            wanted["fc1"]["bias"] = first.generator["fc1"]["bias"]
        check_trees(f"generator {index}", server.generator, wanted)
        check("server loss", shown["server_loss"], golden["server_loss"][index].mean())
        for i, upload in enumerate(trace.uploads[index]):
            wanted = numbers.linear(golden, "client_head", (index, i))
            check_trees(f"upload {index}, {i}", upload.mean, wanted)
    for i, client in enumerate(trace.clients):
        client = method.receive(client, trace.servers[-1], Models(MODEL))
        scores = method.predict(client, (), golden["x_test"], models=Models(MODEL))
        check("logits", scores["head"], golden["eval_logits"][2, i])


def test_the_generator_normalizes_by_its_own_batch():
    """Noise (0, 1, 2) and labels (0, 0, 1); two hidden units, of which the bias does not matter.

    The first unit is u, with mean 1 and variance 2/3; the second the label, with 1/3 and 2/9.
    """
    generator = {
        "fc1": {"kernel": jnp.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]), "bias": jnp.ones(2)},
        "norm": {"scale": jnp.array([1.0, -1.0]), "bias": jnp.array([0.0, 0.5])},
        "fc2": {"kernel": jnp.array([[1.0, 0.0], [0.0, 2.0]]), "bias": jnp.array([0.0, 3.0])},
    }
    samples = fedgen.Samples(jnp.array([0, 0, 1]), jnp.array([[0.0], [1.0], [2.0]]))
    low, high = 1 / 3 / np.sqrt(2 / 9 + 1e-5), 1 / np.sqrt(2 / 3 + 1e-5)
    wanted = [[0, 3 + 2 * (low + 0.5)], [0, 3 + 2 * (low + 0.5)], [high, 3]]
    np.testing.assert_allclose(fedgen.generate(generator, samples), wanted, rtol=1e-5)
    gradient = jax.grad(lambda generator: fedgen.generate(generator, samples).sum())(generator)
    np.testing.assert_array_equal(gradient["fc1"]["bias"], [0.0, 0.0])


def build(*, num_classes=3, counts=((1, 1, 1),), **values):
    """FedGen for two features and batches of four, and a round."""
    own = {"noise_dim": 1, "hidden_dim": 2, "server_epochs": 1} | values
    row = methods.METHODS["fedgen"]
    setup = methods.Setup(num_classes, 2, len(counts), 1, 4)
    method = methods.build("fedgen", setup, vars(row.settings(**own)))
    settings = jax.tree.map(jnp.float32, row.settings(**own))
    round = methods.Round(jnp.int32(0), jnp.float32(0.1), settings, jnp.array(counts))
    return method, round


def test_labels_are_as_frequent_as_in_all_clients():
    """3 of class 0, none of class 1, 9 of class 2."""
    _, round = build(counts=((3, 0, 1), (0, 0, 8)))
    samples = fedgen.draw(KEY, round, (5, 2000), 3)
    assert samples.labels.shape == (5, 2000) and samples.noise.shape == (5, 2000, 3)
    shares = np.bincount(samples.labels.reshape(-1), minlength=3) / 10000
    np.testing.assert_allclose(shares, [0.25, 0.0, 0.75], atol=0.02)
    assert 0 <= samples.noise.min() < 0.01 and 0.99 < samples.noise.max() < 1
    nobody = round._replace(class_counts=jnp.zeros((1, 3), int))
    assert fedgen.draw(KEY, nobody, (4,), 1).labels.max() < 3


def test_the_head_learns_from_generated_features_beside_a_batch_with_padding():
    """Features are all (0, 3) as the kernels are zero; the head is in training mode with a key.

    Logits of the real rows are all alike: log 3. The generated ones are (1, 3, 0).
    """
    seen = []

    def apply(variables, inputs, train=False, *, mask=None, key=None):
        return Outputs(jnp.zeros((4, 2)), jnp.zeros((4, 3))), variables

    def classify(variables, features, *, train=False, key=None):
        seen.append((train, key is not None))
        return features @ variables["params"]["head"] + jnp.array([[1.0, 0.0, 0.0]])

    model = Model(None, apply, classify)
    method, round = build()
    round = round._replace(draws={"labels": jnp.array([0, 1, 1, 2])})
    head = jnp.array([[5.0, 5.0, 5.0], [0.0, 1.0, 0.0]])
    first = {"params": {"head": head}}
    server = jax.tree.map(jnp.zeros_like, method.init_server(KEY, Models(model), first))
    server.generator["fc2"]["bias"] = jnp.array([0.0, 3.0])
    batch = Batch(jnp.zeros((4, 1)), jnp.zeros(4, int), jnp.array([True, False, False, False]))
    given = ({"model": first["params"]}, {"model": {}}, server, batch, KEY, round)
    loss, info = method.loss(*given, models=Models(model))
    total = np.log(np.exp([1, 3, 0]).sum())
    assert float(info.terms["cross_entropy"]) == pytest.approx(np.log(3))
    assert float(info.terms["generated_cross_entropy"]) == pytest.approx(total - 7 / 4)
    assert float(loss) == pytest.approx(np.log(3) + total - 7 / 4)
    assert seen == [(True, True)]


def test_the_server_trains_the_generator_on_the_average_head():
    """One step of Adam moves every number with a gradient by the learning rate."""
    method, round = build(generator_learning_rate=0.01)
    old = {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}
    mean = {"kernel": jnp.array([[1.0, -1.0, 0.0], [0.0, 2.0, -1.0]]), "bias": jnp.ones(3)}
    server = method.init_server(KEY, None, {"params": {"head": old}})
    assert server.head is old
    received = methods.Received((), mean, jnp.ones(1, bool), jnp.ones(1, int))
    after, info = method.aggregate(KEY, server, received, round)
    assert after.head is mean
    moved = jax.tree.map(lambda new, old: new - old, after.generator, server.generator)
    np.testing.assert_allclose(np.abs(moved["fc2"]["bias"]), 0.01, rtol=1e-3)
    samples = fedgen.draw(KEY, round, (1, 4), 1)
    one = jax.tree.map(lambda leaf: leaf[0], samples)
    logits = fedgen.generate(server.generator, one) @ mean["kernel"] + 1
    entropy = -jax.nn.log_softmax(logits)[jnp.arange(4), one.labels].mean()
    assert float(info["server_loss"]) == pytest.approx(float(entropy), rel=1e-5)


def test_floats_at_the_sizes_of_the_papers():
    """C = 100, D = 512: 51,300 of the head, 331,776 of the generator."""
    values = vars(methods.METHODS["fedgen"].settings())
    method = methods.build("fedgen", methods.Setup(100, 512, 20, 1, 10), values)
    head = {"kernel": jnp.zeros((512, 100)), "bias": jnp.zeros(100)}
    server = method.init_server(KEY, None, {"params": {"head": head}})
    assert method.broadcast(server, None)[1] == 51_300 + 331_776
    client = Client({"model": {"head": head}}, {"model": {}})
    upload = method.upload(KEY, client, (), None, server, None, models=None)
    assert upload.floats == 51_300
    bounds = [np.abs(server.generator[name]["kernel"]).max() for name in ("fc1", "fc2")]
    np.testing.assert_allclose(bounds, 1 / np.sqrt([132, 512]), rtol=1e-3)
