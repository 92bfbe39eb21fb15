"""FedL2G: two rounds against `golden_numbers`, and what can be computed by hand."""

import flax.linen as nn
import golden_numbers as numbers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_numbers import MODEL, Golden, check

from protonorm_jax import methods, models
from protonorm_jax.errors import UsageError
from protonorm_jax.methods import fedl2g
from protonorm_jax.models import layers, registry
from protonorm_jax.types import (
    Batch,
    Client,
    ClientData,
    Model,
    Models,
    Outputs,
    linear_classify,
)

KEY = jax.random.key(0)


@pytest.mark.parametrize("variant", ["", pytest.param("warm1", marks=pytest.mark.large)])
@pytest.mark.parametrize("guide", ["feature", "logit"])
def test_two_rounds(guide, variant):
    """Batches of four, of which the first is for the quiz."""
    short = {"feature": "feat", "logit": "logit"}[guide]
    golden = Golden(f"fedl2g_{short}", variant)
    settings = {"guide": guide, "warmup": 1 if variant else 0, "server_learning_rate": 10.0}
    first = jnp.float32(golden[f"l2g_V_{short}"])
    # Steps have rows of what is handed in, too, though they do not look at them.
    study = jnp.pad(jnp.int32(golden["l2g_study_idx"]), ((0, 0), (0, 0), (0, 1)))
    trace = numbers.federate(
        golden,
        "fedl2g",
        size=4,
        settings=settings,
        server=first,
        client_draws=[[{"study": one} for one in clients] for clients in study],
    )
    terms = {"loss": "loss", "loss_ce": "cross_entropy", "loss_reg": "guide_mse"}
    numbers.check_steps(golden, trace, terms)
    numbers.check_clients(golden, trace)
    for index, (uploads, shown) in enumerate(zip(trace.uploads, trace.shown, strict=True)):
        for i, upload in enumerate(uploads):
            wanted = np.nan_to_num(golden["upload_grad"][index, i])
            scale = np.abs(wanted).max()  # They are small.
            check(f"upload {index}, {i}", upload.each / scale, wanted / scale)
            rows = ~np.isnan(golden["upload_grad"][index, i, :, 0])
            np.testing.assert_array_equal(np.any(upload.each != 0, axis=1), rows)
            assert int(upload.floats) == rows.sum() * wanted.shape[1]
        before = first if index == 0 else trace.shown[index - 1]["guides"]
        moved = (before - shown["guides"]) / 10
        np.testing.assert_allclose(moved, golden["server_grad"][index], atol=1e-7)
        norm = np.linalg.norm(golden["server_grad"][index])
        assert float(shown["guide_gradient_norm"]) == pytest.approx(norm, rel=1e-4)
        check("guides", shown["guides"], golden["server_V"][index])
    for i, client in enumerate(trace.clients):
        method = numbers.build("fedl2g", settings)
        scores = method.predict(client, (), golden["x_test"], models=Models(MODEL))
        check("logits", scores["head"], golden["eval_logits"][2, i])


def build(*, guide="feature", num_classes=3, feature_dim=2, size=4, rounds=1, **values):
    """FedL2G and a round."""
    row = methods.METHODS["fedl2g"]
    own = row.settings(guide=guide, **values)
    setup = methods.Setup(num_classes, feature_dim, 2, rounds, size)
    counts = jnp.ones((2, num_classes), jnp.int32)
    settings = jax.tree.map(jnp.float32, own)
    round = methods.Round(jnp.int32(0), jnp.float32(0.5), settings, counts)
    return methods.build("fedl2g", setup, vars(own)), round


@pytest.mark.parametrize(("guide", "squares"), [("feature", 9 + 16 + 1), ("logit", 4 + 4 + 1)])
def test_the_loss_pulls_to_the_guiding_vector_of_the_label(guide, squares):
    """Two real rows. Features are (3, 5) and (1, 1) away from (0, 1), (1, 0); logits zero."""
    features, logits = jnp.array([[3.0, 5.0], [1.0, 1.0], [9.0, 9.0]]), jnp.zeros((3, 3))
    model = Model(None, lambda variables, *_, **__: (Outputs(features, logits), variables))
    method, round = build(guide=guide)
    targets = {
        "feature": jnp.array([[0.0, 1.0], [1.0, 0.0], [7.0, 7.0]]),
        "logit": jnp.array([[0.0, 2.0, 2.0], [1.0, 0.0, 0.0], [7.0, 7.0, 7.0]]),
    }[guide]
    batch = Batch(jnp.zeros((3, 1)), jnp.array([0, 1, 2]), jnp.array([True, True, False]))
    given = ({"model": {}}, {"model": {}}, targets, batch, KEY, round)
    loss, info = method.loss(*given, models=Models(model))
    mean = squares / (2 * targets.shape[1])
    assert float(info.terms["guide_mse"]) == pytest.approx(mean)
    assert float(loss) == pytest.approx(np.log(3) + mean)


@pytest.mark.parametrize(("gradient", "wanted"), [([60.0, 80.0], 50.0), ([600.0, 800.0], 50.0)])
def test_gradients_are_clipped_to_a_norm_of_100(gradient, wanted):
    """SGD with learning rate 0.5."""
    method, round = build()
    params = {"model": {"w": jnp.array(gradient)}}
    optimizer = method.optimizer(round)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert float(jnp.linalg.norm(updates["model"]["w"])) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("large", [1.0, 100.0])
def test_the_server_averages_what_was_sent_for_each_class(large):
    """Class 0 is sent by both clients, class 1 by one, class 2 by none; a step of 10.

    The means are (2, 4) and (4, 0), of norm 6, or a hundred times that, which is clipped.
    """
    method, round = build(server_learning_rate=10.0)
    sent = jnp.array([[[1.0, 8.0], [4.0, 0.0], [0.0, 0.0]], [[3.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    received = methods.Received(large * sent, (), jnp.ones(2, bool), jnp.array([1, 9]))
    guides, info = method.aggregate(KEY, jnp.ones((3, 2)), received, round)
    mean = np.array([[2.0, 4.0], [4.0, 0.0], [0.0, 0.0]])
    step = mean if large == 1 else mean * 100 / 6
    np.testing.assert_allclose(guides, 1 - 10 * step, rtol=1e-5)
    assert float(info["guide_gradient_norm"]) == pytest.approx(6 * large)
    assert int(info["guided_classes"]) == 2


class Normed(nn.Module):
    """A convolution and batch norm, which know no forward-mode differentiation."""

    @nn.compact
    def __call__(self, x, context):
        return layers.global_average(nn.relu(layers.conv_norm(x, context, 6, "conv", "norm")))


def plain(params, batch):
    """The same net in training mode, of stock operations: features and logits."""
    x = jax.lax.conv_general_dilated(
        *(batch.inputs, params["base"]["conv"]["kernel"], (1, 1), "SAME"),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    real = x[np.flatnonzero(batch.mask)]
    x = (x - real.mean((0, 1, 2), keepdims=True)) / jnp.sqrt(
        real.var((0, 1, 2), keepdims=True) + 1e-5
    )
    norm = params["base"]["norm"]
    x = x * norm["scale"].reshape(1, 1, 1, -1) + norm["bias"].reshape(1, 1, 1, -1)
    features = nn.relu(x).mean((1, 2))
    return features, linear_classify({"params": params}, features)


def entropy_of(params, batches):
    """The mean over batches of the mean over their real rows."""
    losses = []
    for batch in batches:
        real = np.flatnonzero(batch.mask)
        logs = jax.nn.log_softmax(plain(params, batch)[1])
        losses.append(-logs[real, batch.labels[real]].mean())
    return sum(losses) / len(losses)


@pytest.fixture
def client(monkeypatch):
    """A model with batch norm, a client of 14 samples and rubbish behind them, guiding vectors."""
    monkeypatch.setitem(registry.ARCHITECTURES, "normed", registry.Architecture(Normed))
    net = models.build("normed", num_classes=3, feature_dim=6, image_shape=(4, 4, 1))
    variables = net.init(jax.random.key(1))
    generator = np.random.default_rng(0)
    data = ClientData(
        jnp.float32(generator.normal(size=(30, 4, 4, 1))),
        jnp.int32(generator.integers(0, 3, 30)),
        jnp.int32(generator.permutation(30)[:20]),
        jnp.int32(14),
    )
    own = Client({"model": variables["params"]}, {"model": variables["batch_stats"]})
    return Models(net), own, data, jnp.float32(generator.normal(size=(3, 6)))


@pytest.mark.large
def test_the_upload_is_the_gradient_of_the_quiz_by_the_guiding_vectors(client):
    """In closed form, with x of label c in study batch j of b_j samples, and D = 6:

    `dQ/dv_c = rate sum_j 2 / (2 b_j D) sum_x J(x) grad Q(virtual)`, where J is the Jacobian of the
    features of x by the parameters. The first two batches of four are for the quiz; of the two
    study batches, the last has two samples.
    """
    both, own, data, guides = client
    method, round = build(feature_dim=6, study_batches=2, quiz_batches=2)
    order = jnp.array([9, 12, 8, 13, 10, 11])
    given = round._replace(draws={"study": order})
    upload = method.upload(KEY, own, (), data, guides, given, models=both)

    def batch(positions):
        rows = data.indices[jnp.array(positions)]
        mask = jnp.arange(4) < len(positions)
        rows = jnp.pad(rows, (0, 4 - len(positions)))
        return Batch(data.inputs[rows], data.labels[rows], mask)

    study, quiz = [batch(order[:4]), batch(order[4:])], [batch([0, 1, 2, 3]), batch([4, 5, 6, 7])]

    def study_loss(params):
        squares = [
            jnp.square(plain(params, one)[0] - guides[one.labels])[np.flatnonzero(one.mask)].mean()
            for one in study
        ]
        return entropy_of(params, study) + sum(squares) / 2

    params = own.params["model"]
    virtual = jax.tree.map(lambda p, g: p - 0.5 * g, params, jax.grad(study_loss)(params))
    slope = jax.grad(entropy_of)(virtual, quiz)
    wanted = np.zeros((3, 6))
    for one, count in zip(study, (4, 2), strict=True):
        moved = jax.jvp(lambda params, one=one: plain(params, one)[0], (params,), (slope,))[1]
        for label, row in zip(one.labels[:count], moved[:count], strict=True):
            wanted[label] += 0.5 * 2 / (2 * count * 6) * np.asarray(row)
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(upload.each / scale, wanted / scale, atol=1e-5)
    assert int(upload.floats) == 6 * len(np.unique(data.labels[data.indices[order]]))


def test_the_upload_does_not_depend_on_what_is_behind_the_samples(client):
    both, own, data, guides = client
    method, round = build(feature_dim=6, study_batches=2)
    other = data._replace(indices=data.indices.at[14:].set(29))
    longer = data._replace(indices=jnp.pad(data.indices, (0, 9), constant_values=3))
    uploads = [
        method.upload(KEY, own, (), one, guides, round, models=both).each
        for one in (data, other, longer)
    ]
    assert np.any(uploads[0] != 0)
    for upload in uploads[1:]:
        np.testing.assert_array_equal(upload, uploads[0])


@pytest.mark.parametrize("count", [0, 7])
def test_a_client_with_too_few_samples_uploads_nothing(client, count):
    """One quiz batch of four and four to train on make eight."""
    both, own, data, guides = client
    method, round = build(feature_dim=6)
    few, enough = (
        method.upload(KEY, own, (), data._replace(num_samples=n), guides, round, models=both)
        for n in (jnp.int32(count), jnp.int32(8))
    )
    assert int(few.floats) == 0 and not np.any(few.each) and np.any(enough.each)
    assert method.reserve == 1


def test_study_samples_are_drawn_anew_from_those_that_are_trained_on(client):
    *_, data, _ = client
    _, round = build()
    data = data._replace(indices=jnp.arange(20, dtype=jnp.int32))
    keys = jax.random.split(KEY, 300)
    orders = jax.vmap(lambda key: fedl2g.study_order(key, data, round, 4))(keys)
    assert all(sorted(order[:10].tolist()) == list(range(4, 14)) for order in orders)
    counts = np.bincount(orders[:, 0], minlength=20)[4:14]
    assert counts.sum() == 300 and counts.min() > 10


def test_floats_at_the_sizes_of_the_papers():
    for guide, floats in (("feature", 51_200), ("logit", 10_000)):
        method, round = build(guide=guide, num_classes=100, feature_dim=512)
        server = method.init_server(KEY, None, None)
        assert method.broadcast(server, round)[1] == floats == server.size
        assert float(server.std()) == pytest.approx(1, abs=0.05)
        np.testing.assert_array_equal(method.show(server)["guides"], server)


def test_there_must_be_rounds_after_the_warm_up():
    method, _ = build(rounds=3, warmup=2)
    assert method.warmup == 2
    message = r"^fedl2g\.warmup must be less than the number of rounds, 3, got 3$"
    with pytest.raises(UsageError, match=message):
        build(rounds=3, warmup=3)
