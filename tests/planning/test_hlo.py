"""Counting what compiled programs compute and move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from protonorm_jax import scopes
from protonorm_jax.planning import hlo
from protonorm_jax.planning.hlo import Cost
from protonorm_jax.scopes import Loop

# As a TPU's compiler writes it: `T` are tiles, in `S(1)` lies what is in a chip's fast memory.
TILED = """\
HloModule tiled, is_scheduled=true

%fused (param_0: f32[100,3], param_1: s32[], param_2: f32[1,3]) -> f32[100,3] {
  %param_0 = f32[100,3]{1,0:T(8,128)} parameter(0)
  %param_1 = s32[]{:T(128)} parameter(1)
  %param_2 = f32[1,3]{1,0:T(1,128)S(1)} parameter(2)
  %zero = s32[]{:T(128)} constant(0)
  ROOT %update = f32[100,3]{1,0:T(8,128)} dynamic-update-slice(%param_0, %param_2, %param_1, %zero)
}

%body (state: (s32[], f32[100,3])) -> (s32[], f32[100,3]) {
  %state = (s32[]{:T(128)}, f32[100,3]{1,0:T(8,128)}) parameter(0)
  %turn = s32[]{:T(128)S(1)} get-tuple-element(%state), index=0
  %rows = f32[100,3]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %one = f32[1,3]{1,0:T(1,128)S(1)} constant({...})
  %new = f32[100,3]{1,0:T(8,128)} fusion(%rows, %turn, %one), kind=kLoop, calls=%fused, \
backend_config={"window_config":{},"estimated_cycles":"70","flag":false}
  ROOT %both = (s32[]{:T(128)}, f32[100,3]{1,0:T(8,128)}) tuple(%turn, %new)
}

%condition (state: (s32[], f32[100,3])) -> pred[] {
  %state = (s32[]{:T(128)}, f32[100,3]{1,0:T(8,128)}) parameter(0)
  %limit = s32[]{:T(128)} constant(20)
  %turn = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %less = pred[]{:T(512)} compare(%turn, %limit), direction=LT
}

ENTRY %main (x: f32[100,3], y: bf16[20,32,64], z: bf16[20,64,8]) -> f32[100,3] {
  %x = f32[100,3]{1,0:T(8,128)} parameter(0)
  %y = bf16[20,32,64]{2,1,0:T(8,128)(2,1)S(1)} parameter(1)
  %z = bf16[20,64,8]{2,1,0:T(8,128)(2,1)S(1)} parameter(2)
  %product = f32[20,32,8]{2,1,0:T(8,128)S(1)} convolution(%y, %z), \
window={size=20 stride=19 lhs_dilate=20}, dim_labels=0bf_0io->0bf
  %moved = (f32[100,3]{1,0:T(8,128)S(1)}, f32[100,3]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x)
  %here = f32[100,3]{1,0:T(8,128)S(1)} copy-done(%moved)
  %first = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, f32[100,3]{1,0:T(8,128)}) tuple(%first, %x)
  %end = (s32[]{:T(128)}, f32[100,3]{1,0:T(8,128)}) while(%start), condition=%condition, \
body=%body, metadata={op_name="jit(main)/while/body/gather"}
  ROOT %result = f32[100,3]{1,0:T(8,128)} get-tuple-element(%end), index=1
}
"""


def counted(function, *given):
    compiled = jax.jit(function).lower(*given).compile()
    return hlo.count(compiled.as_text()), compiled


def shape(*dims):
    return jax.ShapeDtypeStruct(dims, jnp.float32)


def test_a_product_is_two_operations_for_each_pair():
    found, _ = counted(lambda x, y: x @ y, shape(30, 40), shape(40, 50))
    assert found.by_loop == {None: Cost(2 * 30 * 40 * 50, 4 * (30 * 40 + 40 * 50 + 30 * 50))}
    assert not found.uncounted


@pytest.mark.parametrize(
    ("padding", "stride", "groups", "products"),
    [
        ("VALID", 1, 1, 9 * 36 * 4 * 5),
        ("SAME", 1, 1, 22**2 * 4 * 5),  # Of 3 taps in a row of 8, the two at the borders miss one.
        ("SAME", 2, 1, 11**2 * 4 * 5),
        ("VALID", 1, 4, 9 * 36 * 4),
    ],
)
def test_a_convolution_counts_no_products_with_its_border(padding, stride, groups, products):
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    features = 4 if groups > 1 else 5
    found, compiled = counted(convolve, shape(2, 8, 8, 4), shape(3, 3, 4 // groups, features))
    assert found.by_loop[None].flops == 2 * 2 * products == compiled.cost_analysis()["flops"]


def test_loops_are_multiplied_out():
    def often(x):
        return jax.lax.fori_loop(0, 7, lambda _, y: jnp.tanh(y @ y), x)

    found, compiled = counted(often, shape(16, 16))
    assert found.by_loop[None].flops == 7 * (2 * 16**3 + 16**2)
    assert compiled.cost_analysis()["flops"] < 2 * 2 * 16**3


def test_the_engines_loops_are_counted_for_one_turn():
    def inner(count, x):
        def step(_, y):
            return jax.lax.fori_loop(0, 3, lambda _, z: z @ z, y)

        with scopes.loop("steps"):
            return jax.lax.fori_loop(0, count, step, x)

    def both(count, x):
        with scopes.loop("clients", 0):
            return jax.lax.fori_loop(0, count, lambda _, y: inner(count, y @ y), x)

    found, _ = counted(both, jnp.int32(5), shape(16, 16))
    product, clients = 2 * 16**3, Loop("clients", False, 0)
    assert found.by_loop[clients].flops == product
    assert found.by_loop[Loop("steps", False, 0)].flops == 3 * product
    assert not found.uncounted


def test_loops_of_unknown_length_are_told():
    def unknown(count, x):
        return jax.lax.fori_loop(0, count, lambda _, y: y @ y, x)

    found, _ = counted(unknown, jnp.int32(5), shape(16, 16))
    assert found.uncounted == 1 and found.by_loop[None].flops >= 2 * 16**3


def test_of_branches_the_dearest_counts():
    def choose(which, x):
        return jax.lax.switch(which, [lambda y: y, lambda y: y @ y, lambda y: y @ y @ y], x)

    found, _ = counted(choose, jnp.int32(1), shape(16, 16))
    assert found.by_loop[None].flops == 2 * 2 * 16**3


def test_a_slice_moves_no_more_than_itself():
    def rows(table, index):
        return jnp.sin(table[index])

    found, _ = counted(rows, shape(100_000, 8), np.arange(4))
    assert found.by_loop[None].bytes < 2000


def test_paddings_are_moved_and_fast_memory_is_free():
    found = hlo.count(TILED)
    padded = 4 * 104 * 128
    # Read once into fast memory; then 20 times a hundredth is written.
    assert found.by_loop[None].bytes == padded + 20 * padded / 100
    # Products with the holes between batches are none.
    assert found.by_loop[None].flops == 2 * 20 * 32 * 64 * 8
    assert found.by_loop[None].cycles == 20 * 70
    assert not found.uncounted


def test_an_operation_of_which_the_compiler_expects_nothing_has_no_cycles():
    found = hlo.count(TILED.replace('"estimated_cycles":"70"', f'"estimated_cycles":"{2**63 - 1}"'))
    assert found.by_loop[None].cycles == 0
