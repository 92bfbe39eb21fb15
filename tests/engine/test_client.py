"""One client's round: the reference implementation's numbers, and what padding may not change."""

import pathlib
import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plainly import check
from protonorm_jax import methods, models
from protonorm_jax.config import Config
from protonorm_jax.engine import augment
from protonorm_jax.engine.client import _augmented, keys_of, local_update, num_steps
from protonorm_jax.methods.method import Round
from protonorm_jax.methods.shared.class_table import class_means
from protonorm_jax.models import layers, registry
from protonorm_jax.types import Client, ClientData, Models, Prototypes

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "local_fedavg_cnn.npz"


def reference_weights():
    """The weights that the reference numbers start from: a function of name and shape."""
    shapes = {
        "base.conv1.0.weight": (32, 3, 5, 5),
        "base.conv1.0.bias": (32,),
        "base.conv2.0.weight": (64, 32, 5, 5),
        "base.conv2.0.bias": (64,),
        "base.fc1.0.weight": (512, 1600),
        "base.fc1.0.bias": (512,),
        "head.weight": (10, 512),
        "head.bias": (10,),
    }
    weights = {}
    for name, shape in shapes.items():
        values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
        scale = 0.1 if len(shape) == 1 else np.sqrt(2.0 / np.prod(shape[1:]))
        weights[name] = (scale * values).astype(np.float32)
    return weights


def make_client(variables):
    return Client({"model": variables["params"]}, {"model": variables["batch_stats"]})


def make_update(name, image_shape, num_classes, feature_dim, *, reserve=0, **settings):
    """A model, and its jitted `local_update` by ProtoNorm."""
    sizes = {"num_classes": num_classes, "feature_dim": feature_dim}
    model = models.build(name, image_shape=image_shape, **sizes)
    config = Config().replace(feature_dim=feature_dim, **settings)
    setup = methods.Setup(num_clients=1, rounds=1, batch_size=config.batch_size, **sizes)
    method = methods.build("protonorm", setup, config.method_settings)._replace(reserve=reserve)
    values = methods.settings_of("protonorm", config.method_settings)

    @jax.jit
    def update(key, client, prototypes, data, budget):
        round = Round(
            jnp.int32(0),
            jnp.float32(config.learning_rate),
            jax.tree.map(jnp.float32, values),
            jnp.zeros((1, num_classes), jnp.int32),
        )
        return local_update(
            key,
            client,
            prototypes,
            data,
            round,
            models=Models(model),
            method=method,
            config=config,
            budget=budget,
        )

    def unlimited(key, client, prototypes, data, budget=2**31 - 1):
        return update(key, client, prototypes, data, np.int32(budget))

    return model, unlimited


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN)


@pytest.fixture(scope="module")
def reference(golden):
    """Trains the reference's client: `(case, budget) -> client, upload, info`.

    All cases share a program of two epochs of six steps; the seven samples left over are dropped.
    """
    generator = np.random.default_rng(2024)
    pixels = generator.uniform(-1, 1, (199, 3, 32, 32)).astype(np.float32)
    labels = generator.integers(0, 8, 199).astype(np.int32)
    rows = np.arange(199, dtype=np.int32)
    data = ClientData(pixels.transpose(0, 2, 3, 1), labels, rows, np.int32(199))
    epochs = {"shuffle": False, "last_batch": "drop", "local_epochs": 2}
    _, update = make_update("fedavg_cnn", (32, 32, 3), 10, 512, **epochs)
    client = make_client(models.from_torch("fedavg_cnn", reference_weights()))

    def run(case, budget):
        known = np.full(10, case != "round0")
        if case == "missing_3_5":
            known[[3, 5]] = False
        sent = Prototypes(80.0 * golden["prototypes"] * known[:, None], known)
        return update(jax.random.key(0), client, sent, data, budget)

    return run


def check_means(upload, wanted, tolerance):
    """Asserts that class means agree; NaN in `wanted` says that a class is not held."""
    means = class_means(upload.each)
    present = ~np.isnan(wanted).any(1)
    np.testing.assert_array_equal(means.known, present)
    scale = np.abs(wanted[present]).max()
    np.testing.assert_allclose(means.vectors[present], wanted[present], 1e-3, tolerance * scale)


@pytest.mark.parametrize("case", ["proto", "round0", "missing_3_5", "two_epochs"])
def test_reference_numbers(golden, reference, case):
    steps = len(golden[f"{case}/ce"])
    trained, upload, info = reference(case, steps)
    assert int(info["num_steps"]) == steps
    terms = info["terms"]
    np.testing.assert_allclose(terms["cross_entropy"], golden[f"{case}/ce"].mean(), rtol=1e-5)
    if case == "round0":
        assert terms["prototype_mse"] == 0.0
    else:
        np.testing.assert_allclose(terms["prototype_mse"], golden[f"{case}/mse"].mean(), rtol=1e-5)
    check_means(upload, golden[f"{case}/prototypes_after_training"], 1e-4)

    params = trained.params["model"]
    for name in reference_weights():
        part, *modules, kind = name.split(".")
        leaf = params[part][".".join(modules)] if modules else params[part]
        norm = np.linalg.norm(leaf["kernel" if kind == "weight" else kind])
        np.testing.assert_allclose(norm, golden[f"{case}/final_norm/{name}"], rtol=1e-4)
    np.testing.assert_allclose(
        params["base"]["conv1.0"]["kernel"].transpose(3, 2, 0, 1),
        golden[f"{case}/final/base.conv1.0.weight"],
        atol=1e-5,
    )


def test_a_budget_ends_the_training(golden, reference):
    """The terms are means over the steps that were taken."""
    for budget in (1, 4):
        info = reference("proto", budget)[2]
        assert int(info["num_steps"]) == budget
        for name, key in (("cross_entropy", "ce"), ("prototype_mse", "mse")):
            wanted = golden[f"proto/{key}"][:budget].mean()
            np.testing.assert_allclose(info["terms"][name], wanted, rtol=1e-5)


def test_without_a_budget_the_client_uploads_what_it_has_not_trained(golden, reference):
    _, upload, info = reference("proto", 0)
    assert int(info["num_steps"]) == 0 and bool(info["finite"])
    check_means(upload, golden["proto/prototypes_before_training"], 1e-5)


class Normed(nn.Module):
    """A convolution and batch norm."""

    @nn.compact
    def __call__(self, x, context):
        x = layers.conv_norm(x, context, 8, "conv", "norm", stride=2)
        return layers.global_average(nn.relu(x))


@pytest.fixture(scope="module")
def tiny(small_set):
    """A net with batch norm, its update, and a client's 41 samples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.ARCHITECTURES, "normed", registry.Architecture(Normed, "normal"))
        model, update = make_update("normed", (8, 8, 1), 5, 16, local_epochs=2, batch_size=16)
    client = make_client(jax.jit(model.init)(jax.random.key(1)))
    rows = np.random.default_rng(0).permutation(240)[:41].astype(np.int32)
    data = ClientData(small_set.images, small_set.labels, rows, np.int32(41))
    known = np.array([True, True, False, True, True])
    sent = Prototypes(np.eye(5, 16, dtype=np.float32) * 80, known)
    return update, client, sent, data


def test_padding_changes_no_bit(tiny):
    update, client, sent, data = tiny
    wanted = update(jax.random.key(7), client, sent, data)
    garbage = np.concatenate([data.indices, np.full(60, 239, np.int32)])
    padded = update(jax.random.key(7), client, sent, data._replace(indices=garbage))
    jax.tree.map(np.testing.assert_array_equal, wanted, padded)


def test_every_sample_is_used_once_an_epoch(tiny):
    update, client, sent, data = tiny
    _, upload, info = update(jax.random.key(7), client, sent, data)
    assert int(info["num_steps"]) == 2 * 3  # Epochs times batches of at most 16 of 41 samples.
    counts = np.bincount(data.labels[data.indices], minlength=5)
    np.testing.assert_array_equal(upload.each.counts, counts)
    assert int(upload.floats) == 16 * np.sum(counts > 0)
    assert info["terms"]["prototype_mse"] > 0


def test_a_client_without_samples_comes_back_unchanged(tiny):
    update, client, sent, data = tiny
    after, upload, info = update(
        jax.random.key(7), client, sent, data._replace(num_samples=np.int32(0))
    )
    jax.tree.map(np.testing.assert_array_equal, client, after)
    assert not np.any(upload.each.sums) and not np.any(upload.each.counts)
    assert int(info["num_steps"]) == 0 and bool(info["finite"]) and int(upload.floats) == 0


def test_a_budget_of_zero_leaves_parameters_and_statistics_alone(tiny):
    update, client, sent, data = tiny
    after, upload, info = update(jax.random.key(7), client, sent, data, 0)
    jax.tree.map(np.testing.assert_array_equal, client, after)
    assert int(info["num_steps"]) == 0 and info["terms"]["loss"] == 0
    assert np.sum(upload.each.counts) == 41 and int(upload.floats) > 0


def test_a_value_that_is_not_finite_is_told(tiny):
    update, client, sent, data = tiny
    assert bool(update(jax.random.key(7), client, sent, data)[2]["finite"])
    broken = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), client.params)
    assert not bool(
        update(jax.random.key(7), client._replace(params=broken), sent, data)[2]["finite"]
    )


def test_the_key_orders_the_samples(tiny):
    update, client, sent, data = tiny
    losses = [
        float(update(jax.random.key(seed), client, sent, data)[2]["terms"]["loss"])
        for seed in (7, 7, 8)
    ]
    assert losses[0] == losses[1] != losses[2]


def small(small_set, count, **settings):
    """An `mlp` with its update, a client of so many samples, and prototypes to send it."""
    model, update = make_update("mlp", (8, 8, 1), 5, 16, batch_size=16, **settings)
    client = make_client(jax.jit(model.init)(jax.random.key(1)))
    rows = np.arange(count, dtype=np.int32)
    data = ClientData(small_set.images, small_set.labels, rows, np.int32(count))
    sent = Prototypes(np.eye(5, 16, dtype=np.float32) * 4, np.ones(5, bool))
    return update, client, sent, data


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, [0, 1, 1, 3, 10]),
        ({"local_epochs": 3}, [0, 3, 3, 9, 30]),
        ({"local_epochs": 0.5}, [0, 1, 1, 2, 5]),
        ({"local_epochs": 0.3}, [0, 1, 1, 1, 3]),  # In floating point 10 * 0.3 is more than 3.
        ({"local_epochs": 1.25}, [0, 2, 2, 4, 13]),
        ({"local_epochs": 1e-9}, [0, 1, 1, 1, 1]),
        ({"local_steps": 7}, [0, 7, 7, 7, 7]),
        ({"local_epochs": 0.5, "last_batch": "drop"}, [0, 0, 1, 1, 5]),
        ({"local_steps": 2, "last_batch": "drop"}, [0, 0, 2, 2, 2]),
    ],
)
def test_steps_are_counted_before_they_are_made(settings, wanted):
    """Of clients with 0, 5, 16, 41 and 160 samples in batches of 16; numpy and traced alike."""
    config = Config(batch_size=16, **settings)
    counts = np.array([0, 5, 16, 41, 160], np.int32)
    np.testing.assert_array_equal(num_steps(counts, config), wanted)
    traced = jax.jit(lambda counts: num_steps(counts, config))(counts)
    np.testing.assert_array_equal(traced, wanted)
    assert traced.dtype == jnp.int32


def test_every_step_augments_by_a_key_of_its_own():
    used = keys_of(jax.random.key(5))
    steps = [jax.random.fold_in(one, i) for one in (used.loss, used.augmentation) for i in range(9)]
    seen = {tuple(jax.random.key_data(key).tolist()) for key in (*used, *steps)}
    assert len(seen) == 4 + 18


def test_parts_of_epochs_are_their_first_steps(small_set):
    """1.5 epochs of three steps are the first five of two epochs, bit by bit."""
    update, *given = small(small_set, 41, local_epochs=2)
    wanted = update(jax.random.key(7), *given, 5)
    update, *given = small(small_set, 41, local_epochs=1.5)
    made = update(jax.random.key(7), *given)
    assert int(made[2]["num_steps"]) == 5
    jax.tree.map(np.testing.assert_array_equal, made, wanted)


@pytest.mark.large
def test_a_number_of_steps_goes_round_the_epochs(small_set):
    """Seven steps, of three an epoch, are the first seven of three epochs; alone and vmapped."""
    update, *given = small(small_set, 41, local_epochs=3)
    wanted = update(jax.random.key(7), *given, 7)
    update, client, sent, data = small(small_set, 41, local_steps=7)
    made = update(jax.random.key(7), client, sent, data)
    assert int(made[2]["num_steps"]) == 7
    jax.tree.map(
        lambda *both: np.testing.assert_allclose(*both, rtol=1e-5, atol=1e-6), made, wanted
    )
    nobody = update(jax.random.key(7), client, sent, data._replace(num_samples=np.int32(0)))
    assert int(nobody[2]["num_steps"]) == 0
    jax.tree.map(np.testing.assert_array_equal, nobody[0], client)
    sizes = np.array([41, 20], np.int32)

    def one(size):
        return update(jax.random.key(7), client, sent, data._replace(num_samples=size))

    mapped = jax.vmap(one)(sizes)
    for number, size in enumerate(sizes):
        own = jax.tree.map(lambda leaf, number=number: leaf[number], mapped)
        check(own, one(size), 1e-5)


def test_features_are_pulled_to_the_prototype_of_their_class(small_set):
    """With a heavy weight on the prototypes, what is uploaded moves towards what was sent."""
    update, client, sent, data = small(small_set, 240, local_epochs=60, learning_rate=0.02)
    (_, _, first), (_, upload, whole) = (
        update(jax.random.key(0), client, sent, data, budget) for budget in (15, 900)
    )
    assert int(whole["num_steps"]) == 60 * 15
    assert whole["terms"]["prototype_mse"] < 0.5 * first["terms"]["prototype_mse"]
    means = class_means(upload.each).vectors
    nearest = np.argmin(np.square(means[:, None] - sent.vectors[None]).sum(2), axis=1)
    np.testing.assert_array_equal(nearest, np.arange(5))


def test_prototypes_are_collected_before_after_or_during_training(small_set):
    """Before: those of a client that has not trained. During: the mean over its only step."""
    after, *given = small(small_set, 16, shuffle=False)
    trained, untrained = (
        after(jax.random.key(0), *given, budget)[1].each.sums for budget in (1, 0)
    )
    for collect, wanted in (("before", untrained), ("during", untrained)):
        update, *given = small(small_set, 16, shuffle=False, collect=collect)
        sums = update(jax.random.key(0), *given)[1].each.sums
        np.testing.assert_allclose(sums, wanted, rtol=1e-5, atol=1e-6)
        assert np.abs(sums - trained).max() > 1e-3


def test_a_reserve_is_left_out_of_the_training_alone(small_set):
    """With less than two batches of 16 nothing is reserved."""
    update, client, sent, data = small(small_set, 41, shuffle=False, reserve=1)
    plain, *_ = small(small_set, 41, shuffle=False)
    for count, used in ((20, 20), (31, 31), (32, 16), (41, 25)):
        own = data._replace(num_samples=np.int32(count))
        rest = ClientData(*data[:2], data.indices + (count - used), np.int32(used))
        trained, upload, info = update(jax.random.key(0), client, sent, own)
        wanted, _, others = plain(jax.random.key(0), client, sent, rest)
        jax.tree.map(
            lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7),
            (trained, info["terms"]),
            (wanted, others["terms"]),
        )
        assert np.sum(upload.each.counts) == count
        steps = num_steps(np.int32(count), Config(batch_size=16), 1)
        assert int(info["num_steps"]) == steps == -(-used // 16)


def test_images_are_augmented_and_other_inputs_are_not():
    """What was uint8 in the data set is an image; its batch is float32 like the rest."""
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1)).astype(np.uint8)
    whole = {"image": images, "other": np.float32(images)}
    data = ClientData(whole, np.zeros(5, np.int32), np.arange(5), np.int32(5))
    taken = {"image": np.float32(images) / 127.5 - 1, "other": np.float32(images)}
    key, config = jax.random.key(1), Config(augment="crop")
    made = _augmented(key, taken, data, config)
    np.testing.assert_array_equal(made["other"], taken["other"])
    np.testing.assert_array_equal(made["image"], augment.images(key, taken["image"], "crop"))
    assert np.any(made["image"] != taken["image"])
