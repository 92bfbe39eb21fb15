"""Every form of every layer against the stock operation or the definition."""

import functools
import math
import re

import definition
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import jaxprs_in_params

from protonorm_jax import models
from protonorm_jax.models import layers
from protonorm_jax.models.layers import convolution, in_place
from protonorm_jax.models.layers.batch_norm import normalize_batch
from protonorm_jax.models.layers.convolution import convolve
from protonorm_jax.models.layers.pooling import adaptive_average_pool, max_pool

FORMS = ("canonical", "native")
"""Of all layers but convolutions and batch norms, where `im2col` is as `canonical`."""
QUICKLY = {"xla_backend_optimization_level": 0}
"""How to compile what runs only once."""

# Image size, kernel, stride, padding; images are one wider than high, so that both cases of a
# remainder are there.
GEOMETRIES = {
    "as most": (5, 3, 1, 1),
    "halves the image": (7, 3, 2, 1),
    "no padding": (5, 3, 1, 0),
    "larger than the image": (2, 5, 1, 2),
    "larger than the image, with a stride": (1, 3, 2, 1),
    "reaches beyond the kernel": (5, 2, 3, 0),
    "one pixel": (7, 1, 2, 0),
    "no overlap": (7, 3, 3, 0),
}
# Inputs of the image and of the kernel, and outputs: as inside of a net, of an image, depthwise.
CHANNELS = ((6, 6, 5), (2, 2, 6), (6, 1, 6))


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def close(first, second, tolerance=1e-10):
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert one.shape == other.shape
        scale = max(float(np.max(np.abs(other))), 1e-3) if other.size else 1.0
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_all_forms_of_a_convolution_follow_its_definition(geometry, monkeypatch):
    """Outputs, gradients, and what comes of differentiating the gradients.

    A convolution is linear in each operand, and so are its gradients: their derivatives are
    convolutions and gradients of other operands. Sums over few rows are cut into parts, too.
    """
    monkeypatch.setattr(convolution, "_ROWS_OF_PART", 5)
    size, kernel_size, stride, padding = GEOMETRIES[geometry]
    cases, expected = [], []
    for image, inputs, outputs in CHANNELS:
        x = normal(0, 3, size, size + 1, image)
        kernel = normal(1, kernel_size, kernel_size, inputs, outputs)
        defined = definition.Convolution(x, kernel, stride, padding)
        gradient = normal(2, 3, *defined.shape, outputs)
        of_x, of_kernel = normal(3, *x.shape), normal(4, *kernel.shape)
        numbers = (
            defined.output(x, kernel),
            defined.gradients(x, kernel, gradient),
            (
                defined.x_gradient(of_kernel, gradient),
                defined.kernel_gradient(of_x, gradient, kernel.shape),
                defined.output(of_x, kernel) + defined.output(x, of_kernel),
            ),
            defined.output(x, kernel),
        )
        # For an image it is the same.
        for form in ("canonical",) if image == 2 else ("canonical", "im2col"):
            cases.append((form, (x, kernel, gradient), (of_x, of_kernel)))
            expected.append(numbers)

    def report(form, operands, weights):
        def forward(x, kernel):
            return convolve(x, kernel, stride=stride, padding=padding, form=form)

        def backward(x, kernel, gradient):
            return jax.vjp(forward, x, kernel)[1](gradient)

        gradients, again = jax.vjp(backward, *operands)
        stock = convolve(*operands[:2], stride=stride, padding=padding, form="native")
        return forward(*operands[:2]), gradients, again(weights), stock

    with jax.enable_x64(True):
        forms = [form for form, *_ in cases]
        run = jax.jit(
            lambda rest: [report(f, *r) for f, r in zip(forms, rest, strict=True)],
            compiler_options=QUICKLY,
        )
        close(run([rest for _, *rest in cases]), expected)


@pytest.mark.parametrize("form", ["canonical", "im2col"])
def test_convolution_of_vmapped_clients_is_a_loop_over_them(form):
    x, kernels = normal(0, 2, 3, 6, 5, 4), (normal(1, 2, 3, 3, 4, 5), normal(2, 2, 3, 3, 1, 4))

    def report(x, kernel, gradient):
        y, backward = jax.vjp(
            lambda *both: convolve(*both, stride=2, padding=1, form=form), x, kernel
        )
        return y, backward(gradient)

    for kernel in kernels:
        gradient = normal(3, 2, 3, 3, 3, kernel.shape[-1])
        with jax.enable_x64(True):
            run = jax.jit(jax.vmap(report), compiler_options=QUICKLY)
            together = run(x, kernel, gradient)
        for client in range(2):
            defined = definition.Convolution(x[client], kernel[client], 2, 1)
            expected = (
                defined.output(x[client], kernel[client]),
                defined.gradients(x[client], kernel[client], gradient[client]),
            )
            close(jax.tree.map(lambda leaf, client=client: leaf[client], together), expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "geometry",
    [
        (7, 3, 2, 1, False),
        (1, 3, 2, 1, False),
        (9, 2, 2, 0, False),
        (7, 3, 2, 0, True),
        (2, 3, 2, 0, True),
        (1, 2, 2, 0, True),
        (3, 2, 2, 1, True),
        (8, 3, 1, 1, True),
    ],
    ids=str,
)
def test_max_pool_and_its_gradient_take_the_first_of_equal_maxima(geometry, form):
    size, kernel, stride, padding, incomplete = geometry

    @jax.jit
    def run(x, gradient):
        y, backward = jax.vjp(lambda x: max_pool(x, *geometry[1:], form), x)
        return y, backward(gradient)[0]

    for ties in (False, True):
        x = normal(0, 3, size, size + 1, 5)
        x = np.maximum(np.round(x), 0) if ties else x
        # Windows start before the far end, and reach over it by the padding, or less than a stride
        # further.
        further = stride - 1 if incomplete else 0
        pads = ((0, 0), *[(padding, padding + further)] * 2, (0, 0))
        padded = np.pad(x, pads, constant_values=-np.inf)
        shape = [
            sum(
                start + kernel <= n + 2 * padding + further
                for start in range(0, n + padding, stride)
            )
            for n in x.shape[1:3]
        ]
        places = list(definition.places(shape, kernel, stride))
        windows = np.stack([padded[where] for _, where in places])
        gradient = normal(1, *windows.shape[1:])
        expected = np.zeros(padded.shape)
        for number, (_, where) in enumerate(places):
            expected[where] += np.where(windows.argmax(0) == number, gradient, 0)
        inner = [slice(padding, padding + n) for n in x.shape[1:3]]
        with jax.enable_x64(True):
            close(run(x, gradient), (windows.max(0), expected[:, inner[0], inner[1]]))


def test_max_pool_can_be_differentiated_twice_and_passes_nan_on():
    x = normal(0, 1, 5, 5, 1)

    def slope(x, pool):
        gradient = jax.grad(lambda x: jnp.sum(pool(x) ** 3))(x)
        return jnp.sum(gradient**2)

    def stock(x):
        parts = [x[:, i : i + 4 : 2, j : j + 4 : 2] for i in range(2) for j in range(2)]
        return jnp.max(jnp.stack(parts), axis=0)

    with jax.enable_x64(True):
        pools = [functools.partial(max_pool, kernel=2, stride=2, form=form) for form in FORMS]
        *ours, theirs = jax.jit(lambda x: [jax.grad(slope)(x, pool) for pool in (*pools, stock)])(x)
        for one in ours:
            close(one, theirs)
    x[0, 1, 0, 0] = np.nan
    for pool in pools:
        assert np.isnan(pool(jnp.asarray(x))[0, 0, 0, 0])


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

    return jax.jit(report, compiler_options=QUICKLY)


def test_batch_norm_gradients_are_those_of_the_definition():
    """With and without two rows of padding in the middle, which come out as the bias."""
    real = np.array([0, 1, 4, 5])
    mask = np.isin(np.arange(6), real).astype(float)

    def textbook_of_real_rows(x, scale, bias):
        padding = jnp.broadcast_to(bias.reshape(1, 1, 1, -1), x.shape)
        return padding.at[real].set(textbook_norm(x[real], scale, bias))

    args = normal(0, 6, 3, 2, 4), normal(1, 4), normal(2, 4), normal(3, 6, 3, 2, 4)
    for rows, definition_of in ((None, textbook_norm), (mask, textbook_of_real_rows)):
        with jax.enable_x64(True):
            expected = norm_report(definition_of)(*args)
        for form in (*FORMS, "im2col"):

            def ours(x, scale, bias, rows=rows, form=form):
                return normalize_batch(x, scale, bias, rows, 1e-5, form)[0]

            with jax.enable_x64(True):
                close(norm_report(ours)(*args), expected)


def test_batch_norm_statistics_follow_pytorch_and_survive_an_almost_empty_mask():
    x = normal(0, 3, 1, 2, 2).astype(np.float32)
    norm = layers.BatchNorm()
    variables = norm.init(jax.random.key(0), x, layers.Context())
    old = {"mean": jnp.array([2.0, -1.0]), "var": jnp.array([3.0, 5.0])}

    @jax.jit
    def run(params, x, mask):
        def loss(params, x):
            context = layers.Context(train=True, mask=mask)
            given = {"params": params, "batch_stats": old}
            y, updates = norm.apply(given, x, context, mutable=["batch_stats"])
            return jnp.sum(y**3), updates["batch_stats"]

        return jax.grad(loss, (0, 1), has_aux=True)(params, x)

    for real in (0, 1, 3):
        mask = (np.arange(3) < real).astype(np.float32)
        gradients, stats = run(variables["params"], x, mask)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gradients, stats)))
        if real == 0:
            np.testing.assert_array_equal(stats["mean"], old["mean"])
            np.testing.assert_array_equal(stats["var"], old["var"])
            continue
        values = x[:real].reshape(-1, 2)
        mean, variance = values.mean(0), values.var(0, ddof=1)
        np.testing.assert_allclose(stats["mean"], 0.9 * old["mean"] + 0.1 * mean, rtol=1e-5)
        np.testing.assert_allclose(stats["var"], 0.9 * old["var"] + 0.1 * variance, rtol=1e-5)
    evaluated = norm.apply({**variables, "batch_stats": old}, x, layers.Context())
    mean, variance = np.asarray(old["mean"]), np.asarray(old["var"])
    expected = (x - mean) / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(evaluated, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("length", "size"), [(256, 512), (1280, 512), (1024, 512), (7, 7), (10, 4), (5, 8)]
)
def test_adaptive_average_pool_follows_its_definition(length, size):
    x = normal(0, 2, length).astype(np.float32)
    expected = np.stack(
        [x[:, i * length // size : -(-(i + 1) * length // size)].mean(axis=1) for i in range(size)],
        axis=1,
    )
    for form in FORMS:
        actual = adaptive_average_pool(x, size, form)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def sums(jaxpr):
    """How many numbers each sum of a traced function adds up for one of its results."""
    for equation in jaxpr.eqns:
        shape = equation.invars[0].aval.shape if equation.invars else ()
        if equation.primitive.name == "reduce_sum":
            yield math.prod(shape[axis] for axis in equation.params["axes"])
        elif equation.primitive.name == "dot_general":
            (axes, _), _ = equation.params["dimension_numbers"]
            yield math.prod(shape[axis] for axis in axes)
        for inner in jaxprs_in_params(equation.params):
            yield from sums(inner)


@pytest.mark.parametrize("masked", [True, False])
def test_no_gradient_for_a_gpu_is_one_long_sum_over_all_images(masked):
    """Few threads would do it: seen there, ten such sums took a third of a step of MobileNetV2."""
    batch, size, channels = 32, 16, 32
    x, mask = jnp.zeros((batch, size, size, channels)), jnp.ones(batch)

    def loss(pointwise, depthwise, scale):
        y = convolve(x, pointwise, form="im2col")
        y = convolve(y, depthwise, padding=1, form="im2col")
        rows = mask if masked else None
        return normalize_batch(y, scale, scale, rows, 1e-5, "im2col")[0]

    def gradient(weights, *params):
        return jax.vjp(loss, *params)[1](weights)

    params = jnp.ones((1, 1, channels, channels)), jnp.ones((3, 3, 1, channels)), jnp.ones(channels)
    traced = jax.make_jaxpr(jax.vmap(gradient, (None, 0, 0, 0)))(
        x, *(jnp.stack([one] * 2) for one in params)
    )
    found = list(sums(traced.jaxpr))
    assert found.count(size * size) >= 9 and max(found) <= 512


def test_a_step_changes_kernels_where_they_lie(monkeypatch):
    """Copied in every step, the kernels took up to an eighth of it."""
    shapes = [(3, 3, 3, 24), (1, 1, 24, 40), (3, 3, 40, 32), (3, 3, 32, 8)]
    kernels = [jnp.ones(shape) for shape in shapes]

    def loss(kernels, y):
        for kernel in kernels:
            y = jnp.tanh(convolve(y, kernel, padding=kernel.shape[0] // 2, form="canonical"))
            y = y[:, ::4, ::4] if kernel.shape[2] == 40 else y  # The last sees 2 x 2.
        return jnp.sum(y**2)

    def copied():
        def train(kernels, count, x):
            def step(_, kernels):
                slopes = jax.grad(loss)(kernels, x)
                return [one - 0.01 * slope for one, slope in zip(kernels, slopes, strict=True)]

            return lax.fori_loop(0, count, step, kernels)

        lowered = jax.jit(train, donate_argnums=0).lower(kernels, 5, jnp.ones((4, 8, 8, 3)))
        text = lowered.compile().as_text()
        found = re.findall(r"f32\[([\d,]+)\]\S* copy\(%get-tuple-element", text)
        sizes = {math.prod(int(side) for side in one.split(",")) for one in found}
        return sizes & {math.prod(shape) for shape in shapes}

    assert not copied()
    monkeypatch.setattr(in_place, "in_order", lambda of_x, of_kernel, wanted: of_kernel)
    assert copied()


@pytest.mark.parametrize("geometry", [(8, 3, 40, 1), (8, 3, 3, 1), (8, 1, 40, 0), (2, 3, 40, 1)])
def test_a_first_layer_does_not_wait_for_a_gradient_that_nobody_reads(geometry):
    """Geometry: side of the image, of the kernel, channels of the image, padding."""
    side, size, channels, padding = geometry
    x, kernel = jnp.ones((4, side, side, channels)), jnp.ones((size, size, channels, 32))

    def loss(x, kernel):
        return jnp.sum(convolve(x, kernel, padding=padding, form="canonical") ** 2)

    def flops(argument_numbers):
        compiled = jax.jit(jax.grad(loss, argument_numbers)).lower(x, kernel).compile()
        return compiled.cost_analysis()["flops"]

    assert flops(1) < 0.8 * flops((0, 1))


def test_a_gradient_that_jax_knows_to_be_zero_becomes_zeros():
    given = jnp.ones((2, 3))
    assert in_place.dense(given) is given
    found = in_place.dense(SymbolicZero(jax.typeof(given)))
    np.testing.assert_array_equal(found, np.zeros((2, 3), np.float32), strict=True)


def test_dropout_needs_a_key_and_keeps_the_mean():
    x = jnp.ones((64, 64))
    assert layers.dropout(x, 0.2, None) is x
    kept = layers.dropout(x, 0.2, jax.random.key(0))
    assert abs(float(jnp.mean(kept)) - 1) < 0.02
    np.testing.assert_allclose(np.unique(kept), [0.0, 1.25])


@pytest.mark.parametrize("name", ["fedavg_cnn", "tiny_resnet"])
def test_training_in_a_loop_compiles_to_fast_convolutions_only(name):
    """The compiler leaves the layouts alone that `test_models` sees in every model's program."""
    shape = (16, 16, 3)
    model = models.build(name, num_classes=4, feature_dim=16, image_shape=shape, form="canonical")

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
    assert convolutions, "The pattern finds no convolution; has the format of the text changed?"
    for line in convolutions:
        assert "dim_labels=b01f_01io->b01f" in line
        assert "group_count" not in line
