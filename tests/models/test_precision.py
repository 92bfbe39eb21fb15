"""Mixed precision: what is bfloat16, what stays float32, and how far the numbers may move."""

import functools

import definition
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import protonorm_jax
from compilation import hasty
from protonorm_jax import config, data, models
from protonorm_jax.config import Config
from protonorm_jax.models import layers
from protonorm_jax.models.layers.batch_norm import normalize_batch
from protonorm_jax.models.layers.convolution import convolve
from protonorm_jax.models.layers.pooling import max_pool
from protonorm_jax.models.layers.precision import PRECISIONS, matmul
from protonorm_jax.planning import plan as planning
from protonorm_jax.running import driver

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


# Image size, kernel, stride, padding, channels of the image, of the kernel, and outputs: few
# channels, many, one pixel, and depthwise.
@pytest.mark.parametrize(
    "geometry",
    [(7, 3, 2, 1, 4, 4, 6), (5, 3, 1, 0, 6, 6, 4), (7, 1, 2, 0, 4, 4, 6), (7, 3, 2, 1, 4, 1, 4)],
    ids=str,
)
def test_convolutions_round_once(geometry):
    """In a loop over vmapped clients, as they train; operands and cotangent are exact."""
    size, kernel_size, stride, padding, image, inputs, outputs = geometry
    x = rounded(0, 2, 2, 5, size, size + 1, image)
    kernel = rounded(1, 2, 2, kernel_size, kernel_size, inputs, outputs)
    defined = definition.Convolution(x[0, 0], kernel[0, 0], stride, padding)
    gradient = rounded(2, 2, 2, 5, *defined.shape, outputs)
    operands = [np.asarray(leaf, np.float64) for leaf in (x, kernel, gradient)]
    clients = zip(*(leaf.reshape(4, *leaf.shape[2:]) for leaf in operands), strict=True)
    numbers = [(defined.output(*one[:2]), *defined.gradients(*one)) for one in clients]
    expected = [
        np.reshape(leaves, (2, 2, *leaves[0].shape)) for leaves in zip(*numbers, strict=True)
    ]

    def report(x, kernel, gradient, form):
        def forward(x, kernel):
            return convolve(x, kernel, stride=stride, padding=padding, form=form)

        y, transpose = jax.vjp(forward, x, kernel)
        return y, *transpose(gradient)

    def run(*operands):
        return [
            lax.map(
                lambda some, form=form: jax.vmap(lambda *one: report(*one, form))(*some), operands
            )
            for form in ("canonical", "im2col")
        ]

    narrow = x.astype(jnp.bfloat16), kernel, gradient.astype(jnp.bfloat16)
    for form, actual in zip(("canonical", "im2col"), jax.jit(run)(*narrow), strict=True):
        y, x_gradient, kernel_gradient = actual
        assert (y.dtype, x_gradient.dtype) == (jnp.bfloat16, jnp.bfloat16)
        assert kernel_gradient.dtype == jnp.float32
        assert_near(y, expected[0], ROUNDING)
        # Rows of windows are rounded before those of one pixel are added up.
        assert_near(x_gradient, expected[1], 2 * ROUNDING if form == "im2col" else ROUNDING)
        assert_near(kernel_gradient, expected[2], 1e-5)


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


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("form", ["canonical", "im2col"])
def test_sums_over_the_windows_that_see_a_pixel_are_float32(form, channels):
    """256 and seven times 1 and 256, in either order: in bfloat16 the ones are lost."""
    kernel = np.ones((3, 3, 1, channels), np.float32)  # Depthwise for two channels.
    kernel[0, 0] = kernel[2, 2] = 256
    x = jnp.ones((1, 5, 5, channels), jnp.bfloat16)

    @jax.jit
    @jax.grad
    def gradient(x):
        return jnp.sum(convolve(x, kernel, form=form).astype(jnp.float32))

    np.testing.assert_array_equal(gradient(x)[0, 2, 2].astype(np.float32), [520.0] * channels)


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


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.large) if name == "tiny_mobilenet" else name
        for name in (*models.FAMILIES["tiny"], "tiny_vit")
    ],
)
def test_outputs_and_gradients_are_near_those_of_float32(name):
    """Rounding puts one ReLU in some hundred on the other side of its edge.

    A share p of changed signs turns the gradient by about sqrt(p), here up to 0.15; outputs move by
    a few roundings.
    """
    digits = data.load("digits")
    images = jnp.asarray(digits.images[:32] / 127.5 - 1.0, jnp.float32)
    labels = digits.labels[:32]
    targets = 10 * jax.random.normal(jax.random.key(1), (10, 64)) / 8

    def report(precision, variables):
        model = models.build(
            name, num_classes=10, feature_dim=64, image_shape=(8, 8, 1), precision=precision
        )

        def loss(params):
            outputs, updated = model.apply({**variables, "params": params}, images, True)
            scores = jnp.take_along_axis(
                jax.nn.log_softmax(outputs.logits), labels[:, None], axis=1
            )
            distance = jnp.mean((outputs.features - targets[labels]) ** 2)
            return 10 * distance - jnp.mean(scores), (outputs, updated["batch_stats"])

        gradients, (outputs, statistics) = jax.grad(loss, has_aux=True)(variables["params"])
        return gradients, outputs, statistics

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(key):
        init = models.build(name, num_classes=10, feature_dim=64, image_shape=(8, 8, 1)).init
        variables = init(key)
        return [report(precision, variables) for precision in PRECISIONS]

    expected, actual = jax.device_get(run(jax.random.key(0)))
    assert {leaf.dtype for leaf in jax.tree.leaves(actual)} == {np.dtype(np.float32)}
    for one, other, tolerance in zip(actual, expected, (0.25, 0.03, 0.01), strict=True):
        difference = jax.tree.map(np.subtract, one, other)
        assert length(difference) <= tolerance * length(other)
    assert length(actual[0]) == pytest.approx(length(expected[0]), rel=0.05)


@pytest.mark.large
def test_training_learns(small_set):
    """As it does in float32, in a whole simulation of the net with the most kinds of layers."""
    settings = Config(
        family="tiny_mobilenet",
        num_clients=4,
        alpha=1.0,
        min_samples=10,
        rounds=12,
        eval_every=12,
        batch_size=8,
        feature_dim=16,
        method_settings={"scale": 8.0},
        learning_rate=0.05,
        precision="bfloat16",
        devices=1,
    )
    with hasty():
        run = protonorm_jax.run(settings, dataset=small_set)
    assert run.rows[-1]["prototype_accuracy"] > 0.75
    assert run.arrays["prototypes"].dtype == np.float32


def test_the_compiler_is_told_to_leave_no_rounding_out(small_set, monkeypatch):
    """Which it does or not by the layout of the clients, so that bits depended on the devices."""

    class ToldError(Exception):
        pass

    compile_as_told, told = jax.stages.Lowered.compile, []

    def spy(lowered, options=None):
        told.append(options)
        if len(told) == 2:  # The program that trains; the first one makes the clients.
            raise ToldError
        return compile_as_told(lowered, options)

    monkeypatch.setattr(jax.stages.Lowered, "compile", spy)
    config = Config(family="mlp", num_clients=2, alpha=1.0, feature_dim=8, precision="bfloat16")
    with pytest.raises(ToldError):
        driver.prepare([config.replace(devices=1)], small_set)
    assert told == [None, {"xla_allow_excess_precision": False}]


def test_the_setting_reaches_the_models(small_set):
    """Their passes are bfloat16 inside if, and only if, the setting says so."""
    for precision in PRECISIONS:
        config = Config(family="mlp", num_clients=2, alpha=1.0, feature_dim=8, precision=precision)
        program = planning.make([config], small_set).program
        model = program.architectures[0].models.private
        variables = jax.eval_shape(model.init, jax.random.key(0))
        images = jax.ShapeDtypeStruct((2, *small_set.images.shape[1:]), jnp.float32)
        assert ("bf16" in str(jax.make_jaxpr(model.apply)(variables, images))) == (
            precision == "bfloat16"
        )
