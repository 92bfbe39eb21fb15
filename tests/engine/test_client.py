"""One client's round: the reference implementation's numbers, and what padding may not change."""

import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from protonorm_jax import methods, models
from protonorm_jax.config import Config
from protonorm_jax.engine.client import local_update
from protonorm_jax.types import Client, ClientData, Prototypes

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "local_fedavg_cnn.npz"
REFERENCE = {"shuffle": False, "last_batch": "drop", "collect": "before"}


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


def make_update(name, image_shape, num_classes, feature_dim, **settings):
    """A jitted `local_update` of ProtoNorm."""
    model = models.build(
        name, num_classes=num_classes, feature_dim=feature_dim, image_shape=image_shape
    )
    method = methods.protonorm(num_classes=num_classes, feature_dim=feature_dim)
    config = Config(feature_dim=feature_dim, **settings)
    hyperparameters = {
        "learning_rate": jnp.float32(config.learning_rate),
        "proximity": jnp.float32(10.0),
        "scale": jnp.float32(80.0),
    }

    @jax.jit
    def update(key, client, prototypes, data):
        return local_update(
            key,
            client,
            prototypes,
            data,
            hyperparameters,
            model=model,
            method=method,
            config=config,
        )

    return model, update


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN)


@pytest.mark.parametrize("case", ["proto", "round0", "missing_3_5", "two_epochs"])
def test_reference_numbers(golden, case):
    generator = np.random.default_rng(2024)
    pixels = generator.uniform(-1, 1, (199, 3, 32, 32)).astype(np.float32)
    labels = generator.integers(0, 8, 199).astype(np.int32)
    data = ClientData(
        (pixels.transpose(0, 2, 3, 1) + 1) * 127.5,
        labels,
        np.arange(199, dtype=np.int32),
        np.int32(199),
    )
    known = np.full(10, case != "round0")
    if case == "missing_3_5":
        known[[3, 5]] = False
    sent = Prototypes(80.0 * golden["prototypes"] * known[:, None], known)
    _, update = make_update(
        "fedavg_cnn", (32, 32, 3), 10, 512, local_epochs=1 + (case == "two_epochs"), **REFERENCE
    )
    client = make_client(models.from_torch("fedavg_cnn", reference_weights()))
    trained, upload, info = update(jax.random.key(0), client, sent, data)

    num_steps = int(info["num_steps"])
    steps = jax.tree.map(lambda term: term[:num_steps], info["steps"])
    np.testing.assert_allclose(steps["cross_entropy"], golden[f"{case}/ce"], rtol=1e-4)
    if case == "round0":
        np.testing.assert_array_equal(steps["prototype_mse"], 0.0)
    else:
        np.testing.assert_allclose(steps["prototype_mse"], golden[f"{case}/mse"], rtol=1e-4)

    means = upload.sums / np.maximum(upload.counts, 1)[:, None]
    wanted = golden[f"{case}/prototypes_before_training"]
    present = ~np.isnan(wanted).any(1)
    np.testing.assert_array_equal(upload.counts > 0, present)
    scale = np.abs(wanted[present]).max()
    np.testing.assert_allclose(means[present], wanted[present], rtol=1e-3, atol=1e-5 * scale)

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


def test_prototypes_after_training_match_the_reference(golden):
    generator = np.random.default_rng(2024)
    pixels = generator.uniform(-1, 1, (199, 3, 32, 32)).astype(np.float32)
    labels = generator.integers(0, 8, 199).astype(np.int32)
    rows = np.arange(199, dtype=np.int32)
    data = ClientData((pixels.transpose(0, 2, 3, 1) + 1) * 127.5, labels, rows, np.int32(199))
    settings = REFERENCE | {"collect": "after"}
    _, update = make_update("fedavg_cnn", (32, 32, 3), 10, 512, **settings)
    client = make_client(models.from_torch("fedavg_cnn", reference_weights()))
    sent = Prototypes(80.0 * golden["prototypes"], np.ones(10, bool))
    _, upload, _ = update(jax.random.key(0), client, sent, data)
    means = upload.sums / np.maximum(upload.counts, 1)[:, None]
    wanted = golden["proto/prototypes_after_training"]
    present = ~np.isnan(wanted).any(1)
    scale = np.abs(wanted[present]).max()
    np.testing.assert_allclose(means[present], wanted[present], rtol=1e-3, atol=1e-4 * scale)


@pytest.fixture(scope="module")
def tiny(small_set):
    """A net with batch norm, its update, and a client's 41 samples."""
    model, update = make_update("tiny_resnet", (8, 8, 1), 5, 16, local_epochs=2, batch_size=16)
    client = make_client(jax.jit(model.init)(jax.random.key(1)))
    rows = np.random.default_rng(0).permutation(240)[:41].astype(np.int32)
    data = ClientData(small_set.images, small_set.labels, rows, np.int32(41))
    sent = Prototypes(
        np.eye(5, 16, dtype=np.float32) * 80, np.array([True, True, False, True, True])
    )
    return update, client, sent, data


def test_padding_changes_no_bit(tiny):
    update, client, sent, data = tiny
    wanted = update(jax.random.key(7), client, sent, data)
    garbage = np.concatenate([data.indices, np.full(60, 239, np.int32)])
    padded = update(jax.random.key(7), client, sent, data._replace(indices=garbage))
    for tree in (wanted, padded):
        del tree[2]["steps"]  # As long as the padded samples need.
    jax.tree.map(np.testing.assert_array_equal, wanted, padded)


def test_every_sample_is_used_once_an_epoch(tiny):
    update, client, sent, data = tiny
    _, upload, info = update(jax.random.key(7), client, sent, data)
    assert int(info["num_steps"]) == 2 * 3  # Epochs times batches of at most 16 of 41 samples.
    counts = np.bincount(data.labels[data.indices], minlength=5)
    np.testing.assert_array_equal(upload.counts, counts)
    assert np.all(np.asarray(info["steps"]["prototype_mse"])[:6] > 0)


def test_a_client_without_samples_comes_back_unchanged(tiny):
    update, client, sent, data = tiny
    after, upload, info = update(
        jax.random.key(7), client, sent, data._replace(num_samples=np.int32(0))
    )
    jax.tree.map(np.testing.assert_array_equal, client, after)
    assert not np.any(upload.sums) and not np.any(upload.counts)
    assert int(info["num_steps"]) == 0 and bool(info["finite"]) and float(info["floats"]) == 0


def test_the_key_orders_the_samples(tiny):
    update, client, sent, data = tiny
    losses = [
        np.asarray(update(jax.random.key(seed), client, sent, data)[2]["steps"]["loss"])
        for seed in (7, 7, 8)
    ]
    np.testing.assert_array_equal(losses[0], losses[1])
    assert np.any(losses[0] != losses[2])


def test_features_are_pulled_to_the_prototype_of_their_class(small_set):
    """With a heavy weight on the prototypes, what is uploaded moves towards what was sent."""
    _, update = make_update(
        "mlp", (8, 8, 1), 5, 16, local_epochs=60, batch_size=16, learning_rate=0.02
    )
    model = models.build("mlp", num_classes=5, feature_dim=16, image_shape=(8, 8, 1))
    client = make_client(jax.jit(model.init)(jax.random.key(1)))
    data = ClientData(
        small_set.images, small_set.labels, np.arange(240, dtype=np.int32), np.int32(240)
    )
    sent = Prototypes(np.eye(5, 16, dtype=np.float32) * 4, np.ones(5, bool))
    _, upload, info = update(jax.random.key(0), client, sent, data)
    steps = np.asarray(info["steps"]["prototype_mse"])[: int(info["num_steps"])]
    assert steps[-1] < 0.5 * steps[0]
    means = upload.sums / upload.counts[:, None]
    nearest = np.argmin(np.square(means[:, None] - sent.vectors[None]).sum(2), axis=1)
    np.testing.assert_array_equal(nearest, np.arange(5))
