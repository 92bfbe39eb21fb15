"""What a round costs: a count by hand, and what doubles it."""

import numpy as np
import pytest

from protonorm_jax.config import Config
from protonorm_jax.engine import client, lockstep
from protonorm_jax.planning import costs, hlo, layout, targets
from protonorm_jax.planning import plan as planning
from protonorm_jax.running import programs
from protonorm_jax.scopes import Loop
from protonorm_jax.types import Dataset

pytestmark = pytest.mark.usefixtures("hastily")

CONFIG = Config(
    family="mlp",
    method="local",
    num_clients=4,
    feature_dim=64,
    batch_size=16,
    rounds=4,
    partition="iid",
    train_fraction=0.8,
    devices=1,
)
STEPS = Loop("steps", True, 0)
CHIP = targets.Chip(2**34, 1e9, 1e9)


def compiled(config, dataset, **arguments):
    """The plan, and its program, counted."""
    plan = planning.make([config], dataset, **arguments)
    told = programs.told_shapes(plan)
    _, rounds = programs.traced(plan, told)
    return plan, hlo.count(programs.compiled(rounds).as_text())


@pytest.fixture(scope="module")
def program(small_set):
    return compiled(CONFIG, small_set)


@pytest.fixture(scope="module")
def cost(program):
    return costs.of_round(*program, None)


def test_steps_of_a_perceptron_cost_what_a_hand_counts(program, cost):
    plan, _ = program
    layers = ((64, 64), (64, 64), (64, 5))  # 8 x 8 pixels, two hidden layers, 5 classes.
    products = [2 * CONFIG.batch_size * inputs * outputs for inputs, outputs in layers]
    step = 3 * sum(products) - products[0]  # No gradient is needed of the pixels.
    parameters = sum(inputs * outputs + outputs for inputs, outputs in layers)
    steps = client.num_steps(plan.runs[0].partition.train_count, CONFIG).sum()
    assert steps == 4 * 3  # Of 48 samples each.
    training = cost.by_part["training"]
    least = steps * (step + 2 * parameters)  # A step of descent is a product and a difference.
    assert least <= training.flops <= 1.05 * least
    # Parameters are read by both passes and written.
    assert steps * 3 * 4 * parameters < training.bytes < steps * 40 * 4 * parameters


def test_an_evaluation_costs_a_forward_pass_of_each_client(cost):
    forward = 2 * CONFIG.eval_batch_size * (64 * 64 + 64 * 64 + 64 * 5)
    assert forward * 4 <= cost.by_part["evaluation"].flops <= 1.05 * forward * 4
    assert cost.by_part["collection"].flops == 0  # Local training collects nothing.
    parts = np.array(list(cost.by_part.values()))
    assert cost[:3] == tuple(parts.sum(axis=0)) and cost.seconds is None


@pytest.mark.parametrize("twice", ["clients", "epochs"])
def test_twice_the_work_costs_twice(twice, small_set, cost):
    config, dataset = CONFIG.replace(local_epochs=2), small_set
    if twice == "clients":
        config = CONFIG.replace(num_clients=8)
        images, labels = np.tile(small_set.images, (2, 1, 1, 1)), np.tile(small_set.labels, 2)
        dataset = Dataset(images, labels, small_set.num_classes, "twice")
    found = costs.of_round(*compiled(config, dataset), None)
    before, after = cost.by_part["training"], found.by_part["training"]
    assert after.flops == pytest.approx(2 * before.flops, rel=0.01)
    assert after.bytes == pytest.approx(2 * before.bytes, rel=0.05)
    if twice == "epochs":
        evaluation = cost.by_part["evaluation"].flops
        assert found.by_part["evaluation"].flops == pytest.approx(evaluation, rel=0.01)


def test_what_is_done_seldom_counts_in_part(program):
    plan, counted = program

    def changed(**changes):
        config = plan.program.config.replace(**changes)
        (run,) = plan.runs
        runs = (run._replace(config=config),)
        return plan._replace(program=plan.program._replace(config=config), runs=runs)

    every = costs.of_round(plan, counted, None).by_part
    seldom = costs.of_round(changed(eval_every=4), counted, None).by_part
    assert seldom["evaluation"].flops == pytest.approx(every["evaluation"].flops / 4)
    assert seldom["training"] == every["training"]
    assert costs.turns(changed(eval_every=4), Loop("absent", True, 0)) == [4 / 4]
    assert costs.turns(changed(participation=0.5), Loop("clients", True, 0)) == [2]
    half = costs.of_round(changed(participation=0.5), counted, None).by_part
    assert half["training"].flops == pytest.approx(every["training"].flops / 2)
    assert half["evaluation"] == every["evaluation"]


def test_the_bound_is_of_what_takes_longer(program, cost):
    found = costs.of_round(*program, CHIP)
    assert found.seconds == max(cost.flops, cost.bytes) / 1e9
    slow = CHIP._replace(bandwidth=1e3)
    assert costs.of_round(*program, slow).seconds == cost.bytes / 1e3


def test_the_busiest_device_counts(small_set, program):
    config = CONFIG.replace(partition="dirichlet", alpha=0.3, num_clients=5, devices=2)
    plan, (_, counted) = planning.make([config], small_set), program
    steps = client.num_steps(plan.runs[0].partition.train_count, plan.program.config)
    members = plan.runs[0].layout.placements[0].client_ids
    by_device = np.where(members < 0, 0, steps[members]).sum(axis=1)
    assert by_device[0] != by_device[1]
    np.testing.assert_array_equal(costs.turns(plan, STEPS), by_device)
    training = costs.of_round(plan, counted, None).by_part["training"]
    assert training.flops == by_device.max() * counted.by_loop[STEPS].flops
    np.testing.assert_array_equal(
        costs.turns(plan, Loop("clients", True, 0)), (members >= 0).sum(axis=1)
    )


def test_turns_of_batches_that_narrow_are_the_work_that_lockstep_does(small_set):
    config = CONFIG.replace(partition="dirichlet", alpha=0.3, num_clients=6, vmap_clients=3)
    plan, counted = compiled(config, small_set)
    widths = plan.program.architectures[0].widths
    found = [loop for loop in counted.by_loop if loop and loop.name == "steps"]
    assert sorted(loop.width for loop in found) == sorted({3, *widths}) and len(found) > 1
    steps = client.num_steps(plan.runs[0].partition.train_count, plan.program.config)
    (work,) = layout.work_of([[plan.runs[0].layout]], [[steps]], plan.spread)
    rows = sum(loop.width * costs.turns(plan, loop) for loop in found)
    assert rows == [lockstep.work(work.steps[0, 0], widths)]
    # Of a step of three clients three times as much is to do as of one.
    by_width = {loop.width: counted.by_loop[loop].flops for loop in found}
    least = min(by_width)
    assert by_width[3] == pytest.approx(by_width[least] * 3 / least, rel=0.05)


def test_runs_of_a_device_take_turns(small_set):
    configs = [CONFIG.replace(seed=seed) for seed in range(3)]
    plan = planning.make(configs, small_set, runs_per_program=3)
    assert costs.turns(plan, Loop("rounds", False)) == [3]
    assert costs.turns(plan, STEPS) == [3 * 12]
    assert costs.turns(plan, Loop("runs", False)) == [3]
    often = [costs.turns(plan, one) for one in (None, Loop("batches", False, 0))]
    assert often == [[1], [3 * 4]]
