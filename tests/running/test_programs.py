"""A round as one program and as several: the same bits, the same work, the same state."""

import functools

import jax
import numpy as np
import pytest

import small_nets
from protonorm_jax.config import Config
from protonorm_jax.planning import inputs
from protonorm_jax.planning import plan as planning
from protonorm_jax.planning.need import Need
from protonorm_jax.running import ahead, driver, programs

CONFIG = Config(
    family="small_plain,small_normed",
    num_clients=6,
    rounds=3,
    eval_every=2,
    batch_size=8,
    feature_dim=16,
    devices=1,
)


@pytest.fixture(scope="module", autouse=True)
def nets():
    with small_nets.registered(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "MOST_DRAWN_AHEAD", 0)  # Else the weights differ by rounding.
        yield


def plan_of(apart, configs, dataset, **sizes):
    """A plan whose rounds are several programs, or one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "ARRAYS_OF_ONE_PROGRAM", 0 if apart else 10**9)
        return planning.make(configs, dataset, **sizes)


def trained(plan):
    """All evaluations of all runs, and the states at the end."""
    simulation, news, states = driver.compile_plan(plan), [], None
    for step in driver.train(simulation):
        news.extend((index, one.row, one.arrays, one.correct) for index, one in step.news.items())
        states = jax.device_get(step.states)
    return news, states


@pytest.mark.parametrize(
    ("changes", "num_runs"),
    [
        ({"method": "lg_fedavg", "participation": 0.5, "devices": 2}, 1),
        pytest.param(
            {"method": "protonorm", "stragglers": 0.5, "dropout": 0.2}, 2, marks=pytest.mark.large
        ),
    ],
    ids=["two devices, some away", "two runs"],
)
def test_several_programs_have_the_bits_of_one(changes, num_runs, small_set):
    configs = [CONFIG.replace(**changes, seed=seed) for seed in range(num_runs)]
    make = functools.partial(plan_of, configs=configs, dataset=small_set, runs_per_program=num_runs)
    (one, states), (several, others) = (trained(make(apart)) for apart in (False, True))
    assert len(one) == 2 * num_runs
    jax.tree.map(np.testing.assert_array_equal, one, several)
    jax.tree.map(np.testing.assert_array_equal, states, others)


def test_vmapped_runs_share_the_length_of_the_loop_over_clients(small_set):
    """Were it each run's own, a loop would ask all of them whether to go on, and choose states."""
    # Of equally many samples, so that no batch narrows.
    equal = CONFIG.replace(partition="iid", train_fraction=0.8)
    configs = [equal.replace(seed=seed) for seed in range(2)]
    asked = []
    for vmap_runs in (1, 2):
        plan = plan_of(True, configs, small_set, runs_per_program=2, vmap_runs=vmap_runs)
        found = [
            one.lowered.as_text().count("applies stablehlo.or across")
            for one in programs.traced(plan, programs.told_shapes(plan))
            if one.number is not None
        ]
        asked.append(found)
    assert asked[0] == asked[1] and len(asked[0]) == 2


@pytest.mark.large
def test_all_programs_together_cost_what_one_does(small_set):
    whole, apart = (
        list(ahead.compile_ahead(plan_of(apart, [CONFIG], small_set))) for apart in (False, True)
    )
    assert [one.name for one in whole] == ["init", "rounds"]
    assert [one.name for one in apart] == [
        *("init", "open", "clients small_normed", "clients small_plain", "close", "score"),
    ]
    rounds = [one.round for one in apart if one.round]
    for name, tolerance in (("flops", 0.02), ("bytes", 0.25)):
        total = sum(getattr(one, name) for one in rounds)
        assert total == pytest.approx(getattr(whole[1].round, name), rel=tolerance)
    for part in ("training", "collection", "evaluation"):
        flops = sum(one.by_part[part].flops for one in rounds)
        assert flops == pytest.approx(whole[1].round.by_part[part].flops, rel=0.02), part
    fits = [one.runs_that_fit for one in apart]
    assert fits[:-1] == [None] * 5
    assert fits[-1] == pytest.approx(whole[1].runs_that_fit, rel=0.3)


def test_what_is_needed_is_that_of_the_largest_beside_the_others_states(small_set):
    plan = plan_of(True, [CONFIG], small_set)
    init, *_ = programs.traced(plan, programs.told_shapes(plan))
    states = init.lowered.out_info
    plain, normed = (sum(leaf.size * 4 for leaf in jax.tree.leaves(one)) for one in states.clients)
    needs = {
        ("open", None): Need(1000, 100, 10, 1),
        ("clients", 0): Need(2000, 300, 10, 2),
        ("clients", 1): Need(1000, 500, 9000, 4),
        ("close", None): Need(2000, 50, 0, 8),
    }
    found = programs.needed_together(plan, needs, states)
    # The clients of the other architecture and their uploads lie beside it, and all code.
    assert found == Need(1000 + plain + 300, 500, 9000, 15)
    needs["close", None] = Need(50_000, 50, 0, 8)
    assert programs.needed_together(plan, needs, states).arguments == 50_000 + plain + normed


@pytest.mark.parametrize("method", ["protonorm", "fd"])
def test_rows_of_absent_clients_make_no_difference(method, small_set):
    config = CONFIG.replace(method=method, participation=0.5, dropout=0.3, family="small_plain")
    plan = planning.make([config], small_set)
    assert plan.program.num_rows() == 3 and plan.program.method.rows == "arrived"
    every = plan.program.method._replace(rows="all")
    whole = plan._replace(program=plan.program._replace(method=every))
    assert whole.program.num_rows() == 6
    jax.tree.map(np.testing.assert_array_equal, trained(plan), trained(whole))


def test_runs_of_unequal_participation_have_rows_for_all(small_set):
    """Else a run would depend on those beside it."""
    configs = [CONFIG.replace(participation=share) for share in (0.5, 1.0)]
    plan = planning.make(configs, small_set, runs_per_program=2)
    assert plan.program.num_rows() == 6
