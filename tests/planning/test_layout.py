"""Where runs and clients live: every one in one place, evenly spread, and counted right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from protonorm_jax import keys
from protonorm_jax.engine import participation
from protonorm_jax.planning import layout
from protonorm_jax.types import Partition, Scored

ARCHITECTURES = ["a", "b", "a", "c", "a", "b", "a"]


@pytest.mark.parametrize("num_devices", [1, 2, 3, 8])
@pytest.mark.parametrize("vmap_clients", [0, 1, 3])
def test_every_client_has_one_place(num_devices, vmap_clients):
    steps = np.array([5, 1, 9, 4, 0, 7, 2])
    result = layout.arrange(
        ARCHITECTURES,
        steps,
        [1.0] * 7,
        num_devices=num_devices,
        vmap_clients=dict.fromkeys(ARCHITECTURES, vmap_clients),
    )
    flat = np.concatenate([group.client_ids for group in result.placements], axis=1).reshape(-1)
    np.testing.assert_array_equal(flat[result.order], np.arange(7))
    assert [group.architecture for group in result.placements] == ["a", "b", "c"]
    for group in result.placements:
        ids = group.client_ids[group.client_ids >= 0]
        assert {ARCHITECTURES[client] for client in ids} == {group.architecture}
        most = -(-ARCHITECTURES.count(group.architecture) // num_devices)
        assert group.chunk == min(vmap_clients or most, most)
        assert group.client_ids.shape == (num_devices, -(-most // group.chunk) * group.chunk)
        assert ((group.client_ids >= 0).sum(axis=1) <= most).all()
        assert np.all(np.diff((group.client_ids < 0).astype(int)) >= 0), "Empty slots come last."


def test_devices_are_balanced_by_time():
    """Ten steps of a slow net weigh more than twenty of a fast one."""
    architectures, steps = ["fast", "slow"] * 3, np.array([21, 17, 17, 10, 22, 4])
    step_cost = [1.0, 8.0] * 3
    result = layout.arrange(
        architectures,
        steps,
        step_cost,
        num_devices=2,
        vmap_clients=dict.fromkeys(architectures, 1),
    )
    cost = steps * step_cost
    loads = [
        sum(cost[row[row >= 0]].sum() for row in rows)
        for rows in zip(*(group.client_ids for group in result.placements), strict=True)
    ]
    assert max(loads) <= 1.1 * cost.sum() / 2
    work = layout.work_of([[result]], [[steps]], layout.spread(1, 2, 1))
    found = layout.efficiency(work, layout.choose_widths(work), {"fast": 1.0, "slow": 8.0})
    assert found.waste == 1.0 and found.imbalance == pytest.approx(max(loads) / cost.sum() * 2)


def test_efficiency_of_unequal_architectures_and_devices_by_hand():
    """Device 0 computes 2 x 9 and 3 x 2 steps, device 1 2 x 5 and 2 x 1 + 1 x 4."""
    cheap = layout.Work("cheap", np.array([[[[9, 4]], [[5, 5]]]]))
    dear = layout.Work("dear", np.array([[[[2, 0, 1]], [[5, 0, 1]]]]))
    widths = [(2,), (3, 1)]
    found = layout.efficiency([cheap, dear], widths, {"cheap": 1.0, "dear": 10.0})
    done = [2 * 9 + 10 * (3 * 1 + 1 * 1), 2 * 5 + 10 * (3 * 1 + 1 * 4)]
    needed = (9 + 4 + 5 + 5) + 10 * (2 + 1 + 5 + 1)
    assert found.waste == pytest.approx(sum(done) / needed)
    assert found.imbalance == pytest.approx(max(done) / np.mean(done))


def test_batches_of_several_rows_narrow_and_those_of_one_do_not():
    steps = np.array([8, 4])
    for vmap_clients, widths in ((0, (2, 1)), (1, ())):
        one = layout.arrange(
            ["a"] * 2, steps, [1.0] * 2, num_devices=1, vmap_clients={"a": vmap_clients}
        )
        work = layout.work_of([[one]], [[steps]], layout.spread(1, 1, 1))
        assert layout.choose_widths(work) == [widths]
        # Twelve steps are needed and sixteen done where the batch keeps its width.
        assert layout.choose_widths(work, waste=1.4) == [widths[:1]]
        assert layout.efficiency(work, [widths], {"a": 1.0}) == (1.0, 1.0)


def test_the_busiest_device_is_that_of_each_round():
    """Each of two devices has all the work of one of two rounds."""
    work = layout.Work("a", np.array([[[[4]], [[0]]], [[[0]], [[4]]]]))
    assert layout.efficiency([work], [()], {"a": 1.0}) == (1.0, 2.0)


@pytest.mark.parametrize(("vmap_clients", "together"), [(0, 6), (4, 4), (1, 1)])
def test_batches_are_made_of_those_who_train(vmap_clients, together):
    """Six of sixty, on two devices: the work is that of six in every round, of which all differ."""
    steps = np.arange(1, 61)
    one = layout.arrange(
        ["a"] * 60, steps, [1.0] * 60, num_devices=2, vmap_clients={"a": vmap_clients}
    )
    room = layout.room_of(one.placements[0], 6, 60)
    assert room == (-(-6 // together) * together, together)
    (work,) = layout.work_of([[one]], [[steps]], layout.spread(1, 2, 1), [[6]])
    rounds, *rest = work.steps.shape
    assert rounds == 64 and rest == [2, room.clients // together, together]
    rounds = work.steps.reshape(64, -1)
    assert np.all((rounds > 0).sum(axis=1) == 6)
    assert all(len(set(row[row > 0])) == 6 for row in rounds) and set(rounds.flat) == set(range(61))
    for device in range(2):
        # Those of a device stand first, in the order of its slots, which is that of their steps.
        for row in work.steps[:, device].reshape(64, -1):
            count = (row > 0).sum()
            assert np.all(row[:count] > 0) and np.all(np.diff(row[:count]) < 0)
    found = layout.efficiency([work], layout.choose_widths([work]), {"a": 1.0})
    assert 1.0 <= found.waste <= 1.15 and 1.1 < found.imbalance < 2.0
    assert (found.waste == 1.0) == (vmap_clients == 1)


def test_the_expected_imbalance_is_that_of_rounds_as_they_are_drawn():
    """20 of 200 clients on four devices; the best that could be is 1, five on each."""
    steps = np.full(200, 2)
    one = layout.arrange(["a"] * 200, steps, [1.0] * 200, num_devices=4, vmap_clients={"a": 1})
    (work,) = layout.work_of([[one]], [[steps]], layout.spread(1, 4, 1), [[20]])
    said = layout.efficiency([work], [()], {"a": 1.0})
    device = np.argsort(one.placements[0].client_ids.reshape(-1)) // 50
    key, part, none = keys.root(0), jnp.float32(0.1), jnp.float32(0)
    draw = jax.jit(lambda round: participation.participants(key, round, 200, part, none)[0])
    trains = [np.asarray(draw(jnp.int32(round))) for round in range(200)]
    busiest = [np.bincount(device[mask], minlength=4).max() for mask in trains]
    assert said.waste == 1.0 and 1.3 < said.imbalance < 1.5
    np.testing.assert_allclose(np.mean(busiest) / 5, said.imbalance, atol=0.06)


def test_no_more_are_vmapped_than_usually_train():
    """40 of 1,000, on a device that has a quarter: hardly ever more than 19 of its own."""
    ids = np.arange(250)[None]
    assert layout.room_of(layout.Placement("a", ids, 250), 40, 1000) == (57, 19)
    assert layout.room_of(layout.Placement("a", ids, 250), 1000, 1000) == (250, 250)
    assert layout.room_of(layout.Placement("a", ids, 5), 40, 1000) == (40, 5)
    assert layout.room_of(layout.Placement("a", np.arange(1000)[None], 1000), 40, 1000) == (40, 40)
    assert layout.room_of(layout.Placement("a", np.array([[0]]), 1), 1, 1) == (1, 1)
    drawn = np.random.default_rng(0).hypergeometric(250, 750, 40, 10_000)
    assert (drawn > 19).mean() < 0.005


def test_work_of_runs_in_which_unequal_numbers_train():
    """Two vmapped runs; the room is for the one with more, and all of three train in it."""
    steps = [np.array([5, 6, 7]), np.array([1, 2, 3])]
    layouts = [
        layout.arrange(["a"] * 3, one, [1.0] * 3, num_devices=1, vmap_clients={"a": 1})
        for one in steps
    ]
    (work,) = layout.work_of([layouts], [steps], layout.spread(2, 1, 2), [[1, 3]])
    assert work.steps.shape == (64, 1, 3, 2)
    first, second = np.moveaxis(work.steps[:, 0], 2, 0)
    assert np.all(second == [3, 2, 1]) and np.all(first[:, 1:] == 0)
    assert set(first[:, 0]) == {5, 6, 7}


@pytest.mark.parametrize(
    ("num_runs", "num_devices", "vmap_runs", "wanted"),
    [
        (1, 4, 1, (1, 4, 1, 1)),
        (2, 5, 0, (2, 2, 1, 1)),
        (3, 4, 1, (3, 1, 1, 1)),
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


def test_steps_stand_where_their_run_and_client_do():
    """Two calls of three runs of seven clients, on two by two devices, two runs vmapped."""
    calls, runs, spread = 2, 3, layout.Spread(2, 2, 2, 2)
    steps = 1 + np.arange(calls * runs * 7).reshape(calls, runs, 7)  # No two are equal.
    layouts = [
        [
            layout.arrange(
                ARCHITECTURES,
                one,
                [1.0] * 7,
                num_devices=2,
                vmap_clients=dict.fromkeys(ARCHITECTURES, 1),
            )
            for one in call
        ]
        for call in steps
    ]
    places = {int(step): place for place, step in np.ndenumerate(steps)}
    for index, work in enumerate(layout.work_of(layouts, list(map(list, steps)), spread)):
        found = []
        for device, batches in enumerate(work.steps[0]):
            for batch in batches:
                inside = [places[int(step)] for step in batch if step]
                slots = set()
                for call, run, client in inside:
                    ids = layouts[call][run].placements[index].client_ids[device % 2].tolist()
                    assert run in spread.numbers()[device]
                    slots.add((call, ids.index(client)))
                assert len(batch) == 2 and len(slots) <= 1, "One slot of two runs of one call."
                found += inside
        wanted = [p for p in places.values() if ARCHITECTURES[p[2]] == work.architecture]
        assert sorted(found) == wanted


def test_steps_of_vmapped_runs_make_one_batch():
    """Three runs of two clients, two of them vmapped: an empty run fills the second batch."""
    steps = [np.array([8, 4]), np.array([1, 2]), np.array([5, 6])]
    layouts = [
        layout.arrange(["a", "a"], one, [1.0, 1.0], num_devices=1, vmap_clients={"a": 0})
        for one in steps
    ]
    (work,) = layout.work_of([layouts], [steps], layout.spread(3, 1, 2))
    assert work.steps.shape == (1, 1, 2, 4)
    assert [sorted(batch) for batch in work.steps[0, 0].tolist()] == [[1, 2, 4, 8], [0, 0, 5, 6]]


def test_members_are_the_rows_of_their_clients_cut_to_what_the_longest_of_all_runs_needs():
    """Clients 0 and 2 on one device, 1 on the other; a second run has the longest rows."""
    first = Partition(
        train=np.array([[1, 2, 3, 4], [5, 0, 0, 0], [6, 7, 0, 0]], np.int32),
        train_count=np.array([4, 1, 2], np.int32),
        test=np.array([[8, 9], [10, 0], [0, 0]], np.int32),
        test_count=np.array([2, 1, 0], np.int32),
    )
    second = first._replace(
        train_count=np.array([1, 3, 1], np.int32), test_count=np.array([1, 0, 3], np.int32)
    )
    placements = (
        layout.Placement("a", np.array([[2], [1]], np.int32), 1),
        layout.Placement("b", np.array([[0], [-1]], np.int32), 1),
    )
    placed = layout.Layout(placements, np.array([1, 2, 0], np.int32))
    scored, other = (Scored(("",), one.test, one.test_count[:, None]) for one in (first, second))
    lengths = layout.row_lengths([placed, placed], [first, second], [scored, other])
    assert lengths == [(4, 4), (4, 2)]
    short, long = layout.members_of(placed, first, scored, lengths)
    assert short.client_ids.tolist() == [[2], [1]]
    assert short.train.tolist() == [[[6, 7, 0, 0]], [[5, 0, 0, 0]]]
    assert short.train_count.tolist() == [[2], [1]]
    assert short.test.tolist() == [[[0, 0, 0, 0]], [[10, 0, 0, 0]]]
    assert short.test_count.tolist() == [[[0]], [[1]]]
    assert long.train.tolist()[0] == [[1, 2, 3, 4]] and long.train.shape == (2, 1, 4)
    assert long.train_count.tolist() == [[4], [0]] and long.test_count.tolist() == [[[2]], [[0]]]
    assert all(leaf.dtype == np.int32 for leaf in (*short, *long))
    assert layout.row_lengths([placed], [first], [scored]) == [(2, 1), (4, 2)]
    # Two parts, one after the other: 2 + 1, 1 + 0 and 0 + 3 rows.
    both = Scored(
        ("", "common"),
        np.array([[8, 9, 1], [10, 0, 0], [2, 3, 4]], np.int32),
        np.array([[2, 1], [1, 0], [0, 3]], np.int32),
    )
    assert layout.row_lengths([placed], [first], [both]) == [(2, 4), (4, 4)]
    short, long = layout.members_of(placed, first, both, [(2, 3), (4, 3)])
    assert short.test.tolist() == [[[2, 3, 4]], [[10, 0, 0]]]
    assert short.test_count.tolist() == [[[0, 3]], [[1, 0]]]
    assert long.test_count.tolist() == [[[2, 1]], [[0, 0]]]
