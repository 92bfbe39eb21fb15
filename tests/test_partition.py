"""Splits over clients: the published table, cover, reproducibility, and what is refused."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protonorm_jax import metrics, partition
from protonorm_jax.errors import UsageError

GOLDEN = Path(__file__).parent / "golden" / "partition_counts_dirichlet0.1_20clients.csv"
CIFAR_LABELS = np.repeat(np.arange(10), 6000)


def counts(parts, labels, num_classes=10):
    return np.stack([np.bincount(labels[part], minlength=num_classes) for part in parts])


def assert_covers(parts, num_samples):
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(num_samples))


def real(indices, count):
    return [row[:n] for row, n in zip(indices, count, strict=True)]


def test_dirichlet_reproduces_the_published_counts_and_splits_each_client():
    """Whatever the order of the samples."""
    golden = np.loadtxt(GOLDEN, delimiter=",", skiprows=1, dtype=int)
    for labels in (CIFAR_LABELS, np.random.default_rng(0).permutation(CIFAR_LABELS)):
        parts = partition.dirichlet(labels, 20, 0.1, 1)
        assert np.array_equal(counts(parts, labels), golden)
        assert_covers(parts, 60_000)
    result = partition.make("dirichlet", CIFAR_LABELS, 20, alpha=0.1, seed=1, num_classes=10)
    train = metrics.class_counts(result, CIFAR_LABELS, 10)
    test = metrics.class_counts(result, CIFAR_LABELS, 10, side="test")
    assert np.array_equal(train + test, golden)
    assert np.array_equal(result.train_count, np.floor(0.75 * golden.sum(1)))
    assert np.array_equal(result.test_count, golden.sum(1) - result.train_count)


@pytest.mark.parametrize("kind", partition.KINDS)
def test_packing_pads_with_zero_and_loses_nothing(kind):
    labels = np.random.default_rng(0).integers(0, 7, 500)
    result = partition.make(kind, labels, 12, alpha=0.5, classes_per_client=3, seed=3)
    for indices, count in (result[:2], result[2:4]):
        assert indices.dtype == count.dtype == np.int32
        assert indices.shape == (12, count.max())
        assert not indices[np.arange(indices.shape[1]) >= count[:, None]].any()
    assert_covers(
        real(result.train, result.train_count) + real(result.test, result.test_count), 500
    )


@pytest.mark.parametrize("kind", partition.KINDS)
def test_same_seed_same_split_and_global_state_untouched(kind):
    labels = np.random.default_rng(0).integers(0, 5, 400)

    def make(seed):
        return partition.make(kind, labels, 8, alpha=0.5, seed=seed)

    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = make(4), make(4), make(5)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(partition.KINDS),
    st.lists(st.integers(0, 5), min_size=40, max_size=120),
    st.integers(1, 6),
    st.integers(0, 2**32 - 1),
    st.floats(0.01, 1.0),
)
def test_every_sample_is_in_exactly_one_place(kind, labels, num_clients, seed, train_fraction):
    labels = np.array(labels)
    try:
        result = partition.make(
            kind, labels, num_clients, alpha=1.0, train_fraction=train_fraction, seed=seed
        )
    except UsageError as error:
        assert kind == "pathological", error
        return
    train, test = real(result.train, result.train_count), real(result.test, result.test_count)
    assert_covers(train + test, len(labels))
    sizes = result.train_count + result.test_count
    assert np.array_equal(result.train_count, np.maximum(1, np.floor(train_fraction * sizes)))


def test_large_alpha_is_almost_iid_and_small_alpha_is_not():
    even = counts(partition.dirichlet(CIFAR_LABELS, 20, 1e6, 0), CIFAR_LABELS)
    assert np.abs(even - 300).max() <= 3
    skewed = counts(partition.dirichlet(CIFAR_LABELS, 20, 0.1, 0), CIFAR_LABELS)
    assert (skewed == 0).mean() > 0.3


def test_min_samples_is_met():
    parts = partition.dirichlet(CIFAR_LABELS, 20, 0.1, 0, min_samples=300)
    assert min(map(len, parts)) >= 300


def test_a_draw_with_just_enough_is_taken():
    """Not another one; and one sample is enough unless more is asked for."""
    labels = np.arange(90) % 3
    parts = partition.dirichlet(labels, 6, 0.5, 5)
    smallest = min(map(len, parts))
    again = partition.dirichlet(labels, 6, 0.5, 5, min_samples=smallest)
    other = partition.dirichlet(labels, 6, 0.5, 5, min_samples=smallest + 1)
    assert list(map(list, again)) == list(map(list, parts)) != list(map(list, other))


@pytest.mark.parametrize("kind", partition.KINDS)
def test_there_may_be_as_many_clients_as_samples(kind):
    """Each with one, which it trains on."""
    settings = {"alpha": 1e3, "classes_per_client": 1, "seed": 2}
    result = partition.make(kind, np.arange(5), 5, **settings)
    assert sorted(result.train[:, 0]) == list(range(5)) and result.train.shape == (5, 1)
    assert result.train_count.tolist() == [1] * 5 and not result.test_count.any()
    if kind == "dirichlet":
        parts = partition.dirichlet(np.arange(5), 5, 1e3, 2)
        assert list(map(len, parts)) == [1] * 5


def test_classes_may_have_a_sample_for_each_of_their_clients_and_clients_the_fewest_allowed():
    labels = np.repeat([2, 5, 7], 4)
    result = partition.make("pathological", labels, 6, classes_per_client=2, min_samples=2)
    held = metrics.class_counts(result, labels, 8) + metrics.class_counts(
        result, labels, 8, side="test"
    )
    assert (
        held.max() == 1 and (held.sum(1) == 2).all() and held.sum(0)[[2, 5, 7]].tolist() == [4] * 3
    )


def test_iid_parts_are_equal():
    parts = partition.iid(np.arange(103) % 4, 10, 0)
    assert sorted(map(len, parts)) == [10] * 7 + [11] * 3


@pytest.mark.parametrize(
    ("num_clients", "per_client", "num_classes"), [(20, 2, 10), (7, 3, 10), (10, 10, 10), (5, 1, 5)]
)
def test_pathological_classes_per_client(num_clients, per_client, num_classes):
    labels = np.arange(2000) % num_classes
    parts = partition.pathological(labels, num_clients, per_client, 0)
    held = counts(parts, labels, num_classes) > 0
    assert np.array_equal(held.sum(1), [per_client] * num_clients)
    assert held.sum(0).max() - held.sum(0).min() <= 1
    assert_covers(parts, 2000)


def test_classes_that_no_sample_has_are_no_trouble():
    labels = np.array([0, 3, 9] * 40)
    for kind in partition.KINDS:
        result = partition.make(kind, labels, 4, alpha=1.0, num_classes=12)
        table = metrics.class_counts(result, labels, 12)
        assert table.shape == (4, 12)
        assert not table[:, [1, 2, 4, 11]].any()


def test_one_sample_is_trained_on_and_test_may_be_empty():
    train, test = partition.split_clients([np.array([5]), np.arange(4)], seed=0)
    assert train[0].tolist() == [5] and test[0].tolist() == []
    assert len(train[1]) == 3 and len(test[1]) == 1
    for wrong in ({"seed": -1}, {"seed": 2**32}, {"seed": 0, "train_fraction": 0.0}):
        with pytest.raises(UsageError, match=r"^Config\.(seed|train_fraction) must be "):
            partition.split_clients([np.arange(4)], **wrong)
    result = partition.make("iid", np.arange(8) % 2, 4, train_fraction=1.0)
    assert result.test.shape == (4, 1) and not result.test_count.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "quantity"}, "Config.partition must be one of dirichlet, pathological, iid, got"),
        ({"num_clients": 0}, "Config.num_clients must be >= 1, got 0"),
        ({"num_clients": 2.5}, "Config.num_clients must be an integer, got 2.5"),
        ({"num_clients": 101}, "Config.num_clients must be <= 100, the number of samples, got 101"),
        ({"alpha": 0.0}, "Config.alpha must be > 0 and finite, got 0.0"),
        ({"alpha": float("nan")}, "Config.alpha must be > 0 and finite, got nan"),
        ({"alpha": float("inf")}, "Config.alpha must be > 0 and finite, got inf"),
        ({"min_samples": 0}, "Config.min_samples must be >= 1, got 0"),
        ({"min_samples": 21}, "Config.min_samples * num_clients must be <= 100, the number of"),
        ({"kind": "pathological", "min_samples": 20, "seed": 1}, "Config.min_samples must be <= "),
        ({"train_fraction": 0.0}, "Config.train_fraction must be in (0, 1], got 0.0"),
        ({"train_fraction": 1.1}, "Config.train_fraction must be in (0, 1], got 1.1"),
        ({"train_fraction": float("nan")}, "Config.train_fraction must be in (0, 1], got nan"),
        ({"seed": -1}, "Config.seed must be >= 0, got -1"),
        ({"seed": 2**32}, "Config.seed must be < 2**32, got 4294967296"),
        (
            {"kind": "pathological", "classes_per_client": 0},
            "Config.classes_per_client must be >= 1, got 0",
        ),
        (
            {"kind": "pathological", "classes_per_client": 5},
            "Config.classes_per_client must be <= 4, the classes in the data, got 5",
        ),
        (
            {"kind": "pathological", "classes_per_client": 1, "num_clients": 3},
            "Config.classes_per_client * num_clients must be >= 4, the classes in the data, got 1",
        ),
        (
            {"kind": "pathological", "labels": np.array([0, 1, 1, 1, 1, 1])},
            "must leave each class a sample for each of its clients, got 1 samples of class 0",
        ),
        ({"num_classes": 3}, "labels must be in [0, 3), got 0..3"),
        ({"labels": np.zeros(4)}, "labels must be a non-empty [N] integer array, got float64"),
        ({"labels": np.zeros(0, int)}, "labels must be a non-empty [N] integer array, got int64"),
    ],
)
def test_what_cannot_be_done_is_refused(changes, message):
    request = {"kind": "dirichlet", "labels": np.arange(100) % 4, "num_clients": 5} | changes
    kind, labels, num_clients = (request.pop(key) for key in ("kind", "labels", "num_clients"))
    with pytest.raises(UsageError) as caught:
        partition.make(kind, labels, num_clients, **request)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("alpha", [0.05, 1e-6, 1e-300])
def test_dirichlet_gives_up(alpha):
    labels = np.arange(40) % 2
    with pytest.raises(UsageError, match=r"Config.alpha must let .* raise alpha, or lower"):
        partition.dirichlet(labels, 20, alpha, 0, min_samples=2, max_tries=20)


def test_a_thousand_clients_are_quick():
    start = time.process_time()
    result = partition.make("dirichlet", CIFAR_LABELS, 1000, alpha=1.0)
    assert result.train.shape[0] == 1000
    assert time.process_time() - start < 2.0  # measured: 0.01 s


@given(
    st.integers(0, 2**32 - 1),
    st.floats(0.01, 0.99),
    st.lists(st.integers(0, 4), min_size=1, max_size=60),
)
@settings(max_examples=200, deadline=None)
def test_what_is_set_apart_is_each_class_s_share(seed, fraction, labels):
    """Of two clients, one of whom has a single sample; test samples and the order stay."""
    labels = np.array([*labels, 3])
    rows = np.random.default_rng(seed).permutation(len(labels) - 1)
    tested = [np.array([7, 9]), np.array([], int)]
    before = partition.pack([rows, np.array([len(labels) - 1])], tested)
    after = partition.set_apart(before, labels, fraction, seed)
    assert all(np.array_equal(*pair) for pair in zip(before[2:4], after[2:4], strict=True))
    kept, _ = partition.unpack(after)
    apart = after.validation[0, : after.validation_count[0]]
    assert after.validation_count.tolist() == [int(fraction * len(rows)), 0]
    assert kept[0].tolist() == [row for row in rows if row not in apart]
    assert sorted([*kept[0], *apart]) == sorted(rows)
    counts, taken = (np.bincount(labels[one], minlength=5) for one in (rows, apart))
    exact = counts / len(rows) * len(apart)
    if len(apart) <= len(rows) - (counts > 0).sum():  # No class need be taken away whole.
        assert (taken[counts > 0] < counts[counts > 0]).all()
    if (exact <= np.maximum(counts - 1, 0)).all():
        assert (np.abs(taken - exact) < 1).all()


def test_what_is_set_apart_is_drawn_by_the_seed():
    before = partition.pack([np.arange(200)], [np.array([], int)])
    drawn = [partition.set_apart(before, np.zeros(200, int), 0.3, seed) for seed in (1, 1, 2)]
    first, again, other = (one.validation.tolist() for one in drawn)
    assert first == again != other


def test_pooled_clients_hold_what_all_of_them_held():
    before = partition.pack(
        [np.array([0, 1, 2, 8]), np.array([3])], [np.array([], int), np.array([4, 5])]
    )
    plain = partition.pool(before, 3)
    assert plain.train.tolist() == [[0, 1, 2, 8, 3]] * 3 and plain.test.tolist() == [[4, 5]] * 3
    assert plain.validation is None
    apart = partition.set_apart(before, np.zeros(9, int), 0.5, 0)
    pooled = partition.pool(apart, 2)
    assert pooled.train_count.tolist() == [3, 3] and pooled.validation_count.tolist() == [2, 2]
    assert sorted(pooled.validation[1]) == sorted(apart.validation[0])
