"""The whole simulation: equal bits whatever the devices, the order of work or the padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import protonorm_jax
from protonorm_jax import driver, keys, layout, simulate
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Dataset

# Seven clients of two architectures: groups of four and three, which no device count divides.
SMALL = Config(
    family="mlp,cnn",
    num_clients=7,
    alpha=0.5,
    min_samples=5,
    rounds=3,
    batch_size=8,
    feature_dim=12,
    learning_rate=0.02,
    scale=4.0,
    participation=0.8,
    dropout=0.2,
    devices=1,
)


def replace(**changes):
    return Config(**(SMALL.to_dict() | changes))


def assert_equal(first, second):
    """Asserts that two histories agree in every bit."""
    assert first.rows == second.rows
    jax.tree.map(np.testing.assert_array_equal, first.arrays, second.arrays)


@pytest.fixture(scope="module")
def alone(small_set):
    """The run on one device that all others are compared with."""
    return protonorm_jax.run(SMALL, dataset=small_set)


def test_same_key_same_bits(alone, small_set):
    assert_equal(alone, protonorm_jax.run(SMALL, dataset=small_set))
    other = protonorm_jax.run(replace(seed=1), dataset=small_set)
    assert np.any(other.arrays["prototypes"] != alone.arrays["prototypes"])


@pytest.mark.parametrize("devices", [2, 4])
def test_devices_do_not_matter(alone, small_set, devices):
    assert_equal(alone, protonorm_jax.run(replace(devices=devices), dataset=small_set))


def test_rounds_between_evaluations_do_not_matter(alone, small_set):
    together = protonorm_jax.run(replace(eval_every=2), dataset=small_set)
    assert [row["round"] for row in together.rows] == [2, 3]
    assert together.rows == alone.rows[1:]
    jax.tree.map(np.testing.assert_array_equal, alone.arrays, together.arrays)


def test_order_of_clients_does_not_matter(alone, small_set, monkeypatch):
    arrange = layout.arrange

    def reversed_order(*arguments, **settings):
        groups = [
            group._replace(client_ids=group.client_ids[:, ::-1])
            for group in reversed(arrange(*arguments, **settings).groups)
        ]
        flat = np.concatenate([group.client_ids for group in groups], axis=1).reshape(-1)
        return layout.Layout(tuple(groups), np.argsort(flat).astype(np.int32))

    monkeypatch.setattr(layout, "arrange", reversed_order)
    assert_equal(alone, protonorm_jax.run(SMALL, dataset=small_set))


def test_vmapped_clients_agree_with_one_after_the_other(alone, small_set):
    for width, devices in ((2, 1), (4, 1)):
        mapped = protonorm_jax.run(replace(vmap_clients=width, devices=devices), dataset=small_set)
        for one, other in zip(alone.rows, mapped.rows, strict=True):
            np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-4)
        np.testing.assert_allclose(
            alone.arrays["class_means"], mapped.arrays["class_means"], rtol=1e-3, atol=1e-4
        )


def test_vmapped_clients_agree_on_any_number_of_devices(small_set):
    """To rounding: who shares a batch, and how it narrows, depends on the number of devices."""
    settings = {"vmap_clients": 2, "num_clients": 16, "min_samples": 2, "rounds": 2}
    first, second = (
        protonorm_jax.run(replace(devices=devices, **settings), dataset=small_set)
        for devices in (1, 4)
    )
    for one, other in zip(first.rows, second.rows, strict=True):
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-5)
    np.testing.assert_allclose(
        first.arrays["class_means"], second.arrays["class_means"], rtol=1e-4, atol=1e-5
    )


def test_the_tiny_family_has_equal_bits_on_any_number_of_devices():
    """Batch norm, depthwise convolutions and residuals as well."""
    config = Config(num_clients=8, rounds=2, feature_dim=32, devices=1, min_samples=5)
    first = protonorm_jax.run(config)
    for devices in (2, 4):
        changed = Config(**(config.to_dict() | {"devices": devices}))
        assert_equal(first, protonorm_jax.run(changed))


def test_runs_can_be_vmapped(small_set):
    """Seeds and traced settings around the whole simulation, as a sweep will do it."""
    simulation = driver.prepare(SMALL, small_set)
    state = simulation.init(keys.root(5))
    alone, report = simulation.advance(state, 2)

    plan = driver.plan(SMALL, small_set)
    program = plan.program
    members = layout.members_of(program.layout, plan.partition)
    samples = simulate.Samples(plan.dataset.images, plan.dataset.labels)
    settings = driver.hyperparameters(SMALL, program.method)
    rates = jnp.array([0.001, SMALL.learning_rate])
    stacked = {name: jnp.full(2, value) for name, value in settings.items()}
    stacked["learning_rate"] = rates

    def run(members, samples, key, settings):
        state = simulate.init(program, members, key)
        return simulate.advance(program, state, members, samples, settings, jnp.int32(2))

    over_runs = jax.vmap(run, in_axes=(None, None, 0, 0))
    over_devices = jax.pmap(
        over_runs, axis_name=simulate.AXIS, in_axes=(0, None, None, None), devices=jax.devices()[:1]
    )
    both = jnp.stack([keys.root(4), keys.root(5)])
    states, reports = over_devices(members, samples, both, stacked)
    np.testing.assert_allclose(
        np.asarray(states.server.vectors)[0, 1], alone.server.vectors, rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(
        np.asarray(reports["terms"]["loss"])[0, 1], report["terms"]["loss"], rtol=1e-3
    )


def test_one_trace_an_architecture(small_set, monkeypatch):
    traces = []
    original = simulate.local_update

    def counted(*arguments, **settings):
        traces.append(settings["model"])
        return original(*arguments, **settings)

    monkeypatch.setattr(simulate, "local_update", counted)
    protonorm_jax.run(SMALL, dataset=small_set)
    # Shapes of the loops' results are inferred by tracing too; what matters is that the number
    # of clients and rounds does not enter.
    few = len(traces)
    traces.clear()
    protonorm_jax.run(replace(num_clients=12, rounds=5), dataset=small_set)
    assert len(traces) == few


def test_participation_and_dropout():
    settings = {"participation": jnp.float32(0.3), "dropout": jnp.float32(0.5)}
    counts, arrivals, seen = [], 0, np.zeros(20, bool)
    for round_index in range(200):
        trains, arrives = simulate.participants(keys.root(0), round_index, 20, settings)
        counts.append(int(trains.sum()))
        assert not np.any(arrives & ~trains)
        arrivals += int(arrives.sum())
        seen |= np.asarray(trains)
    assert set(counts) == {6} and seen.all()
    assert 0.45 < arrivals / (200 * 6) < 0.55


def test_at_least_one_client_trains(small_set):
    history = protonorm_jax.run(
        replace(participation=0.01, dropout=0.0, rounds=1), dataset=small_set
    )
    assert history.rows[0]["clients_trained"] == 1


def test_lost_uploads_leave_the_server_as_it_was(small_set):
    history = protonorm_jax.run(replace(dropout=1.0), dataset=small_set)
    row = history.rows[-1]
    assert row["uploads_arrived"] == 0 and row["floats_up"] == 0
    assert row["known_classes"] == 0 and row["prototype_accuracy"] == 0.0
    assert row["clients_trained"] > 0 and row["prototype_mse"] == 0.0


def test_a_class_that_nobody_holds_stays_unknown(small_set):
    wider = Dataset(small_set.images, small_set.labels, 7, "gap")
    history = protonorm_jax.run(replace(dropout=0.0, participation=1.0), dataset=wider)
    np.testing.assert_array_equal(history.arrays["known"], [True] * 5 + [False] * 2)
    assert not np.any(history.arrays["prototypes"][5:])
    assert np.all(np.isfinite(history.arrays["prototypes"]))
    lengths = np.linalg.norm(history.arrays["prototypes"][:5], axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-6)
    assert history.rows[-1]["min_angle"] == pytest.approx(np.degrees(np.arccos(-1 / 4)), abs=1e-3)


def test_floats_are_counted_as_the_papers_count_them(small_set):
    history = protonorm_jax.run(
        replace(dropout=0.0, participation=1.0, rounds=1), dataset=small_set
    )
    simulation = driver.prepare(replace(dropout=0.0, participation=1.0, rounds=1), small_set)
    present = sum(
        len(np.unique(small_set.labels[rows[:count]]))
        for rows, count in zip(
            simulation.partition.train, simulation.partition.train_count, strict=True
        )
    )
    assert history.rows[0]["floats_up"] == present * 12
    assert history.rows[0]["floats_down"] == 7 * 5 * 12


def test_prototype_loss_is_positive_after_the_first_round(small_set):
    history = protonorm_jax.run(replace(dropout=0.0, participation=1.0), dataset=small_set)
    distances = [row["prototype_mse"] for row in history.rows]
    assert distances[0] == 0.0 and all(distance > 0 for distance in distances[1:])


def test_divergence_stops_the_run_and_names_client_and_round(small_set):
    with pytest.raises(UsageError, match=r"loss must be finite, .* client \d+ in round \d+;"):
        protonorm_jax.run(replace(learning_rate=1e9, rounds=20), dataset=small_set)


def test_more_devices_than_there_are(small_set):
    with pytest.raises(UsageError, match=r"Config\.devices must be <= 4"):
        protonorm_jax.run(replace(devices=5), dataset=small_set)


def test_too_little_memory(small_set, monkeypatch):
    monkeypatch.setattr(driver.devices, "free_bytes", lambda _: 1000)
    with pytest.raises(UsageError, match=r"memory must be >= .* num_clients = 7"):
        protonorm_jax.run(SMALL, dataset=small_set)


def test_learning_beats_the_yardstick():
    """Real digits, four architectures: both predictors end far above the majority class."""
    config = Config(num_clients=8, rounds=25, eval_every=25, devices=1, feature_dim=64, scale=20.0)
    summary = protonorm_jax.run(config).summary
    assert summary["majority_accuracy"] > 0.5
    assert summary["prototype_accuracy"] > summary["majority_accuracy"] + 0.1
    assert summary["head_accuracy"] > summary["majority_accuracy"] + 0.1
