"""Fewer samples, fewer classes, groups of labels and two sets as one."""

import json

import numpy as np
import pytest

from protonorm_jax import partition
from protonorm_jax.data import selection
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Dataset, Part

SIZES = (400, 200, 60, 1, 0, 39)  # Of six classes, in no order.


def a_set(sizes=SIZES, *, shape=(2, 2, 1), parts=None, num_classes=None, seed=0):
    """Images that say which sample they are."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.random.default_rng(seed).permutation(labels).astype(np.int32)
    images = np.zeros((len(labels), *shape), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(labels)) % 256
    images[:, 1, 0, 0] = np.arange(len(labels)) // 256
    return Dataset(images, labels, num_classes or len(sizes), "some", parts)


def identity(selected):
    images = selected.dataset.images[..., 0].astype(int)
    return images[:, 0, 0] + 256 * images[:, 1, 0]


def assert_consistent(selected, before):
    """Every sample has kept its image and part, and `rows` says where it came from."""
    assert np.array_equal(identity(selected), selected.rows)
    assert np.all(np.diff(selected.rows) > 0)
    if before.parts is not None:
        assert np.array_equal(selected.dataset.parts, before.parts[selected.rows])


@pytest.mark.parametrize("count", [5, 6, 10, 70, 333, 699, 700])
def test_a_subset_has_its_share_of_every_class_and_one_at_least(count):
    before = a_set()
    found = selection.subset(selection.whole(before), count)
    assert_consistent(found, before)
    assert np.array_equal(found.dataset.labels, before.labels[found.rows])
    got = np.bincount(found.dataset.labels, minlength=6)
    assert got.sum() == count and found.dataset.num_classes == 6
    exact = np.array(SIZES) * count / 700
    assert (got[np.array(SIZES) > 0] >= 1).all() and (got <= SIZES).all()
    if count >= 70:
        assert np.abs(got - exact).max() <= 1
    again = selection.subset(selection.whole(before), count)
    assert np.array_equal(found.rows, again.rows)


def test_a_subset_has_its_share_of_every_part():
    parts = np.random.default_rng(1).choice(3, 700, p=[0.6, 0.1, 0.3]).astype(np.uint8)
    before = a_set(parts=parts)
    found = selection.subset(selection.whole(before), 350)
    assert_consistent(found, before)
    for part in Part:
        for label in range(6):
            there = ((before.labels == label) & (parts == part)).sum()
            got = ((found.dataset.labels == label) & (found.dataset.parts == part)).sum()
            assert abs(got - there / 2) <= 1


def test_a_subset_keeps_the_share_of_each_client_in_training_and_test():
    before = a_set()
    order = np.random.default_rng(2).permutation(700)
    sizes = [(300, 100), (100, 0), (3, 60), (50, 17)]  # 70 samples are nobody's.
    pieces = np.split(order, np.cumsum(np.reshape(sizes, -1)))[:-1]
    before = before._replace(dealt=partition.pack(pieces[::2], pieces[1::2]))
    found = selection.subset(selection.whole(before), 63)
    assert_consistent(found, before)
    train, test = partition.unpack(found.dataset.dealt)
    assert [len(one) for one in train] == [30, 10, 1, 5]
    assert [len(one) for one in test] == [
        10,
        0,
        6,
        1,
    ]  # Of 1.7 one, as the client with 3 keeps one.
    for rows, own in zip(train + test, pieces[::2] + pieces[1::2], strict=True):
        assert set(found.rows[rows]) <= set(own), "Clients keep what is theirs."
    assert set(found.dataset.labels) == set(before.labels[order[:630]])
    everything = selection.subset(selection.whole(before), 630)
    assert sorted(everything.rows) == sorted(order[:630])


def test_a_class_that_a_few_clients_hold_little_of_is_not_lost():
    labels = np.array([0] * 50 + [1] * 49 + [2], np.int32)
    images = np.zeros((100, 2, 2, 1), np.uint8)
    dealt = partition.pack([np.arange(40), np.arange(40, 100)], [np.arange(0), np.arange(0)])
    found = selection.subset(selection.whole(Dataset(images, labels, 3, "x", None, dealt)), 10)
    assert np.bincount(found.dataset.labels).min() == 1 and len(found.rows) == 10
    assert [len(one) for one in partition.unpack(found.dataset.dealt)[0]] == [4, 6]


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (701, "Config.num_samples must be <= 700, the samples of some, got 701"),
        (4, "Config.num_samples must be >= 5, the classes of some, got 4"),
    ],
)
def test_subsets_that_cannot_be_are_refused(count, message):
    with pytest.raises(UsageError, match=message):
        selection.subset(selection.whole(a_set()), count)


@pytest.mark.parametrize(
    ("text", "classes"), [("0-2,5", [0, 1, 2, 5]), ("5,0-1", [0, 1, 5]), (" 1 , 2 - 3", [1, 2, 3])]
)
def test_classes_are_kept_and_numbered_anew(text, classes):
    before = a_set()
    found = selection.of_classes(selection.whole(before), text)
    assert_consistent(found, before)
    assert found.dataset.num_classes == len(classes)
    assert np.array_equal(np.array(classes)[found.dataset.labels], before.labels[found.rows])
    assert len(found.rows) == sum(SIZES[label] for label in classes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0-6", r"Config.classes must be in \[0, 6\), the classes of the data, got '0-6'"),
        ("3-1", "Config.classes must have ranges that ascend, got '3-1'"),
        ("1,1", "Config.classes must name each class once, got '1,1'"),
        ("0-2,1", "Config.classes must name each class once, got '0-2,1'"),
        ("a", "Config.classes must be classes and ranges such as 0-4,7, got 'a'"),
        ("1,", "Config.classes must be classes and ranges such as 0-4,7, got '1,'"),
        ("-1", "Config.classes must be classes and ranges such as 0-4,7, got '-1'"),
        ("0-9999999999", "Config.classes must be classes and ranges such as"),
        ("2", "Config.classes must keep at least 2 classes of which some has samples, got '2'"),
        ("2,4", "Config.classes must keep at least 2 classes of which some has samples"),
    ],
)
def test_classes_that_cannot_be_are_refused(text, message):
    with pytest.raises(UsageError, match=message):
        selection.of_classes(selection.whole(a_set()), text)


@pytest.mark.parametrize(
    ("name", "content", "groups"),
    [
        (
            "g.json",
            {"0": "pet", "1": "car", "2": "pet", "3": "car", "5": "pet"},
            [1, 0, 1, 0, -1, 1],
        ),
        ("g.json", {"0": 20, "1": 3, "2": 20, "3": 3, "5": 100}, [1, 0, 1, 0, -1, 2]),
        ("g.json", [1, 0, 1, 0, 0, 1], [1, 0, 1, 0, -1, 1]),
        ("g.csv", "label,group\n5,pet\n0,pet\n1,car\n2,pet\n3,car\n", [1, 0, 1, 0, -1, 1]),
        ("g.txt", "b\na\nb\na\na\nb\n", [1, 0, 1, 0, -1, 1]),
    ],
)
def test_groups_become_the_classes(name, content, groups, tmp_path):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    before = a_set()
    found = selection.grouped(selection.whole(before), path)
    assert_consistent(found, before)
    assert np.array_equal(found.dataset.labels, np.array(groups)[before.labels])
    assert found.dataset.num_classes == max(groups) + 1
    assert found.dataset.labels.dtype == np.int32


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"0": 1, "1": 2}, "must name a group for every label of some, got none for 2-3,5"),
        ([1, 1, 1, 1, 1, 1], "must make at least 2 groups, got only '1'"),
        ({"6": 1}, r"label must be in \[0, 6\), got '6'"),
        ([0, 1, 2, 3, 4, 0.5], "the value of label 5 must be a name or an integer, got 0.5"),
    ],
)
def test_groups_that_are_wrong_are_named(content, message, tmp_path):
    path = tmp_path / "g.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message):
        selection.grouped(selection.whole(a_set()), path)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("second", [False, True])
def test_a_second_set_is_the_test_part(first, second):
    """Where sets tell parts apart, the first loses its own test part and gives no other."""
    parts = np.arange(700) % 3
    one = a_set(parts=parts.astype(np.uint8) if first else None)
    two = a_set(seed=5, parts=parts[::-1].astype(np.uint8) if second else None)
    found = selection.with_test(selection.whole(one), two)
    kept = np.flatnonzero(parts != Part.TEST) if first else np.arange(700)
    added = np.flatnonzero(parts[::-1] == Part.TEST) if second else np.arange(700)
    assert np.array_equal(found.rows, np.append(kept, 700 + added)) and found.num_first == 700
    assert np.array_equal(found.dataset.labels, np.append(one.labels[kept], two.labels[added]))
    wanted = parts[kept] if first else np.full(len(kept), Part.TRAIN)
    assert np.array_equal(found.dataset.parts, np.append(wanted, np.full(len(added), Part.TEST)))
    assert np.array_equal(identity(found), np.append(kept, added))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (2, 2, 3)}, r"images of shape \[2, 2, 1\], as some, got \[2, 2, 3\]"),
        ({"num_classes": 7}, "the 6 classes of some, got 7 in some"),
    ],
)
def test_a_second_set_of_another_kind_is_refused(change, message):
    with pytest.raises(UsageError, match=f"Config.test_data must have .*{message}"):
        selection.with_test(selection.whole(a_set()), a_set(**change))


def test_labels_that_leave_most_classes_empty_are_told_of():
    labels = np.array([0, 100, 200] * 10, np.int32)
    sparse = Dataset(np.zeros((30, 2, 2, 1), np.uint8), labels, 201, "mine")
    line = selection.empty_classes(sparse)
    assert "mine has 201 classes, of which 198 have no sample; --classes 0,100,200 " in line
    dense = selection.of_classes(selection.whole(sparse), "0,100,200").dataset
    assert selection.empty_classes(dense) is None
    assert selection.empty_classes(a_set()) is None
    assert selection.empty_classes(a_set((1, 0, 1, 0))) is None
    assert selection.empty_classes(a_set((1, 0, 1, 0, 0))) is not None
