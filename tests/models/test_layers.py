"""Every form of every layer against the stock operation or the definition."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from protonorm_jax import models
from protonorm_jax.models import layers
from protonorm_jax.models.layers.batch_norm import normalize_batch
from protonorm_jax.models.layers.convolution import convolve
from protonorm_jax.models.layers.pooling import adaptive_average_pool, max_pool

# Image size, kernel, stride, padding; second derivatives, which compile slowly, for a few only.
TWICE = [(7, 3, 2, 1), (2, 3, 1, 1), (6, 5, 1, 0)]
GEOMETRIES = [
    (8, 3, 1, 1),
    (7, 3, 2, 1),
    (8, 3, 2, 1),
    (4, 3, 2, 1),
    (2, 3, 1, 1),
    (1, 3, 2, 1),
    (6, 5, 1, 0),
    (6, 5, 2, 2),
    (2, 5, 1, 2),
    (1, 5, 2, 2),
    (8, 7, 2, 3),
    (5, 2, 3, 0),
    (6, 1, 1, 0),
    (7, 1, 2, 0),
]


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def close(first, second, tolerance=1e-10):
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        scale = max(float(jnp.max(jnp.abs(other))), 1e-3) if other.size else 1.0
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_all_forms_of_a_convolution_agree(geometry):
    size, kernel_size, stride, padding = geometry
    shape = (3, size, size + 1, 6)

    def report(form, x, kernel, weight):
        def scalar(x, kernel):
            y = convolve(x, kernel, stride=stride, padding=padding, form=form)
            return jnp.sum(jnp.sin(y) * weight[:, : y.shape[1], : y.shape[2], : y.shape[3]])

        def slope(x, kernel):
            gradients = jax.grad(scalar, (0, 1))(x, kernel)
            return sum(jnp.sum(jnp.cos(gradient)) for gradient in gradients), gradients

        y = convolve(x, kernel, stride=stride, padding=padding, form=form)
        if geometry in TWICE:
            return y, jax.grad(slope, (0, 1), has_aux=True)(x, kernel)
        return y, slope(x, kernel)[1]

    with jax.enable_x64(True):
        whole, weight = normal(0, *shape), normal(1, 3, 20, 20, 6)
        run = jax.jit(report, static_argnums=0)
        # As many channels as a net inside, as few as an image, and one kernel for each.
        for channels, inputs, outputs in ((6, 6, 5), (2, 2, 6), (6, 1, 6)):
            x = whole[..., :channels]
            kernel = normal(2, kernel_size, kernel_size, inputs, outputs)
            expected = run("lax", x, kernel, weight)
            close(run("canonical", x, kernel, weight), expected)
            if inputs == 6:  # In the others it is the same.
                close(run("im2col", x, kernel, weight), expected)


def test_convolution_of_vmapped_clients_is_a_loop_over_them():
    x, kernel, depthwise = (
        normal(0, 2, 3, 6, 6, 4),
        normal(1, 2, 3, 3, 4, 5),
        normal(2, 2, 3, 3, 1, 4),
    )
    for kernels in (kernel, depthwise):
        for form in ("canonical", "im2col"):

            def loss(x, kernel, form=form):
                return jnp.sum(convolve(x, kernel, stride=2, padding=1, form=form) ** 2)

            gradient = jax.jit(jax.grad(loss, (0, 1)))
            with jax.enable_x64(True):
                loop = [gradient(x[client], kernels[client]) for client in range(2)]
                close(
                    jax.jit(jax.vmap(gradient))(x, kernels),
                    jax.tree.map(lambda *a: jnp.stack(a), *loop),
                )


@pytest.mark.parametrize(
    "geometry", [(8, 3, 2, 1), (7, 3, 2, 1), (1, 3, 2, 1), (9, 2, 2, 0)], ids=str
)
@pytest.mark.parametrize("ties", [False, True])
def test_max_pool_and_its_gradient_are_those_of_reduce_window(geometry, ties):
    size, kernel, stride, padding = geometry
    x = normal(0, 3, size, size + 1, 5).astype(np.float32)
    x = np.maximum(np.round(x), 0) if ties else x

    def stock(x):
        pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        window = (1, kernel, kernel, 1)
        return lax.reduce_window(x, -jnp.inf, lax.max, window, (1, stride, stride, 1), pads)

    expected, stock_gradient = jax.vjp(stock, x)
    actual, gradient = jax.vjp(lambda x: max_pool(x, kernel, stride, padding), x)
    np.testing.assert_array_equal(actual, expected)
    cotangent = normal(1, *expected.shape).astype(np.float32)
    np.testing.assert_array_equal(gradient(cotangent)[0], stock_gradient(cotangent)[0])


def test_max_pool_can_be_differentiated_twice_and_passes_nan_on():
    x = normal(0, 1, 5, 5, 1)

    def slope(x, pool):
        gradient = jax.grad(lambda x: jnp.sum(pool(x) ** 3))(x)
        return jnp.sum(gradient**2)

    def stock(x):
        parts = [x[:, i : i + 4 : 2, j : j + 4 : 2] for i in range(2) for j in range(2)]
        return jnp.max(jnp.stack(parts), axis=0)

    with jax.enable_x64(True):
        close(jax.grad(slope)(x, lambda x: max_pool(x, 2, 2)), jax.grad(slope)(x, stock))
    x[0, 1, 0, 0] = np.nan
    assert np.isnan(max_pool(jnp.asarray(x), 2, 2)[0, 0, 0, 0])


def textbook_norm(x, scale, bias, epsilon=1e-5):
    mean, variance = jnp.mean(x, axis=(0, 1, 2)), jnp.var(x, axis=(0, 1, 2))
    wide = [v.reshape(1, 1, 1, -1) for v in (mean, variance, scale, bias)]
    return (x - wide[0]) / jnp.sqrt(wide[1] + epsilon) * wide[2] + wide[3]


def norm_report(normalize):
    """Returns outputs, first and second gradients of a normalisation, of three arguments."""

    def scalar(x, scale, bias, weight):
        return jnp.sum(weight * jnp.sin(normalize(x, scale, bias)))

    def slope(*args):
        gradients = jax.grad(scalar, (0, 1, 2))(*args)
        return sum(jnp.sum(jnp.cos(gradient)) for gradient in gradients), gradients

    def report(*args):
        (_, first), second = jax.value_and_grad(slope, (0, 1, 2), has_aux=True)(*args)
        return normalize(*args[:3]), first, second

    return jax.jit(report)


def test_batch_norm_gradients_are_those_of_the_definition():
    with jax.enable_x64(True):
        args = normal(0, 6, 3, 2, 4), normal(1, 4), normal(2, 4), normal(3, 6, 3, 2, 4)
        ours = norm_report(lambda x, scale, bias: normalize_batch(x, scale, bias, None, 1e-5)[0])
        expected = norm_report(textbook_norm)(*args)
        close(ours(*args), expected)

        # Two rows of padding in the middle change nothing.
        real = np.array([0, 1, 4, 5])
        mask = np.zeros(6)
        mask[real] = 1
        padded = norm_report(lambda x, scale, bias: normalize_batch(x, scale, bias, mask, 1e-5)[0])
        weight = args[3] * mask.reshape(-1, 1, 1, 1)
        y, first, second = padded(*args[:3], weight)
        expected = norm_report(textbook_norm)(args[0][real], *args[1:3], weight[real])
        close((y[real], first[0][real], *first[1:]), (expected[0], *expected[1]))
        close((second[0][real], *second[1:]), expected[2])
        close(first[0][2:4], np.zeros((2, 3, 2, 4)))


@pytest.mark.parametrize("real", [0, 1, 3])
def test_batch_norm_statistics_follow_pytorch_and_survive_an_almost_empty_mask(real):
    x = normal(0, 3, 1, 1, 2).astype(np.float32)
    mask = (np.arange(3) < real).astype(np.float32)
    norm = layers.BatchNorm()
    variables = norm.init(jax.random.key(0), x, layers.Context())
    variables["params"]["scale"] = jnp.ones(2)

    def loss(params, x):
        y, updates = norm.apply(
            {**variables, "params": params},
            x,
            layers.Context(train=True, mask=mask),
            mutable=["batch_stats"],
        )
        return jnp.sum(y**3), updates["batch_stats"]

    gradients, stats = jax.grad(loss, (0, 1), has_aux=True)(variables["params"], x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gradients, stats)))
    if real == 0:
        np.testing.assert_array_equal(stats["mean"], np.zeros(2))
        np.testing.assert_array_equal(stats["var"], np.ones(2))
    if real == 3:
        values = x[:, 0, 0]
        np.testing.assert_allclose(stats["mean"], 0.1 * values.mean(0), rtol=1e-5)
        np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * values.var(0, ddof=1), rtol=1e-5)


@pytest.mark.parametrize(
    ("length", "size"), [(256, 512), (1280, 512), (1024, 512), (7, 7), (10, 4), (5, 8)]
)
def test_adaptive_average_pool_follows_its_definition(length, size):
    x = normal(0, 2, length).astype(np.float32)
    expected = np.stack(
        [x[:, i * length // size : -(-(i + 1) * length // size)].mean(axis=1) for i in range(size)],
        axis=1,
    )
    np.testing.assert_allclose(adaptive_average_pool(x, size), expected, rtol=1e-5, atol=1e-6)


def test_dropout_needs_a_key_and_keeps_the_mean():
    x = jnp.ones((64, 64))
    assert layers.dropout(x, 0.2, None) is x
    kept = layers.dropout(x, 0.2, jax.random.key(0))
    assert abs(float(jnp.mean(kept)) - 1) < 0.02
    np.testing.assert_allclose(np.unique(kept), [0.0, 1.25])


@pytest.mark.parametrize("name", models.NAMES)
def test_training_in_a_loop_compiles_to_fast_convolutions_only(name):
    shape = (32, 32, 3)
    model = models.build(
        name, num_classes=10, feature_dim=64, image_shape=shape, convolution="canonical"
    )

    def loss(params, variables, images):
        outputs, variables = model.apply({**variables, "params": params}, images, True)
        return jnp.sum(outputs.logits**2), variables

    def step(variables, images):
        gradients, variables = jax.grad(loss, has_aux=True)(variables["params"], variables, images)
        params = jax.tree.map(lambda p, g: p - 0.01 * g, variables["params"], gradients)
        return {**variables, "params": params}, None

    variables = jax.eval_shape(model.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, 4, *shape), jnp.float32)
    program = jax.jit(lambda variables, images: lax.scan(step, variables, images))
    text = program.lower(variables, images).compile().as_text()
    convolutions = re.findall(r"= \S+ convolution\(.*", text)
    if name != "mlp":
        assert convolutions, "The pattern finds no convolution; has the format of the text changed?"
    for line in convolutions:
        assert "dim_labels=b01f_01io->b01f" in line
        assert "group_count" not in line
