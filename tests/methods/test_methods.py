"""The methods' numbers, computed by hand; and the table, which says what is wrong with a row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from protonorm_jax import methods, settings
from protonorm_jax.config import Config
from protonorm_jax.engine import exchange
from protonorm_jax.errors import UsageError
from protonorm_jax.methods import fedtgp
from protonorm_jax.methods.shared import class_table, clipping
from protonorm_jax.methods.table import checked_settings
from protonorm_jax.types import Batch, Model, Models, Outputs, Prototypes

KEY = jax.random.key(0)


def build(name, *, num_classes=3, feature_dim=4, num_clients=2, **values):
    """A method and a round with these settings, the rest by default."""
    setup = methods.Setup(num_classes, feature_dim, num_clients, 1, 8)
    chosen = settings.complete(name, methods.METHODS[name].settings, values)
    own = jax.tree.map(jnp.float32, checked_settings(name, values))
    counts = jnp.ones((num_clients, num_classes), jnp.int32)
    round = methods.Round(jnp.int32(0), jnp.float32(0.1), own, counts)
    return methods.build(name, setup, chosen), round


def received(each=(), mean=(), num_samples=(1, 1)):
    """What reaches the server if nothing is lost."""
    arrived = jnp.ones(len(num_samples), bool)
    return methods.Received(each, mean, arrived, jnp.array(num_samples))


@pytest.mark.parametrize(
    ("weighting", "first"), [("uniform", [2.0, 1.0]), ("samples", [11 / 5, 4 / 5])]
)
def test_fedproto_averages_class_means_of_clients(weighting, first):
    """Class 0: means (1, 2) of two samples and (3, 0) of three. Class 1: the second client's."""
    sums = jnp.array([[[2.0, 4.0], [0.0, 0.0]], [[9.0, 0.0], [5.0, 5.0]]])
    counts = jnp.array([[2.0, 0.0], [3.0, 1.0]])
    method, round = build("fedproto", num_classes=2, feature_dim=2, weighting=weighting)
    server = method.init_server(KEY, None, {})
    uploads = received(class_table.ClassSums(sums, counts), num_samples=(2, 4))
    means, report = method.aggregate(KEY, server, uploads, round)
    np.testing.assert_allclose(means.vectors, [first, [5.0, 5.0]], rtol=1e-6)
    assert means.known.all() and int(report["known_classes"]) == 2


def test_a_class_without_upload_keeps_its_prototype():
    method, round = build("protonorm", align="none")
    sums = jnp.zeros((1, 3, 4)).at[0, 0].set(jnp.array([0.0, 3.0, 0.0, 0.0]))
    uploads = received(class_table.ClassSums(sums, jnp.array([[1.0, 0.0, 0.0]])), num_samples=(1,))
    before = Prototypes(jnp.eye(3, 4), jnp.array([True, True, False]))
    after, _ = method.aggregate(KEY, before, uploads, round)
    np.testing.assert_allclose(after.vectors[:2], np.eye(3, 4)[[1, 1]], atol=1e-6)
    np.testing.assert_array_equal(after.known, [True, True, False])


def test_upscaling_multiplies_what_is_sent():
    method, round = build("protonorm", scale=80.0)
    sent, floats = method.broadcast(Prototypes(jnp.eye(3, 4), jnp.ones(3, bool)), round)
    np.testing.assert_array_equal(sent.vectors, 80 * np.eye(3, 4))
    assert floats == 12


@pytest.mark.parametrize(
    ("align", "upscale", "wanted"),
    [
        ("none", False, [[0.0, 3.0], [4.0, 3.0]]),  # FedProto: the averages as they are.
        ("none", True, [[0.0, 5.0], [4.0, 3.0]]),
        ("auto", False, [[-0.89442719, 0.4472136], [0.89442719, -0.4472136]]),
        ("auto", True, [[-4.472136, 2.236068], [4.472136, -2.236068]]),
    ],
)
def test_the_ablation(align, upscale, wanted):
    """Averages (0, 3) and (4, 3), of directions (0, 1) and (.8, .6); s = 5.

    Aligned they lie opposite each other, on the line of the difference of directions, (-2, 1).
    """
    method, round = build(
        "protonorm", num_classes=2, feature_dim=2, align=align, upscale=upscale, scale=5.0
    )
    sums = class_table.ClassSums(jnp.array([[[0.0, 3.0], [4.0, 3.0]]]), jnp.ones((1, 2)))
    uploads = received(sums, num_samples=(2,))
    server, _ = method.aggregate(KEY, method.init_server(KEY, None, {}), uploads, round)
    sent, _ = method.broadcast(server, round)
    np.testing.assert_allclose(sent.vectors, wanted, rtol=1e-5)


@pytest.mark.parametrize(("distance", "elements"), [("mse", 1), ("squared", 2)])
@pytest.mark.parametrize("real", [2, 1, 0])
def test_the_prototype_loss_is_a_mean_over_the_batch(distance, elements, real):
    """Two real rows, of which one is (3, 4) away from its prototype; the other's is unknown.

    Or the first alone, or none, which is no loss.
    """
    method, round = build(
        "fedproto", num_classes=2, feature_dim=2, proximity=2.0, distance=distance
    )
    model = fixed_model(features=[[3.0, 4.0], [9.0, 9.0], [7.0, 7.0]], logits=np.zeros((3, 2)))
    down = Prototypes(jnp.zeros((2, 2)), jnp.array([True, False]))
    batch = Batch(jnp.zeros((3, 1)), jnp.array([0, 1, 0]), jnp.arange(3) < real)
    loss, info = method.loss(EMPTY, EMPTY, down, batch, KEY, round, models=Models(model))
    mean = 25 / 2 / real if real else 0
    assert float(info.terms["prototype_mse"]) == pytest.approx(mean)
    entropy = np.log(2) if real else 0
    assert float(info.terms["cross_entropy"]) == pytest.approx(entropy)
    assert float(loss) == pytest.approx(entropy + 2 * elements * mean)


def test_the_weight_of_the_other_distance_is_told():
    setup = methods.Setup(10, 512, 20, 1, 32)
    for name in ("fedproto", "fedtgp", "protonorm"):
        notes = methods.METHODS[name].notes
        (mean,) = notes(setup, checked_settings(name, {}))
        assert mean.endswith("512 elements: effective weight 0.01953 on the squared distance")
        (squared,) = notes(setup, checked_settings(name, {"distance": "squared", "proximity": 2.0}))
        assert squared.endswith("effective weight 1024 on the mean over 512 elements")


EMPTY = {"model": {}, "shared": {}}


def fixed_model(features, logits):
    """A model that says the same of every batch."""

    def apply(variables, inputs, train=False, *, mask=None, key=None):
        return Outputs(jnp.asarray(features), jnp.asarray(logits)), variables

    return Model(lambda key: {"params": {}, "batch_stats": {}}, apply)


def test_fedavg_weights_clients_by_their_samples():
    """Weights 1/4 and 3/4 of a parameter, and of a running mean; the third upload is lost."""
    method, round = build("fedavg", num_clients=3)
    clients = [
        methods.method.Client({"model": {"w": jnp.array(w)}}, {"model": {"mean": jnp.array(m)}})
        for w, m in ([[1.0, 2.0], 8.0], [[5.0, 6.0], 4.0], [[np.nan, 0.0], 0.0])
    ]
    rest = {"models": Models(fixed_model([], []))}
    uploads = [method.upload(KEY, one, (), None, None, round, **rest) for one in clients]
    assert [upload.floats for upload in uploads] == [3, 3, 3]
    assert method.weighting == "samples"
    places = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(one.mean for one in uploads))
    order, weights = jnp.arange(3), jnp.array([10, 30, 0])
    mean = exchange.average(places, order, weights)
    server, _ = method.aggregate(KEY, uploads[0].mean, received(mean=mean), round)
    np.testing.assert_allclose(server["params"]["w"], [4.0, 5.0])
    np.testing.assert_allclose(server["batch_stats"]["mean"], 5.0)
    client = method.receive(clients[0], server, rest["models"])
    assert client.params["model"] is server["params"]


def test_fedavg_may_leave_running_statistics_to_the_clients():
    method, round = build("fedavg", statistics="local")
    client = methods.method.Client({"model": {"w": jnp.ones(2)}}, {"model": {"mean": jnp.ones(5)}})
    models = Models(fixed_model([], []))
    upload = method.upload(KEY, client, (), None, None, round, models=models)
    assert upload.floats == 2 and upload.mean.keys() == {"params"}
    after = method.receive(client, {"params": {"w": jnp.zeros(2)}}, models)
    np.testing.assert_array_equal(after.params["model"]["w"], [0.0, 0.0])
    np.testing.assert_array_equal(after.statistics["model"]["mean"], np.ones(5))


def test_fml_weighs_labels_against_the_other_models_opinion():
    """alpha CE(o, y) + (1 - alpha) KL(softmax g || softmax o), and with beta the other way round.

    KL is a mean over batch and classes. The last row is padding.
    """
    o = np.array([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0], [9.0, 9.0, 0.0]])
    g = np.array([[0.0, 0.0, 1.0], [1.0, 1.0, -2.0], [0.0, 7.0, 0.0]])
    labels = np.array([0, 1, 2])

    def log_softmax(x):
        return x - np.log(np.exp(x).sum(1, keepdims=True))

    def entropy(x):
        return -log_softmax(x)[[0, 1], labels[:2]].mean()

    def divergence(target, x):
        p, q = log_softmax(target)[:2], log_softmax(x)[:2]
        return (np.exp(p) * (p - q)).mean()

    method, round = build("fml", private_weight=0.7, shared_weight=0.2)
    both = Models(fixed_model(np.zeros((3, 4)), o), fixed_model(np.zeros((3, 4)), g))
    batch = Batch(jnp.zeros((3, 1)), jnp.asarray(labels), jnp.array([True, True, False]))
    loss, info = method.loss(EMPTY, EMPTY, {}, batch, KEY, round, models=both)
    wanted = {
        "private_loss": 0.7 * entropy(o) + 0.3 * divergence(g, o),
        "mentee_loss": 0.2 * entropy(g) + 0.8 * divergence(o, g),
    }
    for name, value in wanted.items():
        assert float(info.terms[name]) == pytest.approx(value, rel=1e-5)
    assert float(loss) == pytest.approx(sum(wanted.values()), rel=1e-5)


def test_fml_clips_the_gradient_of_each_net_by_itself():
    """A norm of 5 becomes 1, one of 0.5 stays; SGD with learning rate 0.1."""
    method, round = build("fml", clip=1.0)
    gradient = {"model": {"w": jnp.array([3.0, 4.0])}, "shared": {"w": jnp.array([0.3, 0.4])}}
    optimizer = method.optimizer(round)
    updates, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
    np.testing.assert_allclose(updates["model"]["w"], [-0.06, -0.08], rtol=1e-5)
    np.testing.assert_allclose(updates["shared"]["w"], [-0.03, -0.04], rtol=1e-5)


@pytest.mark.parametrize(
    ("norm", "limit", "wanted"),
    [(5.0, 1.0, 1.0), (0.5, 1.0, 0.5), (0.0, 1.0, 0.0), (1e-6, 1e-6, 5e-7), (3e-6, 1e-6, 7.5e-7)],
)
def test_a_clipped_norm_is_what_pytorch_leaves_of_it(norm, limit, wanted):
    """min(1, limit / (norm + 1e-6)) of it; the small number counts for norms as small."""
    gradient = {"w": norm * jnp.array([[0.6], [0.0]]), "b": norm * jnp.array([-0.8])}
    clipped = clipping.clip(gradient, limit)
    np.testing.assert_allclose(clipped["w"], wanted * np.array([[0.6], [0.0]]), rtol=1e-5)
    np.testing.assert_allclose(clipped["b"], [-0.8 * wanted], rtol=1e-5)


def test_a_method_of_defaults_sends_nothing_and_trains_heads():
    """What a method that names no hook does; Local is one."""
    method = methods.Method()
    assert methods.build("local", methods.Setup(3, 4, 2, 5, 8), {}) == method
    assert method.broadcast({"any": 1}, None) == ((), 0)
    assert method.upload(KEY, None, (), None, (), None, models=None) == methods.Upload()
    assert method.aggregate(KEY, "state", None, None) == ("state", {})
    assert method.observe(None, None, None) == method.init_server(KEY, None, {}) == ()
    assert method.show("state") == method.nets("state") == {}
    others = (method.reserve, method.warmup, method.server_steps, method.shared)
    assert others == (0, 0, 0, None)
    round = methods.Round(jnp.int32(0), jnp.float32(0.1), (), jnp.ones((1, 2)))
    assert (round.schedule, round.draws) == (1.0, {})
    model = fixed_model(np.zeros((3, 1)), [[0.0, np.log(3)], [np.log(2), 0.0], [9.0, 0.0]])
    batch = Batch(jnp.zeros((3, 1)), jnp.array([0, 1, 1]), jnp.array([True, True, False]))
    loss, info = method.loss(EMPTY, EMPTY, (), batch, KEY, round, models=Models(model))
    assert float(loss) == float(info.terms["cross_entropy"]) == pytest.approx(np.log(12) / 2)
    client = method.init_client(KEY, {"params": 1, "batch_stats": 2}, (), None, None)
    assert client == ({"model": 1}, {"model": 2}) and method.receive(client, (), None) is client


def test_models_are_told_whether_they_train():
    """With the mask and the key of the batch; the statistics of other nets stay."""
    asked = []

    def apply(variables, inputs, **how):
        asked.append((variables, inputs, how))
        return "outputs", {"params": 0, "batch_stats": "new"}

    models, batch = Models(Model(None, apply)), Batch("inputs", "labels", "mask")
    before = ({"model": 1, "shared": 2}, {"model": 3, "shared": 4})
    result = methods.method.forward(models, *before, batch, "key")
    assert result == ("outputs", {"model": "new", "shared": 4})
    own = {"params": 1, "batch_stats": 3}
    assert asked.pop() == (own, "inputs", {"train": True, "mask": "mask", "key": "key"})
    assert methods.method.infer(models, methods.method.Client(*before), "inputs") == "outputs"
    assert asked.pop() == (own, "inputs", {})


def tgp_round(sums, counts, *, margin, epochs=1):
    """One round of FedTGP's server: two classes, two numbers, learning rate 0.1."""
    method, round = build(
        "fedtgp", num_classes=2, feature_dim=2, margin=margin, server_epochs=epochs
    )
    server = method.init_server(KEY, None, {})
    uploads = received(class_table.ClassSums(jnp.array(sums), jnp.array(counts)))
    return server, *method.aggregate(KEY, server, uploads, round)


@pytest.mark.parametrize(("margin", "used"), [(100.0, 5.0), (0.5, 0.5)])
def test_fedtgp_enlarges_the_distance_to_the_own_class(margin, used):
    """Means (0, 0) and (3, 4), a gap of 5: the margin, unless the setting is less.

    The recorded loss is that of the net before its only step.
    """
    counts = [[1.0, 0.0], [0.0, 2.0]]
    server, after, info = tgp_round(
        [[[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [6.0, 8.0]]], counts, margin=margin
    )
    assert float(info["server_margin"]) == used
    net = jax.tree.map(np.asarray, server.net)
    hidden = np.maximum(net["embedding"] @ net["fc1"]["kernel"] + net["fc1"]["bias"], 0)
    generated = hidden @ net["fc2"]["kernel"] + net["fc2"]["bias"]
    losses = []
    for vector, label in (([0.0, 0.0], 0), ([3.0, 4.0], 1)):
        distance = np.linalg.norm(np.array(vector) - generated, axis=1) + used * np.eye(2)[label]
        losses.append(np.log(np.exp(-distance).sum()) + distance[label])
    assert float(info["server_loss"]) == pytest.approx(np.mean(losses), rel=1e-5)
    assert after.prototypes.known.all()
    np.testing.assert_array_equal(after.prototypes.vectors, fedtgp.generate(after.net))
    assert np.any(after.net["fc2"]["kernel"] != net["fc2"]["kernel"])


def test_fedtgp_with_one_class_takes_the_largest_margin():
    """There is no gap then. Nothing becomes infinite."""
    none = [[0.0, 0.0], [0.0, 0.0]]
    _, after, info = tgp_round([[[2.0, 0.0], [0.0, 0.0]], none], [[1.0, 0.0]] * 2, margin=7.0)
    assert float(info["server_margin"]) == 7.0
    for leaf in jax.tree.leaves((after.net, after.prototypes, info["server_loss"])):
        assert np.isfinite(leaf).all()


def test_fedtgp_at_distance_zero_has_a_finite_gradient():
    """A mean that is exactly a generated prototype: a square root's slope is infinite there."""

    def loss(vectors):
        return jnp.sum(fedtgp.distances(vectors, jnp.array([[1.0, 2.0], [4.0, 6.0]])))

    np.testing.assert_allclose(jax.grad(loss)(jnp.array([[1.0, 2.0]])), [[-0.6, -0.8]], rtol=1e-6)


def test_unknown_methods_and_settings():
    with pytest.raises(UsageError, match=r"Config\.method must be one of .*fedavg.* got 'fedsgd'"):
        Config(method="fedsgd")
    with pytest.raises(UsageError, match=r"^fedtgp\.margin must be > 0, got -1\.0$"):
        Config(method="fedtgp", method_settings={"margin": -1})
    message = r"^fedtgp has no setting 'margn' \(did you mean 'margin'\?\)$"
    with pytest.raises(UsageError, match=message):
        Config(method="fedtgp", method_settings={"margn": 1})


@pytest.fixture
def table():
    """The table, which is afterwards as it was before."""
    rows = dict(methods.METHODS)
    yield methods.METHODS
    for name in set(methods.METHODS) - set(rows):
        del methods.METHODS[name]


def test_a_bare_function_is_no_row(table):
    with pytest.raises(UsageError, match=r"^METHODS\['mine'\] must be methods\.Row\(.*$") as error:
        table["mine"] = methods.METHODS["local"].factory
    assert "\n" not in str(error.value) and "mine" not in table


def test_a_setting_may_not_be_called_like_one_of_all_methods(table):
    @settings.group
    class Settings:
        batch_size: int = settings.setting(1, "no")

    with pytest.raises(UsageError, match=r"^mine\.batch_size must have another name, got one "):
        table["mine"] = methods.Row(methods.METHODS["local"].factory, Settings)
    assert "mine" not in table and "mine" not in settings.groups()


@pytest.mark.parametrize(
    ("field", "rule"),
    [
        ("collect", "after, before, during, None"),
        ("weighting", "samples, uniform"),
        ("sent_to", "trained, all"),
        ("rows", "all, arrived"),
        ("heads", "any, equal, linear"),
    ],
)
def test_a_field_of_choices_is_one_of_them(field, rule, table):
    table["odd"] = methods.Row(lambda setup, fixed: methods.Method(**{field: "arrive"}))
    setup = methods.Setup(3, 4, 2, 1, 8)
    with pytest.raises(UsageError) as refused:
        methods.build("odd", setup, {})
    assert str(refused.value) == f"Method.{field} of odd must be one of {rule}, got 'arrive'"


def test_rows_come_and_go(table):
    table["mine"] = methods.Row(methods.METHODS["local"].factory)
    assert Config(method="mine").method == "mine"
    del table["mine"]
    with pytest.raises(UsageError, match=r"got 'mine'"):
        Config(method="mine")
    with pytest.raises(KeyError):
        del table["mine"]


@pytest.mark.parametrize("name", sorted(methods.METHODS))
def test_factories_compute_nothing(name):
    """They are called before it is settled how many devices a CPU is; jax must not start."""
    setup = methods.Setup(3, 4, 2, 5, 8)
    values = settings.complete(name, methods.METHODS[name].settings, {})

    def make():
        methods.build(name, setup, values)
        return ()

    assert not jax.make_jaxpr(make)().eqns


def test_factories_do_not_see_traced_settings():
    """A value that a closure holds would be the same for all runs of a program."""

    def factory(setup, fixed):
        return fixed.margin

    row = methods.METHODS["fedtgp"]
    fixed = methods.table.Fixed({name: 1 for name in settings.fixed(row.settings)})
    assert fixed.server_epochs == 1
    with pytest.raises(AttributeError, match=r"traced ones are in round\.settings"):
        factory(None, fixed)


def test_free_settings_are_attributes_all_of_them_traced():
    """Of a method that is handed to `loop.federate` by itself, without a group."""
    own = methods.table.free_settings({"pull": 3, "rest": 0.5})
    assert (own.pull, own.rest) == (3, 0.5)
    assert jax.jit(lambda own: own.pull * own.rest)(own) == 1.5
    assert sorted(jax.tree.leaves(own)) == [0.5, 3]


def test_checked_settings_are_complete_and_their_traced_ones_leaves():
    own = checked_settings("fedtgp", {"margin": 3})
    assert (own.margin, own.proximity, own.server_epochs, own.distance) == (3.0, 10.0, 100, "mse")
    assert sorted(jax.tree.leaves(own)) == [3.0, 10.0]
    with pytest.raises(UsageError, match=r"^method must be one of .*, got 'fedtpg' \(did you mean"):
        checked_settings("fedtpg", {})
    with pytest.raises(UsageError, match=r"^fedtgp\.margin must be > 0, got 0\.0$"):
        checked_settings("fedtgp", {"margin": 0})
