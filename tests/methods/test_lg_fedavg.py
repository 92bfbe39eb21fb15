"""LG-FedAvg: against the golden numbers, and by hand."""

import golden_numbers as numbers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_numbers import MODEL, Golden, check, check_trees

from protonorm_jax import loop, methods
from protonorm_jax.types import Client, Model, Models, Outputs, linear_classify

KEY = jax.random.key(0)


@pytest.mark.parametrize("variant", ["", "partial", "tail"])
def test_two_rounds(variant):
    golden = Golden("lg_fedavg", variant)
    trace = numbers.federate(golden, "lg_fedavg")
    numbers.check_steps(golden, trace, {"loss": "loss"})
    numbers.check_clients(golden, trace)
    for index, uploads in enumerate(trace.uploads):
        head = numbers.linear(golden, "server_head", index)
        check_trees(f"server {index}", trace.servers[index], head)
        for i, upload in enumerate(uploads):
            if upload is not None:
                wanted = numbers.linear(golden, "client_head", (index, i))
                check_trees(f"upload {index}, {i}", upload.mean, wanted)
    method = numbers.build("lg_fedavg", {})
    for i, client in enumerate(trace.clients):
        client = method.receive(client, trace.servers[-1], Models(MODEL))
        scores = method.predict(client, (), golden["x_test"], models=Models(MODEL))
        check("logits", scores["head"], golden["eval_logits"][2, i])


def apply(variables, images, train=False, *, mask=None, key=None):
    """A linear model with a shift before it: features are the shifted images."""
    features = images + variables["params"]["base"].reshape(1, -1)
    return Outputs(features, linear_classify(variables, features)), variables


def client(head, *pairs):
    """A client with one batch, whose head is full of one number."""
    params = {"base": jnp.zeros(2), "head": {"kernel": jnp.full((2, 2), head)}}
    params["head"]["bias"] = jnp.zeros(2)
    images, labels = zip(*pairs, strict=True)
    batches = [(np.float32(images), np.array(labels))]
    return Model(None, apply), {"params": params, "batch_stats": {}}, batches


def run(clients, participants):
    sizes = {"num_classes": 2, "feature_dim": 2, "rounds": len(participants)}
    return loop.federate(
        "lg_fedavg", clients, learning_rate=0.5, participants=participants, **sizes
    )


def test_a_round_by_hand():
    """From a head of zeros, that of client 0, both classes have probability 1/2.

    The gradient at a sample x of class 0 is x (-1/2, 1/2) and of class 1 the negative; half of it
    is subtracted. Clients weigh 1 and 3 samples; the third is absent, but is sent the head.
    """
    first = client(0.0, ([1.0, 0.0], 0))
    second = client(7.0, *[([0.0, 2.0], 1)] * 3)
    third = client(9.0, ([1.0, 1.0], 0))
    trace = run([first, second, third], [[True, True, False]])
    heads = [upload.mean for upload in trace.uploads[0][:2]]
    np.testing.assert_allclose(heads[0]["kernel"], [[0.25, -0.25], [0, 0]])
    np.testing.assert_allclose(heads[0]["bias"], [0.25, -0.25])
    np.testing.assert_allclose(heads[1]["kernel"], [[0, 0], [-0.5, 0.5]])
    np.testing.assert_allclose(heads[1]["bias"], [-0.25, 0.25])
    np.testing.assert_allclose(trace.losses[0][1], np.log(2), rtol=1e-6)
    mean = trace.servers[0]
    np.testing.assert_allclose(mean["kernel"], [[0.0625, -0.0625], [-0.375, 0.375]])
    np.testing.assert_allclose(mean["bias"], [-0.125, 0.125])
    absent = trace.clients[2].params["model"]
    np.testing.assert_array_equal(absent["head"]["kernel"], np.zeros((2, 2)))
    np.testing.assert_array_equal(absent["base"], np.zeros(2))


def test_a_head_of_several_layers_travels_whole_and_alone():
    """Neither the rest of the model nor running statistics, by whatever name, are touched."""
    head = {"fc1": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}, "fc2": jnp.ones((3, 2))}
    own = Client({"model": {"base": jnp.ones(5), "head": head}}, {"model": {"head": jnp.ones(7)}})
    method = numbers.build("lg_fedavg", {})
    models = Models(Model(None, apply))
    upload = method.upload(KEY, own, (), None, None, None, models=models)
    assert upload.mean is head and upload.floats == 12 + 3 + 6
    server = method.init_server(KEY, models, {"params": own.params["model"]})
    down, floats = method.broadcast(jax.tree.map(jnp.zeros_like, server), None)
    assert floats == upload.floats
    after = method.receive(own, down, models)
    check_trees("head", after.params["model"]["head"], jax.tree.map(jnp.zeros_like, head))
    np.testing.assert_array_equal(after.params["model"]["base"], np.ones(5))
    assert after.statistics is own.statistics and own.params["model"]["head"] is head


def test_floats_are_those_of_the_head():
    """A.7's 51,300 for 100 classes and 512 features."""
    setup = methods.Setup(num_classes=100, feature_dim=512, num_clients=2, rounds=1, batch_size=8)
    method = methods.build("lg_fedavg", setup, {})
    head = {"kernel": jnp.zeros((512, 100)), "bias": jnp.zeros(100)}
    own = Client({"model": {"base": jnp.ones(9), "head": head}}, {"model": {}})
    upload = method.upload(KEY, own, (), None, None, None, models=Models(None))
    assert upload.floats == method.broadcast(head, None)[1] == 51_300
    assert (method.weighting, method.sent_to) == ("samples", "all")
