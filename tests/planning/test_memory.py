"""The memory that is expected, held against what compiled programs need."""

import jax
import jax.numpy as jnp
import pytest

from protonorm_jax.config import Config
from protonorm_jax.planning import memory, tiles
from protonorm_jax.planning import plan as planning
from protonorm_jax.planning.layout import Spread
from protonorm_jax.running import programs

CONFIG = Config(family="mlp", num_clients=8, devices=1, rounds=1)


@pytest.mark.parametrize("method", ["protonorm", "fml"])
@pytest.mark.parametrize("num_runs", [1, 8])
def test_as_much_is_expected_as_the_compiler_needs(method, num_runs):
    configs = [CONFIG.replace(method=method, seed=seed) for seed in range(num_runs)]
    plan = planning.make(configs, runs_per_program=num_runs)
    needed = programs.compile_all(plan, programs.told_shapes(plan)).needed
    assert plan.memory.code == needed.code == 0
    assert 0.8 <= plan.memory.total() / needed.total() <= 1.25, (plan.memory, needed)


def states_bytes(runs_each, *, tiled=False, vmap_runs=1):
    run = [jax.ShapeDtypeStruct((5, 4096), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)]
    return memory.states_bytes(run, Spread(1, 1, runs_each, vmap_runs), tiled=tiled)


def test_runs_that_take_turns_are_copied_out_of_the_rest():
    one = 5 * 4096 * 4 + 4
    assert states_bytes(1) == one
    assert states_bytes(8) == 9 * one
    assert states_bytes(8, vmap_runs=4) == 12 * one


def test_on_a_tpu_states_are_copied_into_another_order():
    kept, own = 5 * 4096 * 4 + 512, 8 * 4096 * 4 + 512
    assert states_bytes(1, tiled=True) == kept + own
    kept, inside = 8 * 5 * 4096 * 4 + 512, 8 * 8 * 4096 * 4 + 512
    assert states_bytes(8, tiled=True) == kept + inside + own


def test_of_vmapped_arrays_all_rows_lie_in_one():
    leaf = jax.ShapeDtypeStruct((10,), jnp.float32)
    assert memory.num_bytes({"bias": leaf, "key": jax.random.key(0)}, rows=8) == 8 * 10 * 4
    assert memory.num_bytes([leaf], rows=8, tiled=True) == tiles.compact((8, 10), 4) == 4096
    assert memory.num_bytes([leaf], tiled=True) == 512
