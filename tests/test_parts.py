"""The small parts: keys, configs, layouts, class means, counts and tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from protonorm_jax import keys, metrics, report
from protonorm_jax.methods.shared import class_table
from protonorm_jax.planning import layout
from protonorm_jax.types import Prototypes


def test_keys_differ_by_stream_and_index():
    root = keys.root(0)
    seen = {
        tuple(jax.random.key_data(keys.derive(root, stream, *indices)).tolist())
        for stream in keys.Stream
        for indices in [(), (0,), (1,), (0, 0), (0, 1), (1, 0)]
    }
    assert len(seen) == 6 * len(keys.Stream)


def test_bits_do_not_depend_on_how_many_are_drawn():
    """What `local` relies on for shuffles that do not depend on padding."""
    key = keys.root(3)
    np.testing.assert_array_equal(jax.random.bits(key, (1000,))[:37], jax.random.bits(key, (37,)))


@pytest.mark.parametrize("num_devices", [1, 2, 3, 8])
@pytest.mark.parametrize("vmap_clients", [0, 1, 2, 3])
def test_layout_places_every_client_once(num_devices, vmap_clients):
    architectures = ["a", "b", "a", "c", "a", "b", "a"]
    steps = np.array([5, 1, 9, 4, 0, 7, 2])
    result = layout.arrange(
        architectures, steps, [1.0] * 7, num_devices=num_devices, vmap_clients=vmap_clients
    )
    flat = np.concatenate([group.client_ids for group in result.groups], axis=1).reshape(-1)
    np.testing.assert_array_equal(flat[result.order], np.arange(7))
    for group in result.groups:
        ids = group.client_ids[group.client_ids >= 0]
        assert {architectures[client] for client in ids} == {group.architecture}
        assert group.client_ids.shape[1] % group.chunk == 0
        for row in group.client_ids:  # Empty slots come last.
            assert np.all(np.diff((row < 0).astype(int)) >= 0)


def test_layout_balances_devices():
    """By time: four short steps of a slow net weigh more than ten of a fast one."""
    architectures, steps = ["fast", "slow"] * 3, np.array([10, 4, 9, 5, 20, 1])
    step_cost = [1.0, 8.0] * 3
    result = layout.arrange(architectures, steps, step_cost, num_devices=2, vmap_clients=1)
    cost = steps * step_cost
    loads = [
        sum(cost[row[row >= 0]].sum() for row in rows)
        for rows in zip(*(group.client_ids for group in result.groups), strict=True)
    ]
    assert max(loads) <= 1.1 * cost.sum() / 2
    work = layout.work_of([[result]], [[steps]], layout.spread(1, 2, 1))
    found = layout.efficiency(work, layout.choose_widths(work), {"fast": 1.0, "slow": 8.0})
    assert found.waste == 1.0 and found.imbalance == pytest.approx(max(loads) / cost.sum() * 2)


def test_efficiency_of_vmapped_clients():
    steps = np.array([8, 4])
    together = layout.arrange(["a", "a"], steps, [1.0, 1.0], num_devices=1, vmap_clients=0)
    work = layout.work_of([[together]], [[steps]], layout.spread(1, 1, 1))
    assert layout.choose_widths(work) == [(2, 1)]
    assert layout.efficiency(work, [(2, 1)], {"a": 1.0}) == (1.0, 1.0)
    assert layout.efficiency(work, [(2,)], {"a": 1.0}).waste == pytest.approx(16 / 12)


@pytest.mark.parametrize(
    ("num_runs", "num_devices", "vmap_runs", "wanted"),
    [
        (1, 4, 1, (1, 4, 1, 1)),
        (2, 5, 0, (2, 2, 1, 1)),
        (3, 4, 1, (3, 1, 1, 1)),
        (4, 4, 1, (4, 1, 1, 1)),
        (10, 4, 1, (4, 1, 3, 1)),
        (10, 4, 0, (4, 1, 3, 3)),
        (10, 4, 2, (4, 1, 4, 2)),
    ],
)
def test_runs_go_to_devices_before_clients_do(num_runs, num_devices, vmap_runs, wanted):
    spread = layout.spread(num_runs, num_devices, vmap_runs)
    assert spread == wanted
    assert set(range(num_runs)) <= set(spread.numbers().reshape(-1).tolist())
    shared = spread.numbers().reshape(spread.run_devices, spread.client_devices, -1)
    assert np.all(shared == shared[:, :1])


def test_steps_of_vmapped_runs_make_one_batch():
    """Three runs of two clients, two of them vmapped: an empty run fills the second batch."""
    steps = [np.array([8, 4]), np.array([1, 2]), np.array([5, 5])]
    layouts = [
        layout.arrange(["a", "a"], one, [1.0, 1.0], num_devices=1, vmap_clients=0) for one in steps
    ]
    (work,) = layout.work_of([layouts], [steps], layout.spread(3, 1, 2))
    assert work.steps.shape == (1, 2, 4)
    assert [sorted(batch) for batch in work.steps[0].tolist()] == [[1, 2, 4, 8], [0, 0, 5, 5]]


def test_class_means_by_hand():
    vectors = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [jnp.nan, 0.0]])
    labels, mask = jnp.array([0, 0, 2, 1]), jnp.array([True, True, True, False])
    means = class_table.class_means(class_table.class_sums(vectors, labels, mask, num_classes=3))
    np.testing.assert_allclose(means.vectors, [[2, 3], [0, 0], [5, 6]])
    np.testing.assert_array_equal(means.known, [True, False, True])


def test_nearest_prototype_skips_unknown_classes():
    sent = Prototypes(
        jnp.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]]), jnp.array([False, True, True])
    )
    features = jnp.array([[0.1, 0.0], [3.0, 1.0], [1.0, 3.0]])
    scores = class_table.nearest_scores(features, sent)
    np.testing.assert_array_equal(jnp.argmax(scores, axis=1), [1, 1, 2])
    assert np.all(np.isneginf(scores[:, 0]))


def test_accuracy_is_by_sample_and_its_deviation_by_client():
    mean, deviation = metrics.accuracy(np.array([9, 0, 0]), np.array([10, 2, 0]))
    assert mean == 9 / 12 and deviation == pytest.approx(np.std([0.9, 0.0]))
    assert all(np.isnan(metrics.accuracy(np.array([0]), np.array([0]))))


def test_summary_takes_last_and_best():
    rows = [
        {"round": 1, "head_accuracy": 0.5, "loss": 3.0},
        {"round": 2, "head_accuracy": 0.9, "loss": 2.0},
        {"round": 3, "head_accuracy": 0.7, "loss": 1.0},
    ]
    assert metrics.summary(rows) == {
        "rounds": 3,
        "head_accuracy": 0.7,
        "head_accuracy_best": 0.9,
        "loss": 1.0,
    }
    assert metrics.summary([]) == {"rounds": 0}


def test_pairwise_angles():
    angles = report.pairwise_angles(np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.0, 0.0]]))
    np.testing.assert_allclose(angles[0, 1:3], [90.0, 180.0])
    assert np.isnan(angles[0, 0]) and np.all(np.isnan(angles[3]))
