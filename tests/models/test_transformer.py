"""The layers of transformers against their definitions, and what vision transformers start from."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from protonorm_jax import models
from protonorm_jax.errors import UsageError
from protonorm_jax.models import layers
from protonorm_jax.models.architectures import vit
from protonorm_jax.models.layers.initialization import initialize
from protonorm_jax.models.layers.transformer import LayerNorm, SelfAttention, attend, gelu


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def softmax(scores):
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("wanted", [None, 2])
def test_attention_is_that_of_each_head_by_itself(wanted):
    heads, width = 3, 12
    x = normal(0, 2, 5, width)
    parameters = {
        name: {"kernel": normal(seed, width, units), "bias": normal(seed + 1, units)}
        for seed, (name, units) in enumerate((("in_proj", 3 * width), ("out_proj", width)), start=1)
    }
    projected = x @ parameters["in_proj"]["kernel"] + parameters["in_proj"]["bias"]
    queries, keys, values = np.split(projected, 3, axis=-1)
    gathered = []
    for part in np.split(np.arange(width), heads):
        scores = queries[..., part] @ keys[..., part].swapaxes(1, 2) / math.sqrt(width / heads)
        gathered.append(softmax(scores) @ values[..., part])
    expected = np.concatenate(gathered, axis=-1) @ parameters["out_proj"]["kernel"]
    expected = (expected + parameters["out_proj"]["bias"])[:, :wanted]

    with jax.enable_x64(True):
        actual = jax.jit(SelfAttention(heads, wanted).apply)({"params": parameters}, x)

    np.testing.assert_allclose(actual, expected, atol=1e-12)


def test_layer_norm_and_gelu_follow_their_definitions():
    x = 3 + 2 * normal(0, 2, 3, 7)
    parameters = {"scale": normal(1, 7), "bias": normal(2, 7)}
    deviation = np.sqrt(x.var(axis=2, keepdims=True) + 0.5)
    expected = (x - x.mean(axis=2, keepdims=True)) / deviation
    expected = expected * parameters["scale"] + parameters["bias"]
    probability = np.vectorize(lambda value: 0.5 * math.erfc(-value / math.sqrt(2)))

    with jax.enable_x64(True):
        normalized, activated = jax.jit(
            lambda x: (LayerNorm(0.5).apply({"params": parameters}, x), gelu(x))
        )(x)

    np.testing.assert_allclose(normalized, expected, atol=1e-12)
    np.testing.assert_allclose(activated, x * probability(x), atol=1e-12)


def test_in_bfloat16_sums_and_functions_are_float32():
    """2^10 numbers with a mean of 100 deviations, and 2^10 tokens of equal weight."""
    x = jnp.asarray(100 + normal(0, 2, 1024), jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    deviation = np.sqrt(exact.var(axis=1, keepdims=True) + 1e-6)
    parameters = {"scale": jnp.ones(1024), "bias": jnp.zeros(1024)}

    @jax.jit
    def report(x, values):
        norm = LayerNorm(1e-6).apply({"params": parameters}, x)
        nothing = jnp.zeros((1024, 4), jnp.bfloat16)
        return norm, attend(nothing[:1], nothing, values), gelu(x)

    values = jnp.asarray(1 + normal(1, 1024, 4) / 4, jnp.bfloat16)
    norm, mean, same = report(x, values)

    assert {norm.dtype, mean.dtype, same.dtype} == {jnp.dtype(jnp.bfloat16)}
    wanted = (exact - exact.mean(axis=1, keepdims=True)) / deviation
    np.testing.assert_allclose(np.asarray(norm, np.float64), wanted, rtol=2.0**-7, atol=2e-3)
    wanted = np.asarray(values, np.float64).mean(axis=0, keepdims=True)
    np.testing.assert_allclose(np.asarray(mean, np.float64), wanted, rtol=2.0**-8)
    np.testing.assert_array_equal(same, x)


def test_gradients_of_tokens_and_positions_are_added_up_in_float32():
    """Over 2^12 images, each of which gives the same."""
    net = vit.VisionTransformer(layers=0, heads=1, width=4, hidden=1, patch=1)

    @functools.partial(jax.jit, static_argnums=0)
    def gradients(count):
        images = jnp.ones((count, 1, 1, 1), jnp.bfloat16)
        variables = net.init(jax.random.key(0), images, layers.Context())

        def loss(params):
            output = net.apply({"params": params}, images, layers.Context())
            return jnp.sum(output.astype(jnp.float32) * jnp.array([[1.0, 0.7, 0.1, -2.0]]))

        params = {**variables["params"], "class_token": jnp.array([[[1.0, -2.0, 0.5, 3.0]]])}
        return jax.grad(loss)(params)

    one, many = gradients(1), gradients(2**12)
    for name in ("class_token", "encoder.pos_embedding"):
        assert np.abs(one[name]).max() > 0.01
        np.testing.assert_allclose(many[name], 2.0**12 * one[name], rtol=2.0**-8)


def test_attention_can_be_differentiated_twice_in_either_precision():
    for dtype in (jnp.bfloat16, jnp.float32):
        x = jnp.ones((2, 3, 4), dtype)

        def slope(x):
            total = jax.grad(lambda x: jnp.sum(attend(x, x, gelu(x)).astype(jnp.float32)))
            return jnp.sum(total(x).astype(jnp.float32) ** 2)

        second = jax.eval_shape(jax.grad(slope), x)
        assert (second.shape, second.dtype) == (x.shape, dtype)


@pytest.mark.parametrize(
    ("size", "patch"),
    [((8, 8), 2), ((28, 28), 4), ((32, 32), 4), ((64, 64), 8), ((36, 36), 6), ((28, 64), 4)],
)
def test_patches_of_the_tiny_net(size, patch):
    assert vit.tiny_patch(*size) == patch
    model = models.build("tiny_vit", num_classes=2, feature_dim=8, image_shape=(*size, 1))
    base = jax.eval_shape(model.init, jax.random.key(0))["params"]["base"]
    assert base["conv_proj"]["kernel"].shape == (patch, patch, 1, 64)
    tokens = 1 + (size[0] // patch) * (size[1] // patch)
    assert base["encoder.pos_embedding"].shape == (1, tokens, 64)


@pytest.mark.parametrize(
    ("name", "shape", "multiple"),
    [("tiny_vit", (30, 32, 1), 4), ("vit_b_16", (32, 40, 3), 16), ("vit_b_32", (28, 28, 1), 32)],
)
def test_images_that_patches_do_not_cover_are_refused(name, shape, multiple):
    with pytest.raises(UsageError, match=f"multiples of {multiple} for height and .* for {name}"):
        models.build(name, num_classes=10, feature_dim=64, image_shape=shape)


def test_start_of_a_vision_transformer():
    """As torchvision's; the head starts as other heads do."""
    template = {
        "base": {
            "class_token": (1, 1, 64),
            "encoder.pos_embedding": (1, 65, 64),
            "conv_proj": {"kernel": (4, 4, 3, 64), "bias": (64,)},
            "layer": {
                "ln_1": {"scale": (64,), "bias": (64,)},
                "self_attention": {
                    "in_proj": {"kernel": (64, 192), "bias": (192,)},
                    "out_proj": {"kernel": (64, 64), "bias": (64,)},
                },
                "mlp.0": {"kernel": (64, 128), "bias": (128,)},
            },
        },
        "head": {"0": {"kernel": (64, 100), "bias": (100,)}},
    }
    template = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        template,
        is_leaf=lambda node: isinstance(node, tuple),
    )
    start = jax.jit(functools.partial(initialize, template=template, kernels="transformer"))(
        jax.random.key(0)
    )
    base, layer = start["base"], start["base"]["layer"]
    attention = layer["self_attention"]
    for leaf, bound in (
        (attention["in_proj"]["kernel"], math.sqrt(6 / 256)),
        (attention["out_proj"]["kernel"], 1 / 8),
        (layer["mlp.0"]["kernel"], math.sqrt(6 / 192)),
        (start["head"]["0"]["kernel"], 1 / 8),
        (start["head"]["0"]["bias"], 1 / 8),
    ):
        assert np.abs(leaf).max() == pytest.approx(bound, rel=0.05)
        assert leaf.std() == pytest.approx(bound / math.sqrt(3), rel=0.2)
    for leaf, deviation in (
        (base["conv_proj"]["kernel"], math.sqrt(1 / 48)),
        (base["encoder.pos_embedding"], 0.02),
        (layer["mlp.0"]["bias"], 1e-6),
    ):
        assert leaf.std() == pytest.approx(deviation, rel=0.2)
        assert np.abs(leaf).max() > 2 * deviation
    for module in (base["conv_proj"], *attention.values(), layer["ln_1"]):
        np.testing.assert_array_equal(module["bias"], 0.0)
    np.testing.assert_array_equal(base["class_token"], 0.0)
    np.testing.assert_array_equal(layer["ln_1"]["scale"], 1.0)
