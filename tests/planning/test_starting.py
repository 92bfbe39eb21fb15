"""What private models start with: drawn in the program, or ahead and cut by numpy."""

import functools

import jax
import numpy as np
import pytest

from protonorm_jax.config import Config
from protonorm_jax.engine import simulate
from protonorm_jax.planning import inputs, starting
from protonorm_jax.planning import plan as planning
from protonorm_jax.running import programs

pytestmark = pytest.mark.usefixtures("hastily")


@pytest.mark.parametrize(("method", "seeds"), [("protonorm", 1), ("fml", 2)])
def test_what_is_drawn_ahead_is_what_is_drawn_in_the_program(small_set, method, seeds):
    config = Config(family="tiny", num_clients=5, method=method, feature_dim=16)
    configs = [config.replace(seed=seed, devices=1) for seed in range(7, 7 + seeds)]
    plan = planning.make(configs, small_set, runs_per_program=seeds)
    told = inputs.of_call(plan, 0)
    make = programs.pmapped(plan, simulate.init_runs)
    with programs.promoting():
        states = make(told), make(told, inputs.initial_of_call(plan, told))
    assert len(jax.tree.leaves(states[0])) > 50
    # Where the pieces of a vector lie in registers makes a last bit's difference.
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-8), *states)


def test_nets_of_many_arrays_draw_ahead_as_far_as_there_is_room(small_set, monkeypatch):
    config = Config(family="tiny", num_clients=4, feature_dim=16, devices=1)
    small = planning.make([config], small_set)
    assert not inputs.starts_with_given(small)
    many = small._replace(program=small.program._replace(apart=True))
    assert inputs.starts_with_given(many)
    states = programs.pmapped(small, simulate.init_runs)
    with programs.promoting():
        kept = sum(
            leaf.nbytes for leaf in jax.tree.leaves(states(inputs.of_call(small, 0)).clients)
        )
    monkeypatch.setattr(inputs, "MOST_DRAWN_AHEAD", kept - 1)
    assert not inputs.starts_with_given(many)
    monkeypatch.setattr(inputs, "MOST_DRAWN_AHEAD", kept)
    assert inputs.starts_with_given(many)


def test_an_empty_slot_asks_for_no_net_of_another_architecture():
    """Client 0 may have one, as may any that is not among the ids."""

    class Kept:
        def variables(self, client, shapes):
            return {"weight": np.full(shapes["weight"].shape, {2: 2.0, 4: 4.0}[client], np.float32)}

    shapes = {"weight": jax.ShapeDtypeStruct((3,), np.float32)}
    found = starting.stacked(Kept(), np.array([[2, 4], [-1, -1]]), shapes)
    assert found["weight"].shape == (2, 2, 3)
    np.testing.assert_array_equal(found["weight"][0, :, 0], [2, 4])
