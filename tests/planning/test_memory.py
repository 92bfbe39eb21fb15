"""The memory that is expected, held against what compiled programs need."""

import jax
import jax.numpy as jnp
import pytest

from protonorm_jax.config import Config
from protonorm_jax.planning import memory, targets, tiles
from protonorm_jax.planning import plan as planning
from protonorm_jax.planning.layout import Spread
from protonorm_jax.running import programs

CONFIG = Config(family="mlp", num_clients=8, devices=1, rounds=1)


@pytest.mark.parametrize(
    ("method", "num_runs"),
    [
        ("protonorm", 8),
        ("fml", 1),
        pytest.param("protonorm", 1, marks=pytest.mark.large),
        pytest.param("fml", 8, marks=pytest.mark.large),
    ],
)
def test_as_much_is_expected_as_the_compiler_needs(method, num_runs):
    configs = [CONFIG.replace(method=method, seed=seed) for seed in range(num_runs)]
    plan = planning.make(configs, runs_per_program=num_runs)
    needed = programs.compile_all(plan, programs.told_shapes(plan)).needed
    assert plan.memory.code == needed.code == 0
    assert 0.8 <= plan.memory.total() / needed.total() <= 1.25, (plan.memory, needed)


@pytest.mark.parametrize("apart", [False, True])
def test_on_a_tpu_a_program_of_the_server_alone_gathers_one_array_at_a_time(monkeypatch, apart):
    monkeypatch.setattr(planning, "ARRAYS_OF_ONE_PROGRAM", 0 if apart else 10**6)
    kind = "TPU v5 lite"
    chips = [targets.PlannedDevice("tpu", kind, number) for number in range(8)]
    target = targets.Target("chips", chips, targets.CHIPS[kind])
    alone, spread = (
        planning.make([CONFIG.replace(method="fml", devices=count)], target=target).memory
        for count in (1, 8)
    )
    # Of eight clients a chip of eight has one, and so an eighth of the uploads.
    assert spread.uploads < alone.uploads / 2 if apart else spread.uploads == alone.uploads


def states_bytes(runs_each, *, vmap_runs=1, num_clients=5, **options):
    run = [
        jax.ShapeDtypeStruct((num_clients, 4096), jnp.float32),
        jax.ShapeDtypeStruct((), jnp.int32),
    ]
    options = {"tiled": False} | options
    return memory.states_bytes(run, Spread(1, 1, runs_each, vmap_runs), **options)


def test_runs_that_take_turns_are_copied_out_of_the_rest():
    one = 5 * 4096 * 4 + 4
    assert states_bytes(1) == one
    assert states_bytes(8) == 9 * one
    assert states_bytes(8, vmap_runs=4) == 12 * one
    assert states_bytes(8, vmap_runs=8) == 8 * one  # None of them is left behind.


def test_on_a_tpu_states_are_copied_where_another_order_takes_less():
    kept, own = 5 * 4096 * 4 + 512, 8 * 4096 * 4
    assert states_bytes(1, tiled=True) == kept + own
    kept, inside = 8 * 5 * 4096 * 4 + 512, 8 * 8 * 4096 * 4
    one = own + 512
    assert states_bytes(8, tiled=True) == kept + inside + one
    assert states_bytes(8, tiled=True, vmap_runs=8) == kept + inside
    # All rows of these are whole tiles in any order.
    assert states_bytes(1, tiled=True, num_clients=8) == 8 * 4096 * 4 + 512
    one = 8 * 4096 * 4 + 512
    assert states_bytes(8, tiled=True, num_clients=8) == 8 * 8 * 4096 * 4 + 512 + one


def test_of_parts_one_at_a_time_is_copied():
    small, large = ([jax.ShapeDtypeStruct((5, size), jnp.float32)] for size in (128, 4096))
    both = memory.states_bytes([small, large], Spread(1, 1, 1, 1), tiled=True, parts=[small, large])
    assert both == 5 * (128 + 4096) * 4 + 8 * 4096 * 4


def test_of_vmapped_arrays_all_rows_lie_in_one():
    leaf = jax.ShapeDtypeStruct((10,), jnp.float32)
    assert memory.num_bytes({"bias": leaf, "key": jax.random.key(0)}, rows=8) == 8 * 10 * 4
    assert memory.num_bytes([leaf], rows=8, tiled=True) == tiles.compact((8, 10), 4) == 4096
    assert memory.num_bytes([leaf], tiled=True) == 512
