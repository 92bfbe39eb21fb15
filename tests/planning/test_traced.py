"""What is read from traced functions."""

import jax
import jax.numpy as jnp

from protonorm_jax import scopes
from protonorm_jax.planning import memory
from protonorm_jax.planning.traced import product_flops, trace

VECTOR = jax.ShapeDtypeStruct((100,), jnp.float32)


def test_operations_within_loops_are_counted_once():
    def alone(x):
        return jnp.sin(jnp.exp(x))

    def looped(x):
        return jax.lax.fori_loop(0, 5, lambda _, y: jnp.sin(jnp.exp(y)), x)

    assert trace(alone, VECTOR, memory.num_bytes).operations == 2
    found = trace(looped, VECTOR, memory.num_bytes)
    assert found.operations == 2 + 1  # And the index is counted up.
    assert found.result.shape == (100,)


def test_the_peak_is_of_what_is_alive_at_a_time():
    def chain(x):
        return jnp.sin(jnp.cos(jnp.exp(x)))

    def joined(x):
        return jnp.exp(x) + jnp.cos(x) * jnp.sin(x)

    assert trace(chain, VECTOR, memory.num_bytes).peak == 2 * 400
    assert trace(joined, VECTOR, memory.num_bytes).peak == 4 * 400
    assert trace(jax.jit(chain), VECTOR, lambda leaf: leaf.size).peak == 2 * 100 + 100


MATRIX = jax.ShapeDtypeStruct((4, 4), jnp.float32)
ONCE = 2 * 4 * 4 * 4


def test_products_are_counted_as_often_as_loops_go_round():
    def scanned(x):
        return jax.lax.scan(lambda y, _: (y @ x, ()), x, length=5)[0]

    def named(x):
        with scopes.loop("times", 7):
            return jax.lax.while_loop(lambda y: y[0, 0] > 0, lambda y: y @ x, x)

    def unnamed(x):
        return jax.lax.while_loop(lambda y: y[0, 0] > 0, lambda y: y @ x @ x, x)

    def chosen(x):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ x, lambda: x @ x @ x)

    def unused(x):
        return jax.jit(lambda x: (x @ x, x))(x)[1] @ x

    counted = [product_flops(one, MATRIX) for one in (scanned, named, unnamed, chosen, unused)]
    assert counted == [5 * ONCE, 7 * ONCE, 2 * ONCE, ONCE, ONCE]


def test_borders_and_holes_of_convolutions_are_no_products():
    def convolved(images, stride=1, groups=1):
        kernel = jnp.ones((3, 3, 6 // groups, 6))
        return jax.lax.conv_general_dilated(
            images,
            kernel,
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    images = jax.ShapeDtypeStruct((2, 4, 4, 6), jnp.float32)
    inner = 2 * 6 * (2 + 3 + 3 + 2) ** 2  # Of images and features, by what of a window is inside.
    assert product_flops(convolved, images) == 2 * inner * 6
    assert product_flops(lambda images: convolved(images, groups=6), images) == 2 * inner
    # Backward by the images is as much, and by the kernel, too.
    forward = 2 * 2 * 6 * 6 * (3 + 2) ** 2
    both = jax.grad(lambda images: (convolved(images, 2) ** 2).sum())
    assert product_flops(lambda images: convolved(images, 2), images) == forward
    assert product_flops(both, images) == 2 * forward
