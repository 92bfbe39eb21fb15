"""What tiles add to the arguments of a program, as its text says."""

import pytest

from protonorm_jax.planning import hlo, padding

NAMES = ("runs.seed", "samples.inputs.pixels", "samples.labels", "runs.order", "rests")
TEXT = """HloModule jit__fun, entry_computation_layout={(u32[1]{0})->u32[1]{0}}

%inner (p: f32[9999,9999]) -> f32[] {
  ROOT %p = f32[9999,9999]{1,0:T(8,128)} parameter(0), metadata={op_name="other"}
}

ENTRY %main (flat_args_1_.1: u8[60000,784], flat_args_4_.1: f32[1000,3,100]) -> f32[] {
  %flat_args_4_.1 = f32[1000,3,100]{2,1,0:T(4,128)} parameter(1), metadata={op_name="flat_args[4]"}
  %flat_args_1_.1 = u8[60000,784]{0,1:T(8,128)(4,1)} parameter(0), metadata={op_name="flat_args[1]"}
  %flat_args_0_.1 = u32[1,1]{1,0:T(1,128)} parameter(2), metadata={op_name="flat_args[0]"}
  ROOT %done = f32[] constant(0)
}
"""


def test_arguments_are_those_that_the_program_needs():
    found = hlo.arguments(TEXT)
    assert [one.number for one in found] == [0, 1, 4]
    assert [one.own_bytes for one in found] == [4, 60000 * 784, 4 * 1000 * 3 * 100]
    assert [one.bytes for one in found] == [4 * 128, 60032 * 784, 4 * 1000 * 4 * 128]
    unnamed = hlo.arguments(TEXT.replace("flat_args[4]", "x").replace("flat_args[0]", "y"))
    assert [one.number for one in unnamed] == [1, 1, 2]  # By their places in the program.


def test_large_ones_are_named_with_what_they_waste():
    images, states = padding.of_arguments(TEXT, NAMES)
    assert images[:2] == ("samples.inputs.pixels", "u8[60000,784]{0,1:T(8,128)(4,1)}")
    assert images.share() == pytest.approx(32 / 60032)
    assert states.name == "rests" and states.share() == 1 - 3 * 100 / (4 * 128)
    described = padding.description([images, states])
    assert described["bytes"] == images.bytes + states.bytes
    assert described["share"] == (images.wasted + states.wasted) / described["bytes"]
    assert described["arguments"][1]["share"] == states.share()
    assert padding.description([])["share"] == 0
