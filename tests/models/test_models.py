"""Models against the reference implementation's numbers, and the contract that all of them keep."""

import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from protonorm_jax import models
from protonorm_jax.errors import UsageError
from protonorm_jax.models.architectures import efficientnet

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
REFERENCES = {
    "fedavg_cnn": "fedavg_cnn",
    "resnet8": "resnet8",
    "resnet18": "resnet18",
    "mobilenet_v2": "mobilenet_v2",
    "shufflenet_v2": "shufflenet_v2_x1_0",
    "efficientnet_b0": "efficientnet_b0",
}


def rule(name, shape, is_batch_norm_scale):
    """Returns the reference's weights: a function of a tensor's name and shape."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        return generator.uniform(0.5, 1.5, shape)
    if name.endswith("running_mean"):
        return 0.1 * generator.standard_normal(shape)
    if len(shape) <= 1:
        values = 0.1 * generator.standard_normal(shape)
        return 1 + values if is_batch_norm_scale else values
    return generator.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))


def reference_weights(golden):
    """Returns the reference's state dict."""
    shapes = {
        str(name): tuple(int(size) for size in str(shape).strip("[]").split(",") if size)
        for name, shape in zip(golden["names"], golden["shapes"], strict=True)
    }
    return {
        name: rule(name, shape, name.removesuffix("weight") + "running_mean" in shapes).astype(
            np.float32
        )
        for name, shape in shapes.items()
    }


def tensor_name(path, known):
    """Returns the reference's name of a leaf of `params` or `batch_stats`."""
    *modules, leaf = [entry.key for entry in path]
    leaf = {
        "kernel": "weight",
        "scale": "weight",
        "mean": "running_mean",
        "var": "running_var",
    }.get(leaf, leaf)
    name = ".".join([*modules, leaf])
    return name if name in known else name.replace("head.", "head.1.")


def norms(tree, known):
    """Returns the norm of every array of `tree`, by the reference's names."""
    return {
        tensor_name(path, known): float(np.linalg.norm(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.mark.parametrize("name", REFERENCES)
def test_reference_numbers(name):
    golden = np.load(GOLDEN / f"forward_{REFERENCES[name]}.npz")
    inputs = np.load(GOLDEN / "forward_inputs.npz")
    images, labels = inputs["x"].transpose(0, 2, 3, 1), inputs["y"]
    targets = 80.0 * inputs["prototypes"][labels]
    model = models.build(name, num_classes=10, feature_dim=512, image_shape=(32, 32, 3))
    variables = models.from_torch(REFERENCES[name], reference_weights(golden))

    def loss(params, variables, images, targets):
        outputs, updated = model.apply({**variables, "params": params}, images, True)
        scores = jnp.take_along_axis(jax.nn.log_softmax(outputs.logits), labels[:, None], axis=1)
        cross_entropy = -jnp.mean(scores)
        distance = jnp.mean((outputs.features - targets) ** 2)
        return cross_entropy + 10 * distance, (cross_entropy, distance, updated["batch_stats"])

    outputs, unchanged = jax.jit(model.apply)(variables, images)
    np.testing.assert_equal(jax.device_get(unchanged), jax.device_get(variables))
    for actual, expected in (
        (outputs.features, golden["eval_features"]),
        (outputs.logits, golden["eval_logits"]),
    ):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())

    # In float32 rounding puts now and then an activation on the other side of a ReLU's edge, which
    # changes the gradients of such small batches by a few per cent; not so in float64.
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (variables, images, targets))
        train = jax.jit(jax.grad(loss, has_aux=True))
        gradients, (cross_entropy, distance, stats) = train(wide[0]["params"], *wide)
    np.testing.assert_allclose(cross_entropy, golden["train_ce"], rtol=1e-4)
    np.testing.assert_allclose(distance, golden["train_mse"], rtol=1e-4)

    known = set(golden["names"])
    expected = {
        key.split("/")[1]: float(golden[key]) for key in golden.files if "grad_norm/" in key
    }
    actual = norms(gradients, known)
    assert actual.keys() == expected.keys()
    # What a later batch norm takes out again (a bias before it) has gradient zero, and the
    # reference reports the rounding noise of the gradients that cancelled.
    noise = 1e-6 * max(expected.values())
    for key, value in expected.items():
        assert actual[key] == pytest.approx(value, rel=2e-4, abs=noise), key
    expected = {
        key.split("/")[1]: float(golden[key]) for key in golden.files if "bn_after_norm/" in key
    }
    actual = norms(stats, known)
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert actual[key] == pytest.approx(value, rel=1e-4), key


@pytest.mark.parametrize("name", models.NAMES)
def test_contract(name):
    model = models.build(name, num_classes=5, feature_dim=48, image_shape=(32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0))
    assert set(variables) == {"params", "batch_stats"}
    assert set(variables["params"]) == {"base", "head"}
    head = jax.tree.map(lambda leaf: leaf.shape, variables["params"]["head"])
    assert head == {"kernel": (48, 5), "bias": (5,)}

    def train(variables, images, mask, key):
        return model.apply(variables, images, True, mask=mask, key=key)

    images, mask = jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.float32), np.ones(4, bool)
    outputs, updated = jax.eval_shape(train, variables, images, mask, jax.random.key(0))
    assert (outputs.features.shape, outputs.logits.shape) == ((4, 48), (4, 5))
    assert updated == variables
    with pytest.raises(ValueError, match="images must be"):
        jax.eval_shape(train, variables, images.update(shape=(4, 8, 8, 3)), mask, jax.random.key(0))


@pytest.mark.parametrize("name", models.FAMILIES["tiny"])
def test_padding_changes_nothing_and_vmapped_clients_equal_a_loop(name):
    shape = (8, 8, 1)
    model = models.build(
        name, num_classes=3, feature_dim=16, image_shape=shape, convolution="im2col"
    )
    variables = jax.jit(jax.vmap(model.init))(jax.random.split(jax.random.key(0), 2))
    images = jax.random.uniform(jax.random.key(1), (2, 6, *shape), minval=-1.0)
    mask = jnp.arange(6) < 4

    def report(variables, images, mask):
        def loss(params):
            outputs, updated = model.apply({**variables, "params": params}, images, True, mask=mask)
            rows = jnp.ones(len(images)) if mask is None else mask
            loss = jnp.sum(jnp.sum(outputs.logits**2 + outputs.logits, axis=1) * rows)
            return loss, (outputs.features[:4], updated["batch_stats"])

        return jax.grad(loss, has_aux=True)(variables["params"])

    def close(first, second):
        for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)

    first = jax.tree.map(lambda leaf: leaf[0], variables)
    vmapped = jax.jit(jax.vmap(report, in_axes=(0, 0, None)))
    padded = vmapped(variables, images, mask)
    unpadded = jax.jit(report)(first, images[0, :4], None)
    close(jax.tree.map(lambda leaf: leaf[0], padded), unpadded)
    # No real row at all: everything stays finite.
    empty = vmapped(variables, images, jnp.zeros(6, bool))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(empty))


def test_start_of_the_parameters():
    model = models.build("efficientnet_b0", num_classes=10, feature_dim=64, image_shape=(32, 32, 3))
    variables = jax.jit(model.init)(jax.random.key(0))
    base, head = variables["params"]["base"], variables["params"]["head"]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    assert float(jnp.max(jnp.abs(head["kernel"]))) <= 1 / 8
    assert float(jnp.std(head["kernel"])) == pytest.approx(1 / 8 / np.sqrt(3), rel=0.1)
    kernel = base["features.8.0"]["kernel"]
    assert float(jnp.std(kernel)) == pytest.approx(np.sqrt(2 / 1280), rel=0.02)
    assert float(jnp.std(base["features.7.0"]["block.1.0"]["kernel"])) == pytest.approx(
        np.sqrt(2 / 1152 / 9), rel=0.05
    )
    assert not base["features.7.0"]["block.2"]["fc1"]["bias"].any()
    norm, stats = base["features.8.1"], variables["batch_stats"]["base"]["features.8.1"]
    for values, start in (
        (norm["scale"], 1),
        (norm["bias"], 0),
        (stats["mean"], 0),
        (stats["var"], 1),
    ):
        np.testing.assert_array_equal(values, np.full(1280, start))


def test_stochastic_depth_of_an_image_does_not_depend_on_the_batch():
    key = jax.random.key(0)
    gates = efficientnet.depth_gates(key, 500)
    np.testing.assert_array_equal(gates[:3], efficientnet.depth_gates(key, 3))
    np.testing.assert_array_equal(gates[:, 0], 1.0)
    assert float(jnp.mean(gates == 0, axis=0)[15]) == pytest.approx(0.2 * 15 / 16, abs=0.06)
    assert efficientnet.depth_gates(None, 3) is None


def test_families():
    assert models.family("ht0") == models.FAMILIES["ht0"]
    assert models.family("resnet8") == ("resnet8",)
    assert models.family("mlp, shufflenet_v2_x1_0,mlp") == ("mlp", "shufflenet_v2", "mlp")
    assert all(name in models.NAMES for family in models.FAMILIES.values() for name in family)
    with pytest.raises(UsageError, match=r"tiny, ht0, .*got 'tinny'.*did you mean 'tiny'"):
        models.family("tinny")
    with pytest.raises(UsageError, match="got 'resnet9'"):
        models.family("mlp,resnet9")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("resnet9", {}, "model must be one of mlp, .*got 'resnet9' .did you mean 'resnet"),
        ("mlp", {"feature_dim": 0}, "feature_dim must be >= 1, got 0"),
        ("mlp", {"num_classes": 1}, "num_classes must be >= 2, got 1"),
        ("mlp", {"image_shape": (8, 8)}, "image_shape must be .height, width, channels"),
        ("mlp", {"image_shape": (8, 8, 2)}, "image_shape must end in 1 or 3 channels"),
        ("fedavg_cnn", {"image_shape": (8, 8, 1)}, "image_shape must be at least 16 x 16 for fed"),
        ("mlp", {"convolution": "fft"}, "convolution must be one of auto, .*got 'fft'"),
        ("mlp", {"precision": "float16"}, "precision must be one of float32, .*got 'float16'"),
    ],
)
def test_impossible_models(name, change, message):
    settings = {"num_classes": 10, "feature_dim": 64, "image_shape": (8, 8, 1), **change}
    with pytest.raises(UsageError, match=message):
        models.build(name, **settings)


def test_weights_that_do_not_fit():
    weights = reference_weights(np.load(GOLDEN / "forward_resnet8.npz"))
    del weights["base.bn1.running_var"]
    with pytest.raises(UsageError, match=r"must have 'bn1.running_var' for resnet8"):
        models.from_torch("resnet8", weights)
    weights["base.bn1.running_var"] = np.ones(63)
    with pytest.raises(UsageError, match=r"'bn1.running_var'\] must be \(64,\).*got \(63,\)"):
        models.from_torch("resnet8", weights)
    weights["base.bn1.running_var"] = np.ones(64)
    weights["base.extra.weight"] = np.ones(3)
    with pytest.raises(UsageError, match=r"no key unknown to resnet8, got 'extra.weight'"):
        models.from_torch("resnet8", weights)
    with pytest.raises(UsageError, match=r"head.weight, "):
        models.from_torch("resnet8", {})


def test_torchvision_names_of_every_model_fit():
    for name in models.NAMES:
        model = models.build(name, num_classes=4, feature_dim=32, image_shape=(32, 32, 3))
        template = jax.eval_shape(model.init, jax.random.key(0))
        weights = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(template):
            key = tensor_name(path[1:], ()).removeprefix("base.").replace("head.1.", "fc.")
            axes = (3, 2, 0, 1) if leaf.ndim == 4 else tuple(range(leaf.ndim))[::-1]
            weights[key] = np.zeros([leaf.shape[axis] for axis in axes], np.float32)
        loaded = models.from_torch(name, weights)
        assert jax.tree.structure(loaded) == jax.tree.structure(template)
