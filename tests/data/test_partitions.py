"""Files that say who holds which samples: every form is read, and what is wrong is named."""

import json

import numpy as np
import pytest

from protonorm_jax import partition
from protonorm_jax.data import partitions, tables
from protonorm_jax.errors import UsageError

LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 1], np.int32)
TRAIN, TEST = [[4, 1], [9], [0, 2, 3]], [[5], [], [8, 7]]


def lists(parts):
    return [[row.tolist() for row in rows] for rows in partition.unpack(parts)]


def pack():
    return partition.pack([np.array(one) for one in TRAIN], [np.array(one, int) for one in TEST])


@pytest.mark.parametrize("form", ["json", "npz", "JSON"])
def test_what_is_written_is_read(form, tmp_path):
    path = partitions.write(tmp_path / "new" / f"who.{form}", pack(), LABELS)
    held = partitions.read(path, LABELS)
    assert lists(held.partition) == [TRAIN, TEST] and held.names == ("0", "1", "2")
    for mine, other in zip(held.partition[:4], pack()[:4], strict=True):
        assert np.array_equal(mine, other) and mine.dtype == np.int32
    assert [one.name for one in path.parent.iterdir()] == [path.name]


NAMES = ("b", "a2", "a10")
BY_NAME = {
    name: {"train": one, "test": two} for name, one, two in zip(NAMES, TRAIN, TEST, strict=True)
}


@pytest.mark.parametrize(
    "content",
    [
        {"train": TRAIN, "test": TEST},
        {"clients": list(BY_NAME.values()), "num_samples": 10},
        list(BY_NAME.values()),
        {
            "train": TRAIN,
            "test": TEST,
            "num_samples": 10,
            "labels_digest": partitions.digest(LABELS),
        },
    ],
)
def test_json_by_number(content, tmp_path):
    (tmp_path / "who.json").write_text(json.dumps(content))
    assert lists(partitions.read(tmp_path / "who.json", LABELS).partition) == [TRAIN, TEST]


@pytest.mark.parametrize(
    "content",
    [
        BY_NAME,
        {"clients": BY_NAME},
        {
            "train": dict(zip(NAMES, TRAIN, strict=True)),
            "test": dict(zip(NAMES, TEST, strict=True)),
        },
        {"train": dict(zip(NAMES, TRAIN, strict=True)), "test": {"b": TEST[0], "a10": TEST[2]}},
    ],
)
def test_json_by_name_is_in_the_order_of_people(content, tmp_path):
    (tmp_path / "who.json").write_text(json.dumps(content))
    held = partitions.read(tmp_path / "who.json", LABELS)
    assert held.names == ("a2", "a10", "b")
    order = [1, 2, 0]
    assert lists(held.partition) == [[one[i] for i in order] for one in (TRAIN, TEST)]


def test_npz_in_other_forms(tmp_path):
    held = {name: rows for name, rows in pack()._asdict().items() if rows is not None}
    np.savez(tmp_path / "padded.npz", **held)
    np.savez(
        tmp_path / "clients.npz",
        train=[4, 9, 0, 1, 2, 3],
        train_client=np.array([0, 1, 2, 0, 2, 2], np.uint8),
        test=[5, 8],
        test_client=[0, 1],
    )
    assert lists(partitions.read(tmp_path / "padded.npz", LABELS).partition) == [TRAIN, TEST]
    found = lists(partitions.read(tmp_path / "clients.npz", LABELS).partition)
    assert found == [[[4, 1], [9], [0, 2, 3]], [[5], [8], []]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"train": [[0], [10]], "test": [[], []]},
            "train of client 1 must hold indices in [0, 10), got 10",
        ),
        (
            {"train": [[0], [1]], "test": [[-1], []]},
            "test of client 0 must hold indices in [0, 10), got -1",
        ),
        (
            {"train": [[0, 1], [1]], "test": [[], []]},
            "a sample once among all clients, got 1 in train of client 1",
        ),
        (
            {"train": [[0], [1]], "test": [[0], []]},
            "a sample once among all clients, got 0 in test of client 0",
        ),
        (
            {"train": [[0], [1]], "test": [[2], [2]]},
            "a sample once among all clients, got 2 in test of client 1",
        ),
        (
            {"train": [[0, 0], [1]], "test": [[], []]},
            "a sample once among all clients, got 0 in train of client 0",
        ),
        (
            {"train": [[0], []], "test": [[1], [2]]},
            "train of client 1 must hold at least one sample, got none",
        ),
        ({"train": [[0.5]], "test": [[]]}, "train of client 0 must be a list of integers, got 0.5"),
        ({"train": [[1.0]], "test": [[]]}, "train of client 0 must be a list of integers, got 1.0"),
        (
            {"train": [[True]], "test": [[]]},
            "train of client 0 must be a list of integers, got True",
        ),
        ({"train": [["1"]], "test": [[]]}, "train of client 0 must be a list of integers, got '1'"),
        ({"train": [[[1]]], "test": [[]]}, "train of client 0 must be a list of integers, got [1]"),
        (
            {"train": [[2**70]], "test": [[]]},
            "train of client 0 must be a list of integers, got 118",
        ),
        (
            {"train": [1, 2], "test": [[], []]},
            "train of client 0 must be a list of integers, got 1",
        ),
        (
            {"train": [[0], [1]], "test": [[]]},
            "train and test must hold the same clients, got 2 and 1",
        ),
        ({"train": [], "test": []}, "equally many clients, at least one, got 0 and 0"),
        (
            {"train": [[0]]},
            "must hold train and test, each a list of indices for every client, got",
        ),
        ({}, "must hold train and test, each a list of indices for every client, got"),
        (7, "must hold train and test, each a list of indices for every client, got a int"),
        (
            {"train": [[0]], "test": [[]], "num_samples": 11},
            "num_samples must be 10, as the data have, got 11",
        ),
        (
            {"train": [[0]], "test": [[]], "num_samples": True},
            "num_samples must be 10, as the data have, got True",
        ),
        (
            {"train": [[0]], "test": [[]], "labels_digest": "0"},
            "labels_digest must be that of the data",
        ),
    ],
)
def test_what_is_wrong_is_named(content, message, tmp_path):
    path = tmp_path / "who.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError) as caught:
        partitions.read(path, LABELS)
    assert message in str(caught.value)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": [0.0, 1.0]}, "train must be integers, got dtype float64"),
        ({"train_count": [1, 2]}, "train_count must cut train into clients"),
        ({"train_count": [3, -1]}, "train_count must be in [0, 2], got -1..3"),
        (
            {"train": [[0, 1], [2, 3]], "train_count": [1, 3]},
            "train_count must be in [0, 2], got 1..3",
        ),
        (
            {"train": [[0, 1], [2, 3]], "train_count": [1]},
            "train_count must cut train into clients",
        ),
        ({"train_count": 2}, "train_count shape [M], got [2] and []"),
        (
            {"train_client": [0]},
            "train_client must name the client of each of train, got shapes [1]",
        ),
        ({"train_client": [0, 10**9]}, "train_client must count clients from 0"),
        ({"train_client": [-1, 0]}, "train_client must count clients from 0"),
        ({"train": None}, "must hold train and test, got"),
        ({"train": [0, 11]}, "train of client 1 must hold indices in [0, 10), got 11"),
    ],
)
def test_what_is_wrong_in_arrays_is_named(change, message, tmp_path):
    arrays = {"train": [0, 1], "train_count": [1, 1], "test": [2], "test_count": [0, 1]} | change
    path = tmp_path / "who.npz"
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    with pytest.raises(UsageError) as caught:
        partitions.read(path, LABELS)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("who.json", b"{", "must be readable, got JSONDecodeError"),
        ("who.json", b'{"train": [], "train": []}', "the name 'train' twice in an object"),
        ("who.json", b"\xff\xfe", "must be readable, got UnicodeDecodeError"),
        ("who.json", b"[" * 200_000, "must be readable, got RecursionError"),
        ("who.npz", b"no archive", "must be readable, got"),
        ("who.csv", b"0", "a partition file must end in .json or .npz, got"),
    ],
)
def test_files_that_are_none_are_one_line(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        partitions.read(tmp_path / name, LABELS)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_objects_are_not_unpickled_and_long_files_not_read(tmp_path, monkeypatch):
    np.savez(tmp_path / "who.npz", train=np.array([[0], [1, 2]], object), test=[0], train_count=[1])
    with pytest.raises(UsageError, match="must be readable, got ValueError: Object arrays cannot"):
        partitions.read(tmp_path / "who.npz", LABELS)
    monkeypatch.setattr(tables, "FREE_BYTES", 100)
    (tmp_path / "who.json").write_text(" " * 741)
    with pytest.raises(
        UsageError, match="must have at most 740 bytes, unpacked, for 10 numbers, got 741"
    ):
        partitions.read(tmp_path / "who.json", LABELS)
    arrays = {"train": np.zeros(10_000, int), "train_count": [10_000]}
    np.savez_compressed(tmp_path / "bomb.npz", test=[0], test_count=[1], **arrays)
    assert (tmp_path / "bomb.npz").stat().st_size < 2000
    with pytest.raises(
        UsageError, match="must have at most 740 bytes, unpacked, for 10 numbers, got"
    ):
        partitions.read(tmp_path / "bomb.npz", LABELS)
    with pytest.raises(UsageError, match="must be a file, got no such file"):
        partitions.read(tmp_path / "gone.json", LABELS)
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(UsageError, match="must be a file, got something else"):
        partitions.read(tmp_path / "folder.json", LABELS)


OWNERS = ["b", "a", "c10", "c9"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain.txt", "b\na\nc10\nc9\n"),
        ("plain.csv", "b\r\na\r\nc10\r\nc9"),
        ("header.csv", "hospital\nb\na\nc10\nc9\n\n"),
        ("bom.csv", "\ufeffowner\nb\na\nc10\nc9\n"),
        ("index.csv", "index,owner\n2,c10\n0,b\n1,a\n3,c9\n"),
        ("swapped.csv", "owner;sample\nc10;2\nb;0\na;1\nc9;3\n"),
        ("unnamed.tsv", "2\tc10\n0\tb\n1\ta\n3\tc9\n"),
        ("more.csv", "file,label,writer\nx,7,b\ny,7,a\nz,1,c10\nw,1,c9\n"),
        ("list.json", json.dumps(OWNERS)),
        ("object.json", json.dumps({"3": "c9", "2": "c10", "1": "a", "0": "b"})),
    ],
)
def test_owners_in_every_form(name, text, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert partitions.read_owners(tmp_path / name, 4) == OWNERS


def test_owners_in_numpy(tmp_path):
    np.save(tmp_path / "a.npy", np.array([3, 3, 0, 12]))
    assert partitions.read_owners(tmp_path / "a.npy", 4) == ["3", "3", "0", "12"]
    np.savez(tmp_path / "a.npz", owner=np.array(OWNERS), other=np.zeros(9))
    assert partitions.read_owners(tmp_path / "a.npz", 4) == OWNERS


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "o.csv",
            "a\nb\n",
            "must name the owner of each of the 4 samples, got 2, and none for sample 2",
        ),
        ("o.csv", "a\nb\nc\nd\ne\nf\n", "sample must be in [0, 4), got 4"),
        (
            "o.csv",
            "0,a\n1,b\n2,c\n2,d\n",
            "must hold one column, a number and a value, or a column",
        ),
        ("o.csv", "index,owner\n0,a\n1,b\n2,c\n2,d\n", "sample must be there once, got 2 twice"),
        ("o.csv", "0,a\n1,b\n2,c\n4,d\n", "sample must be in [0, 4), got '4'"),
        (
            "o.csv",
            "0,a\n1,\n2,c\n3,d\n",
            "the value of sample 1 must be a name or an integer, got ''",
        ),
        (
            "o.csv",
            "x,y\na,b\na,b\na,b\na,b\n",
            "or a column called owner or client or user, got 2 columns: x, y",
        ),
        (
            "o.csv",
            "0,a\n1\n",
            "must have equally many columns in all lines, got 2 in the first and 1 in",
        ),
        ("o.csv", "", "must hold a line for each number, got none"),
        ("o.json", "[1, 2, 3, 4.5]", "the value of sample 3 must be a name or an integer, got 4.5"),
        (
            "o.json",
            "[1, 2, 3, null]",
            "the value of sample 3 must be a name or an integer, got None",
        ),
        ("o.json", "3", "must hold a list or an object, got int"),
        ("o.json", '{"a": 1}', "sample must be in [0, 4), got 'a'"),
    ],
)
def test_owners_that_are_wrong_are_named(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as caught:
        partitions.read_owners(tmp_path / name, 4)
    assert message in str(caught.value) and str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)
