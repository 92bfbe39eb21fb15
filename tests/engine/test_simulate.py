"""The whole simulation: equal bits whatever the devices, the order of work or the padding."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import protonorm_jax
from compilation import thorough
from protonorm_jax import keys
from protonorm_jax.config import Config
from protonorm_jax.engine import participation, simulate
from protonorm_jax.engine.program import Samples
from protonorm_jax.errors import UsageError
from protonorm_jax.models import layers, registry
from protonorm_jax.planning import layout, plan
from protonorm_jax.running import driver
from protonorm_jax.types import Dataset, Images
from recorded import SMALL

pytestmark = pytest.mark.usefixtures("hastily", "compiled_once")


def replace(**changes):
    return SMALL.replace(**changes)


def assert_equal(first, second):
    """Asserts that two histories agree in every bit."""
    assert first.rows == second.rows
    jax.tree.map(np.testing.assert_array_equal, first.arrays, second.arrays)


@pytest.fixture(scope="module")
def alone(small_set):
    """The run on one device that all others are compared with."""
    with thorough():
        return protonorm_jax.run(SMALL, dataset=small_set)


@pytest.mark.large
def test_order_of_clients_does_not_matter(alone, small_set, monkeypatch):
    arrange = layout.arrange

    def reversed_order(*arguments, **settings):
        placements = [
            one._replace(client_ids=one.client_ids[:, ::-1])
            for one in reversed(arrange(*arguments, **settings).placements)
        ]
        flat = np.concatenate([one.client_ids for one in placements], axis=1).reshape(-1)
        return layout.Layout(tuple(placements), np.argsort(flat).astype(np.int32))

    monkeypatch.setattr(layout, "arrange", reversed_order)
    with thorough():
        assert_equal(alone, protonorm_jax.run(SMALL, dataset=small_set))


@pytest.mark.large
def test_vmapped_clients_agree_on_any_number_of_devices(small_set):
    """To rounding: who shares a batch, and how it narrows, depends on the number of devices."""
    settings = {"vmap_clients": 2, "num_clients": 16, "min_samples": 2, "rounds": 2}
    first, second = (
        protonorm_jax.run(
            SMALL.replace(family="mlp", devices=devices, **settings), dataset=small_set
        )
        for devices in (1, 4)
    )
    for one, other in zip(first.rows, second.rows, strict=True):
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-5)
    np.testing.assert_allclose(
        first.arrays["class_means"], second.arrays["class_means"], rtol=1e-4, atol=1e-5
    )


class Depthwise(nn.Module):
    """Batch norm, a depthwise convolution and a residual."""

    @nn.compact
    def __call__(self, x, context):
        x = layers.conv_norm(x, context, 8, "conv", "norm", stride=2)
        y = layers.conv_norm(nn.relu(x), context, 8, "depthwise", "norm2", depthwise=True)
        return layers.global_average(x + layers.relu6(y))


@pytest.mark.large
def test_depthwise_convolutions_have_equal_bits_on_any_number_of_devices(small_set, monkeypatch):
    row = registry.Architecture(Depthwise, "normal")
    monkeypatch.setitem(registry.ARCHITECTURES, "depthwise", row)
    config = SMALL.replace(family="depthwise", num_clients=5, rounds=2)
    with thorough():
        first, second = (
            protonorm_jax.run(config.replace(devices=devices), dataset=small_set)
            for devices in (1, 4)
        )
    assert_equal(first, second)


PLAIN = SMALL.replace(family="mlp")
# Runs that differ in everything that may differ: other lengths of the clients' rows among it.
MANY = [
    PLAIN,
    PLAIN.replace(learning_rate=0.002, proximity=1.0, participation=1.0, dropout=0.0),
    PLAIN.replace(alpha=5.0, min_samples=2, train_fraction=0.5, seed=1, scale=1.0),
    PLAIN.replace(
        partition="pathological", classes_per_client=2, seed=4_000_000_000, participation=0.01
    ),
]


def histories(configs, dataset, **settings):
    """Rows and last arrays of runs that share a program."""
    simulation = driver.prepare(configs, dataset, **settings)
    rows, arrays = [[] for _ in configs], [{} for _ in configs]
    for first in range(0, len(configs), simulation.plan.runs_per_program):
        for step in driver.train(simulation, first):
            for index, evaluation in step.news.items():
                rows[index].append(evaluation.row)
                arrays[index] = evaluation.arrays
    return simulation.plan, rows, arrays


@pytest.fixture(scope="module")
def each_alone(small_set):
    return [protonorm_jax.run(config, dataset=small_set) for config in MANY]


@pytest.mark.parametrize(
    ("devices", "runs_per_program"), [(4, 2), pytest.param(3, 4, marks=pytest.mark.large)]
)
def test_a_run_among_others_has_the_bits_it_has_alone(
    each_alone, small_set, devices, runs_per_program
):
    """Over devices with their clients, and in a loop on a device with places left over."""
    configs = [config.replace(devices=devices) for config in MANY]
    planned, rows, arrays = histories(configs, small_set, runs_per_program=runs_per_program)
    assert planned.runs_per_program == runs_per_program
    for alone, row, array in zip(each_alone, rows, arrays, strict=True):
        assert alone.rows == row
        jax.tree.map(np.testing.assert_array_equal, alone.arrays, array)


@pytest.mark.large
def test_vmapped_runs_agree_with_each_alone(each_alone, small_set):
    """Three at a time: the last program has places without a run."""
    configs = [config.replace(vmap_clients=2) for config in MANY]
    planned, rows, arrays = histories(configs, small_set, runs_per_program=3, vmap_runs=3)
    assert planned.spread.vmap_runs == 3 and planned.efficiency.waste <= 1.3
    for alone, row, array in zip(each_alone, rows, arrays, strict=True):
        for one, other in zip(alone.rows, row, strict=True):
            np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-5)
            assert one["uploads_arrived"] == other["uploads_arrived"]
        wanted = alone.arrays["class_means"]
        close = {"rtol": 1e-4, "atol": 1e-5 * np.abs(wanted).max()}
        np.testing.assert_allclose(array["class_means"], wanted, **close)


def test_at_least_one_client_trains(each_alone):
    assert [row["clients_trained"] for row in each_alone[3].rows] == [1, 1, 1]


def test_what_is_compiled_must_be_the_same(small_set):
    with pytest.raises(UsageError, match=r"Config\.batch_size must be the same .* got 8 and 4"):
        driver.prepare([SMALL, replace(batch_size=4)], small_set)


def test_a_run_that_diverges_does_not_disturb_the_others(each_alone, small_set):
    simulation = driver.prepare(
        [PLAIN.replace(learning_rate=1e9), PLAIN], small_set, runs_per_program=2
    )
    news = [step.news for step in driver.train(simulation)]
    failures = [event for step in news for event in step.values() if isinstance(event, UsageError)]
    assert len(failures) == 1 and "learning_rate = 1000000000.0" in str(failures[0])
    assert [step[1].row for step in news] == each_alone[0].rows


@pytest.mark.large
def test_shard_map_in_place_of_pmap_has_the_same_bits(small_set):
    """For the day when jax has no `pmap` any more: the simulation of one device stays as it is."""
    with thorough():
        simulation = driver.prepare([PLAIN.replace(devices=4)], small_set)
    inputs = simulation.put(simulation.inputs(0))
    states, _ = simulation.advance(simulation.init(inputs), inputs, 2)

    # Compiled apart, as programs are.
    program, dataset = simulation.plan.program, simulation.plan.dataset
    mesh = jax.sharding.Mesh(np.array(simulation.plan.devices), (simulate.AXIS,))
    by_device, everywhere = (jax.sharding.PartitionSpec(*axis) for axis in ((simulate.AXIS,), ()))

    def mapped(function, *in_specs):
        """`function(program, ...)` of each device."""

        def one_device(*given):
            own = [
                jax.tree.map(lambda leaf: leaf[0], one) if spec == by_device else one
                for one, spec in zip(given, in_specs, strict=True)
            ]
            return jax.tree.map(lambda leaf: leaf[None], function(program, *own))

        return jax.jit(
            jax.shard_map(
                one_device, mesh=mesh, in_specs=in_specs, out_specs=by_device, check_vma=False
            )
        )

    init = mapped(simulate.init_runs, by_device)
    advance = mapped(simulate.advance_runs, by_device, by_device, *(everywhere,) * 3)
    samples = Samples(Images.of(dataset.images), dataset.labels)
    runs = simulation.inputs(0)
    with thorough():
        first = jax.block_until_ready(init(runs))
        others, _ = advance(first, runs, samples, np.int32(2), np.bool_(True))
    jax.tree.map(np.testing.assert_array_equal, states, jax.block_until_ready(others))


def test_participation_and_dropout():
    share, dropout = jnp.float32(0.3), jnp.float32(0.5)
    draw = jax.jit(functools.partial(participation.participants, num_clients=20))
    counts, arrivals, seen = [], 0, np.zeros(20, bool)
    for round_index in range(200):
        trains, arrives = draw(keys.root(0), round_index, participation=share, dropout=dropout)
        counts.append(int(trains.sum()))
        assert not np.any(arrives & ~trains)
        arrivals += int(arrives.sum())
        seen |= np.asarray(trains)
    assert set(counts) == {6} and seen.all()
    assert 0.45 < arrivals / (200 * 6) < 0.55


def test_who_fails_and_who_is_slow():
    """Failures by chance, stragglers by number, their work evenly from the least up; anew."""
    key, count = keys.root(3), 1000
    failing = [participation.failing(key, index, count, jnp.float32(0.3)) for index in (0, 1)]
    assert all(abs(one.mean() - 0.3) < 0.05 for one in failing)
    assert 0.5 < (failing[0] == failing[1]).mean() < 0.7  # 0.58 if they do not know each other.
    assert participation.failing(key, 0, count, jnp.float32(1.0)).all()
    work = np.array(
        [
            participation.work(key, index, count, jnp.float32(0.3), jnp.float32(0.2))
            for index in (0, 1)
        ]
    )
    slow = work < 1
    np.testing.assert_array_equal(slow.sum(axis=1), [300, 300])
    assert np.all(work[~slow] == 1)
    assert 0.5 < (slow[0] == slow[1]).mean() < 0.7
    assert work.min() >= 0.2 and abs(work[slow].mean() - 0.6) < 0.03
    both = slow[0] & slow[1]
    assert np.all(work[0, both] != work[1, both])
    parts = [
        participation.budget_of(jnp.float32(part), jnp.int32(10)) for part in (0, 0.11, 0.5, 1)
    ]
    assert parts == [1, 2, 5, 10] and participation.budget_of(jnp.float32(0.5), jnp.int32(0)) == 0


SET = PLAIN.replace(
    method="fedavg",
    num_clients=4,
    rounds=2,
    optimizer="adam",
    augment="crop,flip",
    schedule="cosine",
    clip_norm=1.0,
    weight_decay=0.1,
    stragglers=0.5,
    failures=0.2,
    local_steps=5,
)


@pytest.mark.large
def test_training_as_users_set_it_has_equal_bits_on_any_number_of_devices(small_set):
    one, two = (
        protonorm_jax.run(SET.replace(devices=devices), dataset=small_set) for devices in (1, 2)
    )
    assert_equal(one, two)


@pytest.mark.large
def test_runs_that_differ_in_what_is_traced_of_their_training_share_a_program(small_set):
    other = {"weight_decay": 0.2, "clip_norm": 5.0, "stragglers": 0.3, "failures": 0.1}
    other |= {"straggler_work": 0.5, "schedule": "step:1:0.5"}
    both = [SET, SET.replace(**other)]
    with thorough():
        alone = [protonorm_jax.run(config, dataset=small_set) for config in both]
        together = [config.replace(devices=2) for config in both]
        _, rows, arrays = histories(together, small_set, runs_per_program=2)
    for history, row, array in zip(alone, rows, arrays, strict=True):
        assert history.rows == row
        jax.tree.map(np.testing.assert_array_equal, history.arrays, array)
    assert rows[0] != rows[1]


def test_a_round_in_which_everybody_fails_changes_nothing(small_set):
    """It is reported without a loss; what was sent has been sent."""
    config = SET.replace(failures=1.0)
    history = protonorm_jax.run(config, dataset=small_set)
    for row in history.rows:
        assert row["loss"] is None and row["clients_trained"] == row["uploads_arrived"] == 0
        assert row["floats_up"] == 0 < row["floats_down"]
    assert history.rows[0]["head_accuracy"] == history.rows[1]["head_accuracy"]


def test_who_is_away_keeps_what_they_have(small_set):
    """Also of what the server sends to those who train: here the net that FML's clients share."""
    config = PLAIN.replace(method="fml", family="mlp", participation=0.1, dropout=0.0)
    simulation = driver.prepare([config], small_set)
    given = simulation.put(simulation.inputs(0))
    states = simulation.init(given)
    before = jax.device_get(states.clients)
    states, _ = simulation.advance(states, given, 2)  # After the first round the server's is new.
    same = [
        np.all(one == other, axis=-1)
        for one, other in zip(*map(jax.tree.leaves, (before, states.clients)), strict=True)
    ]
    unchanged = np.sum(np.all(same, axis=0))
    assert config.num_clients - 2 <= unchanged < config.num_clients


def test_a_class_that_nobody_holds_stays_unknown(small_set):
    wider = Dataset(small_set.images, small_set.labels, 7, "gap")
    history = protonorm_jax.run(PLAIN.replace(dropout=0.0, participation=1.0), dataset=wider)
    np.testing.assert_array_equal(history.arrays["known"], [True] * 5 + [False] * 2)
    assert not np.any(history.arrays["prototypes"][5:])
    assert np.all(np.isfinite(history.arrays["prototypes"]))
    lengths = np.linalg.norm(history.arrays["prototypes"][:5], axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-6)
    assert history.rows[-1]["min_angle"] == pytest.approx(np.degrees(np.arccos(-1 / 4)), abs=1e-3)
    distances = [row["prototype_mse"] for row in history.rows]
    assert distances[0] == 0.0 and all(distance > 0 for distance in distances[1:])


def test_divergence_stops_the_run_and_names_client_and_round(small_set):
    """The round of the first such value, though the rounds after it have others."""
    with pytest.raises(UsageError, match=r"loss must be finite, .* client \d+ in round 1;"):
        protonorm_jax.run(
            PLAIN.replace(learning_rate=1e30, rounds=20, eval_every=20), dataset=small_set
        )


def test_the_first_round_of_a_divergence_is_kept(small_set):
    """Also of round 0, when more follow in the same call."""
    config = PLAIN.replace(learning_rate=1e30, participation=1.0, dropout=0.0)
    simulation = driver.prepare([config], small_set)
    inputs = simulation.put(simulation.inputs(0))
    _, (report,) = simulation.advance(simulation.init(inputs), inputs, 3)
    assert set(np.asarray(report["diverged"]).tolist()) == {0}


def test_more_devices_than_there_are(small_set):
    with pytest.raises(UsageError, match=r"Config\.devices must be <= 4"):
        protonorm_jax.run(replace(devices=5), dataset=small_set)


def test_too_little_memory(small_set, monkeypatch):
    monkeypatch.setattr(plan.devices, "free_bytes", lambda _: 1000)
    with pytest.raises(UsageError, match=r"memory must be >= .* num_clients = 7"):
        protonorm_jax.run(SMALL, dataset=small_set)


def test_learning_beats_the_yardstick():
    """Real digits, two architectures: both predictors end far above the majority class."""
    config = Config(
        family="mlp,cnn",
        num_clients=8,
        rounds=25,
        eval_every=25,
        devices=1,
        feature_dim=64,
        method_settings={"scale": 20.0},
    )
    summary = protonorm_jax.run(config).summary
    assert summary["majority_accuracy"] > 0.5
    assert summary["prototype_accuracy"] > summary["majority_accuracy"] + 0.1
    assert summary["head_accuracy"] > summary["majority_accuracy"] + 0.1
