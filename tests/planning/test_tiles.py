"""Sizes of arrays on a TPU, as its compiler has laid them out (v5e, libtpu 0.0.42.1)."""

import pytest

from protonorm_jax.planning import tiles

# By what the compiled programs say: the order of dimensions from the last on, and the tile.
COMPACT = {
    "f32[1,8,5,4096]{3,1,2,0:T(8,128)}": ((1, 8, 5, 4096), 4, 8 * 5 * 4096 * 4),
    "f32[1,1,5,4096]{3,1,2,0:T(1,128)}": ((1, 1, 5, 4096), 4, 5 * 4096 * 4),
    "f32[1,1,5,10]{3,1,2,0:T(1,128)}": ((1, 1, 5, 10), 4, 5 * 128 * 4),
    "u8[1797,64]{0,1:T(32,128)(4,1)}": ((1797, 64), 1, 64 * 1920),
    "s32[1797]{0:T(1024)}": ((1797,), 4, 2048 * 4),
    "s32[]{:T(128)}": ((), 4, 512),
    "f32[32,8,8,16]{0,3,2,1:T(8,128)}": ((32, 8, 8, 16), 4, 128 * 8 * 8 * 16 * 4),
}
ROW_MAJOR = {
    "f32[8,5,4096]{2,1,0:T(8,128)}": ((8, 5, 4096), 4, 8 * 8 * 4096 * 4),
    "f32[8,20]{1,0:T(8,128)}": ((8, 20), 4, 8 * 128 * 4),
    "u32[3,3,16]{2,1,0:T(4,128)}": ((3, 3, 16), 4, 3 * 4 * 128 * 4),
    "u32[20]{0:T(128)}": ((20,), 4, 128 * 4),
    "f32[512]{0:T(512)}": ((512,), 4, 512 * 4),
}


@pytest.mark.parametrize("layout", COMPACT)
def test_the_order_that_takes_least_is_found(layout):
    shape, itemsize, expected = COMPACT[layout]
    assert tiles.compact(shape, itemsize) == expected


@pytest.mark.parametrize("layout", ROW_MAJOR)
def test_the_last_two_dimensions_are_filled_up(layout):
    shape, itemsize, expected = ROW_MAJOR[layout]
    assert tiles.row_major(shape, itemsize) == expected


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((64, 5, 3, 3, 32, 32), 64 * 5 * 9 * 32 * 128 * 4),
        ((64, 5, 512, 10), 64 * 5 * 16 * 512 * 4),  # Ten rows of 512 columns take less.
        ((64, 5, 10, 512), 64 * 5 * 16 * 512 * 4),
        ((100,), 512),
    ],
)
def test_only_the_last_two_dimensions_change_places(shape, expected):
    assert tiles.in_pairs(shape, 4) == expected


def test_an_array_without_numbers_takes_a_place_too():
    assert tiles.compact((0, 5), 4) == tiles.row_major((3, 0), 4) == 512
