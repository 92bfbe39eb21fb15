"""Mixed precision: what is bfloat16, what stays float32, and how far the numbers may move."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import protonorm_jax
from protonorm_jax import config, data, models
from protonorm_jax.config import Config
from protonorm_jax.models import layers
from protonorm_jax.models.layers.batch_norm import normalize_batch
from protonorm_jax.models.layers.convolution import FORMS, convolve
from protonorm_jax.models.layers.pooling import max_pool
from protonorm_jax.models.layers.precision import PRECISIONS, matmul

ROUNDING = 2.0**-8
"""The largest relative error of one rounding to bfloat16."""


def rounded(seed, *shape):
    """Returns normal numbers that are bfloat16 already, as float32."""
    values = np.random.default_rng(seed).standard_normal(shape)
    return jnp.asarray(values, jnp.bfloat16).astype(jnp.float32)


def assert_near(actual, expected, tolerance):
    """Asserts that no error is beyond `tolerance` times the largest number."""
    expected = np.asarray(expected, np.float32)
    scale = np.max(np.abs(expected))
    np.testing.assert_allclose(
        np.asarray(actual, np.float32), expected, rtol=0, atol=tolerance * scale
    )


def length(tree):
    """Returns the Euclidean norm of all numbers of a tree."""
    return np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))


def test_the_setting_and_the_models_know_the_same_precisions():
    assert config.PRECISIONS == PRECISIONS


# Image size, kernel, stride, padding, input channels of the kernel (1: depthwise).
@pytest.mark.parametrize(
    "geometry",
    [(7, 3, 2, 1, 4), (2, 3, 1, 1, 4), (6, 5, 1, 0, 4), (7, 1, 2, 0, 4), (7, 3, 2, 1, 1)],
    ids=str,
)
@pytest.mark.parametrize("form", [form for form in FORMS if form != "auto"])
def test_convolutions_round_once(form, geometry):
    """In a loop over vmapped clients, as they train; operands and cotangent are exact."""
    size, kernel_size, stride, padding, inputs = geometry
    x = rounded(0, 2, 2, 5, size, size + 1, 4)
    kernel = rounded(1, 2, 2, kernel_size, kernel_size, inputs, 4 if inputs == 1 else 6)

    def report(x, kernel, form):
        def forward(x, kernel):
            return convolve(x, kernel, stride=stride, padding=padding, form=form)

        y, transpose = jax.vjp(forward, x, kernel)
        return y, *transpose(jnp.resize(rounded(2, 97), y.shape).astype(y.dtype))

    def clients(x, kernel, form):
        return lax.map(lambda pair: jax.vmap(lambda *both: report(*both, form))(*pair), (x, kernel))

    run = jax.jit(clients, static_argnums=2)
    y, x_gradient, kernel_gradient = run(x.astype(jnp.bfloat16), kernel, form)
    assert (y.dtype, x_gradient.dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert kernel_gradient.dtype == jnp.float32
    expected = run(x, kernel, "canonical")
    assert_near(y, expected[0], ROUNDING)
    # Rows of windows are rounded before those of one pixel are added up.
    assert_near(x_gradient, expected[1], 2 * ROUNDING if form == "im2col" else ROUNDING)
    # The stock operation rounds the gradient of the rounded kernel; ours never leave float32.
    assert_near(kernel_gradient, expected[2], ROUNDING if form == "lax" else 1e-5)


def test_second_derivatives_keep_their_dtypes():
    x, kernel = rounded(0, 2, 6, 6, 3).astype(jnp.bfloat16), rounded(1, 3, 3, 3, 3)
    scale = jnp.ones(3)

    def forward(x, kernel, scale, form):
        y = convolve(x, kernel, padding=1, form=form)
        y = convolve(y, kernel[:, :, :1], padding=1, form=form)
        y = convolve(y, kernel[:1, :1], form=form)
        y = max_pool(normalize_batch(y, scale, scale, None, 1e-5)[0], 3, 2, 1)
        return jnp.sum(matmul(y.reshape(-1, 3), kernel[0, 0]).astype(jnp.float32) ** 3)

    def slope(x, kernel, scale, form):
        gradients = jax.grad(forward, (0, 1, 2))(x, kernel, scale, form)
        return sum(jnp.sum(jnp.sin(leaf.astype(jnp.float32))) for leaf in gradients)

    for form in ("canonical", "im2col"):
        curvature = functools.partial(jax.grad(slope, (0, 1, 2)), form=form)
        second = jax.eval_shape(curvature, x, kernel, scale)
        assert [leaf.dtype for leaf in second] == [jnp.bfloat16, jnp.float32, jnp.float32]


def test_sums_over_many_pixels_are_float32():
    """2^14 numbers around 1: a sum in bfloat16 stops at 2^8."""
    x = (1 + 0.25 * rounded(0, 16, 32, 32, 2)).astype(jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    mean, deviation = exact.mean((0, 1, 2)), exact.std((0, 1, 2))

    def norm(x, bias):
        return normalize_batch(x, jnp.ones(2), bias, None, 1e-5)

    y, *statistics = jax.jit(norm)(x, jnp.zeros(2))
    assert [leaf.dtype for leaf in (y, *statistics)] == [jnp.bfloat16, jnp.float32, jnp.float32]
    np.testing.assert_allclose(statistics[0], mean, rtol=1e-5)
    np.testing.assert_allclose(statistics[1], deviation**2, rtol=1e-4)
    assert_near(y, (exact - mean) / deviation, ROUNDING)

    def total(layer):
        return jax.jit(jax.grad(lambda parameter: jnp.sum(layer(parameter).astype(jnp.float32))))

    def biased(bias):
        variables = {"params": {"kernel": jnp.ones((1, 1, 2, 2)), "bias": bias}}
        return layers.Conv(2, kernel=1, bias=True).apply(variables, x, layers.Context())

    for layer in (biased, lambda bias: norm(x, bias)[0]):
        np.testing.assert_allclose(total(layer)(jnp.zeros(2)), 2.0**14, rtol=1e-5)
    sums = total(functools.partial(convolve, x, form="canonical"))
    for shape in ((1, 1, 1, 2), (1, 1, 2, 1)):
        gradient = sums(jnp.ones(shape))
        np.testing.assert_allclose(gradient.reshape(2), 2.0**14 * mean, rtol=1e-5)


def products(text):
    """Yields the operands' dtypes and the result's of every product of a lowered program."""
    pattern = r"stablehlo\.(?:convolution|dot_general).*: \((.*)\) -> (tensor<.*>)"
    for operands, result in re.findall(pattern, text):
        types = re.findall(r"tensor<[0-9x]*x(\w+)>", f"{operands} {result}")
        yield tuple(types[:2]), types[2]


@pytest.mark.parametrize(
    ("name", "form"),
    [(name, "im2col") for name in models.NAMES]
    + [(name, "canonical") for name in ("fedavg_cnn", "resnet8", "tiny_mobilenet")],
)
def test_only_head_and_pooling_multiply_in_float32(name, form):
    model = models.build(
        name,
        num_classes=5,
        feature_dim=48,  # No base has this length, so that all of them are pooled.
        image_shape=(32, 32, 3),
        convolution=form,
        precision="bfloat16",
    )

    def train(variables, images, mask, key):
        def loss(params):
            changed = {**variables, "params": params}
            outputs, updated = model.apply(changed, images, True, mask=mask, key=key)
            return jnp.sum(outputs.logits) + jnp.sum(outputs.features), (outputs, updated)

        return jax.grad(loss, has_aux=True)(variables["params"])

    variables = jax.eval_shape(model.init, jax.random.key(0))
    images, mask = jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.float32), np.ones(4, bool)
    lowered = jax.jit(train).lower(variables, images, mask, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(lowered.out_info)} == {np.dtype(np.float32)}
    found = list(products(lowered.as_text()))
    assert {result for _, result in found} == {"f32"}, "Sums must be float32."
    wide = [operands for operands, _ in found if operands != ("bf16", "bf16")]
    # The head and its two gradients, the pooling and its one.
    assert wide == 5 * [("f32", "f32")]
    assert len(found) > 5


@pytest.mark.parametrize("name", models.FAMILIES["tiny"])
def test_outputs_and_gradients_are_near_those_of_float32(name):
    """Rounding puts one ReLU in some hundred on the other side of its edge.

    A share p of changed signs turns the gradient by about sqrt(p), here up to 0.15; outputs move by
    a few roundings.
    """
    digits = data.load("digits")
    images = jnp.asarray(digits.images[:32] / 127.5 - 1.0, jnp.float32)
    labels = digits.labels[:32]
    targets = 10 * jax.random.normal(jax.random.key(1), (10, 64)) / 8

    def report(precision):
        model = models.build(
            name, num_classes=10, feature_dim=64, image_shape=(8, 8, 1), precision=precision
        )

        def loss(params, variables):
            outputs, updated = model.apply({**variables, "params": params}, images, True)
            scores = jnp.take_along_axis(
                jax.nn.log_softmax(outputs.logits), labels[:, None], axis=1
            )
            distance = jnp.mean((outputs.features - targets[labels]) ** 2)
            return 10 * distance - jnp.mean(scores), (outputs, updated["batch_stats"])

        variables = jax.jit(model.init)(jax.random.key(0))
        gradients, (outputs, statistics) = jax.jit(jax.grad(loss, has_aux=True))(
            variables["params"], variables
        )
        return jax.device_get((gradients, outputs, statistics))

    expected, actual = report("float32"), report("bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(actual)} == {np.dtype(np.float32)}
    for one, other, tolerance in zip(actual, expected, (0.25, 0.03, 0.01), strict=True):
        difference = jax.tree.map(np.subtract, one, other)
        assert length(difference) <= tolerance * length(other)
    assert length(actual[0]) == pytest.approx(length(expected[0]), rel=0.05)


def test_training_learns_as_well_as_in_float32():
    """Two of the tiny family that have every kind of layer between them."""
    settings = {
        "family": "cnn,tiny_mobilenet",
        "num_clients": 4,
        "alpha": 1.0,
        "min_samples": 50,
        "rounds": 20,
        "eval_every": 20,
        "feature_dim": 32,
        "scale": 8.0,
        "learning_rate": 0.05,
        "devices": 1,
    }
    wide, narrow = (
        protonorm_jax.run(Config(precision=precision, **settings)) for precision in PRECISIONS
    )
    (expected,), (actual,) = wide.rows, narrow.rows
    assert expected["prototype_accuracy"] > 0.85
    assert actual["prototype_accuracy"] == pytest.approx(expected["prototype_accuracy"], abs=0.05)
    assert actual["loss"] == pytest.approx(expected["loss"], rel=0.1)
    assert actual["loss"] != expected["loss"]
    assert narrow.arrays["prototypes"].dtype == np.float32


def test_bits_do_not_depend_on_the_number_of_devices():
    """With the roundings that XLA would like to leave out, which are not the same for all."""
    settings = {
        "family": "cnn,tiny_mobilenet",
        "num_clients": 8,
        "alpha": 1.0,
        "min_samples": 20,
        "rounds": 2,
        "feature_dim": 32,
        "scale": 8.0,
        "learning_rate": 0.05,
    }
    first, second = (
        protonorm_jax.run(Config(precision="bfloat16", devices=devices, **settings))
        for devices in (1, 2)
    )
    assert first.rows == second.rows
    jax.tree.map(np.testing.assert_array_equal, first.arrays, second.arrays)
