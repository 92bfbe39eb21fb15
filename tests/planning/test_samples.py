"""Who holds which samples, by every way that users can say it, and what clients are tested on."""

import json

import numpy as np
import pytest

from protonorm_jax import data, metrics, partition
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import samples
from protonorm_jax.types import Part


def share(dataset, **settings):
    config = Config(**settings)
    return samples.share(config, samples.DataSets(dataset).of(config))


def held(found):
    return partition.unpack(found.partition)


@pytest.fixture
def in_parts(small_set):
    """Two thirds for training, a sixth each for validation and testing; in no order."""
    parts = np.random.default_rng(1).permutation(np.repeat([0, 0, 0, 0, 1, 2], 40))
    return small_set._replace(parts=parts.astype(np.uint8))


@pytest.mark.parametrize("kind", ["dirichlet", "iid", "pathological"])
def test_own_parts_are_kept_apart(kind, in_parts):
    found = share(in_parts, split="own", partition=kind, num_clients=6, min_samples=3, alpha=0.5)
    train, test = held(found)
    parts, labels = in_parts.parts, in_parts.labels
    assert sorted(np.concatenate(train)) == np.flatnonzero(parts == Part.TRAIN).tolist()
    given = np.concatenate(test)
    assert len(given) == len(set(given)) and (parts[given] == Part.TEST).all()
    counts = metrics.class_counts(found.partition, labels, 5)
    tested = metrics.class_counts(found.partition, labels, 5, side="test")
    for label in range(5):
        there = ((labels == label) & (parts == Part.TEST)).sum()
        exact = counts[:, label] / counts[:, label].sum() * there
        assert tested[:, label].sum() == there and np.abs(tested[:, label] - exact).max() < 1
    alone = in_parts._replace(
        parts=None, labels=labels[parts == 0], images=in_parts.images[parts == 0]
    )
    same = share(alone, partition=kind, num_clients=6, min_samples=3, alpha=0.5, train_fraction=1.0)
    rows = np.flatnonzero(parts == Part.TRAIN)
    assert [one.tolist() for one in train] == [rows[one].tolist() for one in held(same)[0]]


def test_joined_takes_all_parts_and_is_the_default(in_parts, small_set):
    settings = {"num_clients": 6, "alpha": 0.5}
    plain, joined = share(small_set, **settings), share(in_parts, **settings)
    for one, other in zip(plain.partition, joined.partition, strict=True):
        assert np.array_equal(one, other)
    assert joined.notes == ()


def test_a_class_that_nobody_trains_on_is_given_to_nobody(in_parts):
    only_tested = np.where((in_parts.labels == 4) & (in_parts.parts == 0), 1, in_parts.parts)
    found = share(in_parts._replace(parts=only_tested.astype(np.uint8)), split="own", num_clients=2)
    assert (in_parts.labels[np.concatenate(held(found)[1])] != 4).all()
    there = (only_tested == Part.TEST).sum()
    assert (
        f"{there} samples, of which clients have {there - 8 + 0}" in found.notes[0] or found.notes
    )


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (None, "which has no train and no test part .--test-data gives a test part.*, got 'own'"),
        ([Part.TRAIN], "which has a train part but no test part .--test-data gives a test part"),
        ([Part.TRAIN, Part.VALIDATION], "which has a train and validation part but no test part"),
        ([Part.TEST], "which has a test part but no train part"),
    ],
)
def test_own_parts_that_are_not_there_are_refused(parts, message, small_set):
    if parts:
        parts = np.resize(np.array(parts, np.uint8), 240)
    with pytest.raises(UsageError, match=f"Config.split must be joined for brightness .*{message}"):
        share(small_set._replace(parts=parts), split="own")


def test_a_test_set_of_its_own(small_set, tmp_path):
    path = data.save_npz(small_set._replace(labels=small_set.labels[::-1]), tmp_path / "t.npz")
    found = share(small_set, test_data=str(path), num_clients=4, alpha=1.0)
    train, test = held(found)
    assert sorted(np.concatenate(train)) == list(range(240))
    assert sorted(np.concatenate(test)) == list(range(240, 480))
    assert found.config.split == "own"
    assert found.notes == (f"test part of {path}: 240 samples, of which clients have 240",)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"test_data": "x.npz", "split": "joined"},
            "Config.split must be own with test_data, got 'j",
        ),
        (
            {"split": "own", "train_fraction": 0.5},
            "Config.train_fraction must be left out with split",
        ),
        (
            {"sizes": "lognormal"},
            "Config.sizes must be lognormal:SIGMA with SIGMA in .*'lognormal'",
        ),
        ({"sizes": "lognormal:nan"}, "Config.sizes must be lognormal:SIGMA"),
        ({"sizes": "lognormal:-1"}, "Config.sizes must be lognormal:SIGMA"),
        ({"sizes": "normal:1"}, "Config.sizes must be lognormal:SIGMA"),
        (
            {"sizes": "lognormal:1", "partition": "pathological"},
            "Config.sizes must be left out for partition pathological, .* got 'lognormal:1'",
        ),
        ({"evaluate_on": "all"}, "Config.evaluate_on must be one of own, common, both, got 'all'"),
        ({"partition": "groups:x", "alpha": 0.5}, "Config.alpha must be left out for groups:x, "),
        (
            {"partition": "file:x", "min_samples": 5},
            "Config.min_samples must be left out for file:x",
        ),
        (
            {"partition": "file:x", "sizes": "lognormal:1"},
            "Config.sizes must be left out for file:x",
        ),
        ({"data": "pfllib:x", "split": "own"}, "Config.split must be left out for pfllib:x"),
        ({"data": "pfllib:x", "test_data": "y"}, "Config.test_data must be left out for pfllib:x"),
        ({"num_samples": -1}, "Config.num_samples must be >= 0, got -1"),
    ],
)
def test_settings_that_contradict_are_refused_at_once(settings, message):
    with pytest.raises(UsageError, match=message):
        Config(**settings)


def test_a_test_set_may_come_and_go():
    config = Config().replace(test_data="x.npz")
    assert config.split == "own" and config.replace(test_data="").split == "joined"


@pytest.mark.parametrize("kind", ["iid", "dirichlet"])
def test_sizes_are_lognormal(kind):
    labels = np.arange(20_000) % 10
    sizes = []
    for seed in range(2):
        made = partition.make(kind, labels, 100, alpha=0.5, seed=seed, sigma=0.7)
        train, test = partition.unpack(made)
        assert sorted(np.concatenate(train + test)) == list(range(20_000))
        sizes.append(made.train_count + made.test_count)
    for one in sizes:
        logs = np.log(one)
        assert (
            0.55 < logs.std() < 0.85 and abs(np.mean(((logs - logs.mean()) / logs.std()) ** 3)) < 1
        )
    assert not np.array_equal(*sizes)
    again = partition.make(kind, labels, 100, alpha=0.5, seed=1, sigma=0.7)
    assert np.array_equal(again.train_count + again.test_count, sizes[1])
    even = partition.make(kind, labels, 100, alpha=0.5, sigma=0.0)
    assert set(even.train_count + even.test_count) == {200}


def test_sizes_are_drawn_apart_from_skew():
    labels = np.repeat(np.arange(10), 600)
    sizes = partition.draw_sizes(6000, 20, 0.5, 3)
    skewed, even = (
        np.stack([np.bincount(labels[one], minlength=10) for one in parts])
        for parts in (partition.dirichlet_of_sizes(labels, sizes, alpha, 3) for alpha in (0.1, 1e5))
    )
    assert np.array_equal(skewed.sum(1), sizes) and np.array_equal(even.sum(1), sizes)
    assert (skewed == 0).mean() > 0.4
    assert np.abs(even / sizes[:, None] - 0.1).max() < 0.12


def test_whole_numbers_in_proportion():
    assert partition.apportion(np.array([1, 1, 1]), 10).tolist() == [4, 3, 3]
    assert partition.apportion(np.array([5.0, 3.0, 2.0]), 7).tolist() == [4, 2, 1]
    least, most = np.array([0, 2, 0]), np.array([9, 9, 1])
    assert partition.apportion(np.array([8, 1, 1]), 10, least=least).tolist() == [7, 2, 1]
    assert partition.apportion(np.array([1, 1, 8]), 10, most=most).tolist() == [5, 4, 1]


OWNERS = ["writer 10"] * 120 + ["writer 9"] * 30 + ["writer 2"] * 80 + ["x"] * 10


@pytest.fixture
def owners(tmp_path):
    path = tmp_path / "owners.csv"
    path.write_text("\n".join(OWNERS))
    return f"groups:{path}"


def test_each_owner_is_a_client(owners, small_set):
    found = share(small_set, partition=owners, train_fraction=0.5)
    assert found.names == ("writer 2", "writer 9", "writer 10", "x")
    train, test = held(found)
    for name, one, other in zip(found.names, train, test, strict=True):
        rows = [row for row, owner in enumerate(OWNERS) if owner == name]
        assert sorted(np.append(one, other)) == rows and len(one) == len(rows) // 2
    assert found.config.num_clients == 4
    other = held(share(small_set, partition=owners, train_fraction=0.5, seed=1))[0]
    assert not np.array_equal(other[0], train[0])


def test_of_owners_the_largest_are_taken(owners, small_set):
    found = share(small_set, partition=owners, num_clients=2)
    assert found.names == ("writer 2", "writer 10") and found.config.num_clients == 2
    assert sorted(np.concatenate([*held(found)[0], *held(found)[1]])) == [
        *range(120),
        *range(150, 230),
    ]


def test_owners_keep_their_own_parts(owners, in_parts):
    found = share(in_parts, partition=owners, split="own", min_samples=2)
    for name, train, test in zip(found.names, *held(found), strict=True):
        own = np.array(OWNERS) == name
        assert sorted(train) == np.flatnonzero(own & (in_parts.parts == Part.TRAIN)).tolist()
        assert sorted(test) == np.flatnonzero(own & (in_parts.parts == Part.TEST)).tolist()


def test_owners_are_known_whatever_is_kept(owners, small_set, tmp_path):
    """The file speaks of the data as they are read."""
    settings = {"partition": owners, "classes": "1,3", "num_samples": 90, "min_samples": 2}
    config = Config(**settings)
    selected = samples.DataSets(small_set).of(config)
    found = samples.share(config, selected)
    for name, train, test in zip(found.names, *held(found), strict=True):
        assert {OWNERS[row] for row in selected.rows[np.append(train, test)]} == {name}
    path = data.save_npz(small_set, tmp_path / "t.npz")
    tested = share(small_set, partition=owners, test_data=str(path))
    train, test = held(tested)
    assert sorted(np.concatenate(train)) == list(range(240))
    assert sorted(np.concatenate(test)) == list(range(240, 480))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_samples": 20}, "owner x must have at least min_samples = 20 samples, got 10"),
        ({"num_clients": 5}, "Config.num_clients must be <= 4, the owners in .*, got 5"),
        ({"classes": "0,1", "min_samples": 5}, "owner x must have at least .* 5 samples, got 4"),
    ],
)
def test_owners_with_too_little_are_refused(settings, message, owners, small_set):
    with pytest.raises(UsageError, match=message):
        share(small_set, partition=owners, **settings)


def test_a_file_says_who_holds_what(small_set, tmp_path):
    path = tmp_path / "who.json"
    path.write_text(
        json.dumps({"a": {"train": [3, 1], "test": []}, "b": {"train": [2], "test": [0]}})
    )
    found = share(small_set, partition=f"file:{path}")
    assert [one.tolist() for one in [*held(found)[0], *held(found)[1]]] == [[3, 1], [2], [], [0]]
    assert found.names == ("a", "b") and found.config.num_clients == 2
    assert found.notes == ("1 of 2 clients have no test samples",)
    with pytest.raises(
        UsageError, match=r"num_clients must be left out or 2, the clients of .*got 3"
    ):
        share(small_set, partition=f"file:{path}", num_clients=3)
    parts = np.zeros(240, np.uint8)
    parts[[2, 0]] = Part.TEST
    with pytest.raises(
        UsageError, match="train of client b must not hold samples of the test part"
    ):
        share(small_set._replace(parts=parts), partition=f"file:{path}", split="own")


def test_what_clients_are_scored_on(in_parts, small_set):
    settings = {"num_clients": 4, "alpha": 0.5, "min_samples": 5}
    for dataset, split in ((small_set, "joined"), (in_parts, "own")):
        own, common, both = (
            share(dataset, split=split, evaluate_on=which, **settings)
            for which in ("own", "common", "both")
        )
        _, test = held(own)
        shared = sorted(np.concatenate(test))
        if split == "own":
            shared = np.flatnonzero(in_parts.parts == Part.TEST).tolist()
        assert own.scored.parts == common.scored.parts == ("",)
        assert both.scored.parts == ("", "common")
        for client in range(4):
            assert own.scored.counts[client].tolist() == [len(test[client])]
            assert common.scored.counts[client].tolist() == [len(shared)]
            assert common.scored.rows[client].tolist() == shared
            counts = both.scored.counts[client].tolist()
            assert counts == [len(test[client]), len(shared)]
            rows = both.scored.rows[client, : sum(counts)].tolist()
            assert rows == [*test[client].tolist(), *shared]
        for one in (common, both):
            for mine, other in zip(one.partition, own.partition, strict=True):
                assert np.array_equal(mine, other)
        assert "tested on the same" in common.notes[-1] and "also tested" in both.notes[-1]


def test_a_set_is_loaded_once_for_all_that_is_made_of_it(small_set, monkeypatch):
    loaded = []

    def load(spec, **settings):
        loaded.append(spec)
        return small_set

    monkeypatch.setattr(data, "load", load)
    sets = samples.DataSets()
    plain = sets.of(Config(data="a"))
    assert sets.of(Config(data="a", alpha=1.0, partition="iid", rounds=3)) is plain
    assert len(sets.of(Config(data="a", num_samples=50)).rows) == 50
    assert sets.of(Config(data="a", classes="0,1")).dataset.num_classes == 2
    assert loaded == ["a"]
    sets.of(Config(data="b", test_data="a"))
    assert loaded == ["a", "b"]


def test_validation_leaves_test_samples_and_scores_all_parts(small_set):
    settings = {"num_clients": 5, "alpha": 0.5, "seed": 3}
    plain, apart = (share(small_set, validation_fraction=v, **settings) for v in (0.0, 0.2))
    assert plain.partition.validation is None and plain.scored.parts == ("",)
    (train, test), (kept, same) = held(plain), held(apart)
    assert [one.tolist() for one in test] == [one.tolist() for one in same]
    count = apart.partition.validation_count
    assert count.tolist() == [int(0.2 * len(one)) for one in train]
    spared = [row[:n] for row, n in zip(apart.partition.validation, count, strict=True)]
    for parts in zip(train, kept, spared, strict=True):
        assert sorted(parts[0]) == sorted(np.concatenate(parts[1:]))
    assert apart.scored.parts == ("", "validation", "train")
    for number, rows in enumerate(zip(same, spared, kept, strict=True)):
        total = apart.scored.counts[number].sum()
        assert apart.scored.counts[number].tolist() == [len(one) for one in rows]
        assert apart.scored.rows[number, :total].tolist() == np.concatenate(rows).tolist()
    assert any("set apart for validation" in note for note in apart.notes)


def test_validation_of_fixed_clients_is_of_their_own_training_part(small_set, tmp_path):
    (tmp_path / "dealt.json").write_text(
        json.dumps({"a": {"train": [*range(20)], "test": [30]}, "b": {"train": [40], "test": []}})
    )
    chosen = {"partition": f"file:{tmp_path / 'dealt.json'}", "validation_fraction": 0.25}
    found = share(small_set, **chosen)
    assert found.partition.validation_count.tolist() == [5, 0]
    assert found.partition.test[0, 0] == 30 and found.names == ("a", "b")
    assert set(found.partition.validation[0]) < set(range(20))


def test_a_validation_part_of_nothing_is_refused(small_set):
    with pytest.raises(UsageError, match=r"Config.validation_fraction must be >= 1/\d+, .* 0.001"):
        share(small_set, num_clients=5, validation_fraction=0.001)


def test_pooled_clients_hold_the_samples_of_all(small_set):
    dealt = {"alpha": 0.5, "validation_fraction": 0.2}
    apart = share(small_set, num_clients=5, **dealt)
    pooled = share(small_set, num_clients=2, pooled_clients=5, **dealt)
    assert pooled.config.num_clients == 2 and pooled.config.pooled_clients == 5
    for side in ("train", "test", "validation"):
        rows, count = getattr(apart.partition, side), getattr(apart.partition, f"{side}_count")
        everything = [row[:n] for row, n in zip(rows, count, strict=True)]
        for row in getattr(pooled.partition, side):
            assert row.tolist() == np.concatenate(everything).tolist()
    assert pooled.partition.train_count.tolist() == [int(apart.partition.train_count.sum())] * 2
    with pytest.raises(UsageError, match=r"Config.num_clients must be >= 1 with pooled_clients"):
        share(small_set, num_clients=0, partition="file:x.json", pooled_clients=5)
