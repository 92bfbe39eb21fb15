"""Rounds in which only some clients train: what the others keep, and what they do not cost."""

import json
import pathlib

import jax
import numpy as np
import pytest

from protonorm_jax.methods.method import Upload
from protonorm_jax.planning import plan as planning
from protonorm_jax.running import driver
from recorded import SMALL

pytestmark = pytest.mark.usefixtures("hastily")

RECORDED = pathlib.Path(__file__).parent.parent / "golden" / "participation.json"
"""Rows of the code that read, ordered and wrote every client, absent or not."""

SOME = SMALL.replace(family="mlp", num_clients=9, participation=0.3)
CASES = {
    "sent to those who train": SOME.replace(method="fml", failures=0.3, devices=2),
    "a head for all": SOME.replace(method="fedgh", method_settings={}, eval_every=2),
    "a model for all": SOME.replace(method="fedavg", method_settings={}, devices=2),
    "prototypes": SOME.replace(method="fedproto", family="mlp,cnn", method_settings={}),
}
CASES = {name: config.replace(method_settings={}, dropout=0.2) for name, config in CASES.items()}


def rows_of(config, dataset):
    simulation = driver.prepare([config], dataset)
    return [event.row for step in driver.train(simulation) for event in step.news.values()]


@pytest.mark.parametrize(
    "name",
    [
        name if name == "prototypes" else pytest.param(name, marks=pytest.mark.large)
        for name in CASES
    ],
)
def test_rows_are_those_of_the_code_that_visited_everybody(name, small_set):
    recorded = json.loads(RECORDED.read_text())[name]
    found = rows_of(CASES[name], small_set)
    assert len(found) == len(recorded)
    for row, wanted in zip(found, recorded, strict=True):
        assert row.keys() == wanted.keys()
        for key, value in wanted.items():
            exact = value is None or isinstance(value, int)
            assert row[key] == (value if exact else pytest.approx(value, rel=1e-3, abs=1e-5)), key


def with_hooks(config, dataset, **hooks):
    """A compiled simulation of the config's method with other hooks."""
    plan = planning.make([config], dataset)
    method = plan.program.method._replace(**hooks)
    return driver.compile_plan(plan._replace(program=plan.program._replace(method=method)))


def clients_after(calls, simulation):
    """What all clients keep after calls of so many rounds, leaves `[slots, size]`."""
    given = simulation.put(simulation.inputs(0))
    states = simulation.init(given)
    for rounds in calls:
        states, _ = simulation.advance(states, given, rounds, False)
    (clients,) = jax.tree.map(lambda leaf: leaf[0, 0], jax.device_get(states.clients))
    return clients


def halfway(client, down, models):
    """Not as FedAvg has it: each time counts, whether or not the client trains after it."""
    del models
    params = jax.tree.map(
        lambda own, sent: 0.5 * (own + sent), client.params["model"], down["params"]
    )
    return client._replace(params={"model": params})


@pytest.mark.parametrize("hooks", [{}, {"receive": halfway}], ids=["replaced", "mixed"])
def test_what_is_sent_to_all_reaches_all(small_set, hooks):
    """Whether rounds share a call or not: only what is replaced anyway waits for its end."""
    simulation = with_hooks(CASES["a model for all"].replace(devices=1), small_set, **hooks)
    apart, together = (clients_after(calls, simulation) for calls in ((1, 1, 1), (3,)))
    jax.tree.map(np.testing.assert_array_equal, apart, together)
    kernels = together.params["model"]["head"]["kernel"]
    equal = np.all(kernels[:, None] == kernels[None], axis=2).sum(axis=1)
    # Three of nine have trained since; the others have what was sent.
    assert sorted(equal) == ([1] * 9 if hooks else [1] * 3 + [6] * 6)


def test_only_those_who_train_are_worked_on(small_set):
    """Three of nine, on whichever devices they are."""
    config, seen = SOME.replace(method="local", method_settings={}, devices=2), []

    def upload(key, client, totals, data, down, round, *, models):
        jax.debug.callback(lambda number: seen.append(int(number)), data.num_samples)
        return Upload()

    simulation = with_hooks(config, small_set, upload=upload)
    given = simulation.put(simulation.inputs(0))
    simulation.advance(simulation.init(given), given, 4, False)
    jax.effects_barrier()
    assert len(seen) == 4 * 3 and min(seen) > 0


def test_there_is_room_for_no_more_outputs_than_come(small_set):
    """Of the run in which most take part; never more than there are on a device."""
    runs = [SOME, SOME.replace(participation=0.5), SOME.replace(participation=0.01)]
    for config, devices, room in ((runs, 1, 4), (runs[::2], 1, 3), (runs, 4, 3)):
        plan = planning.make(
            [one.replace(devices=devices) for one in config], small_set, runs_per_program=1
        )
        (architecture,) = plan.program.architectures
        assert (architecture.room, architecture.together) == (room, 1)
