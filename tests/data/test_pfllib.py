"""Folders of PFLlib and its kin: read as they are, written so that those codes read them."""

import json
import pickle
import zipfile

import numpy as np
import pytest

from protonorm_jax import data
from protonorm_jax.data import pfllib
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Dataset, Part, Partition

COUNTS = {"train": (3, 5, 2), "test": (2, 0, 1)}
"""Samples of three clients; the second has none to test on."""


def normalised(images):
    """As ToTensor and Normalize(0.5, 0.5) make them: `[n, channels, H, W]` float32."""
    scaled = (images.astype(np.float32) / 255 - 0.5) / 0.5
    return np.moveaxis(scaled, -1, 1)


def samples(seed=0, *, counts=COUNTS, channels=3):
    """By part and client, images `[n, 4, 5, channels]` uint8 and labels in 0..2."""
    generator = np.random.default_rng(seed)
    return {
        part: [
            (
                generator.integers(0, 256, (count, 4, 5, channels), np.uint8),
                generator.integers(0, 3, count),
            )
            for count in of_part
        ]
        for part, of_part in counts.items()
    }


def write(folder, of_part, *, x=normalised, y=np.asarray, described=None):
    """As those codes write it."""
    for part, clients in of_part.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        for number, (images, labels) in enumerate(clients):
            content = {"x": x(images), "y": y(labels)}
            with open(folder / part / f"{number}.npz", "wb") as file:
                np.savez_compressed(file, data=content)
    if described is not None:
        (folder / "config.json").write_text(json.dumps(described))
    return folder


def refusal(folder, **options):
    with pytest.raises(UsageError) as caught:
        data.load(f"pfllib:{folder}", **options)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


def held(dataset, part, client):
    """Images and labels of a client, in its own order."""
    rows, counts = dataset.dealt[:2] if part == "train" else dataset.dealt[2:4]
    rows = rows[client, : counts[client]]
    return dataset.images[rows], dataset.labels[rows]


def check_same(dataset, of_part):
    for part, clients in of_part.items():
        for number, (images, labels) in enumerate(clients):
            got, got_labels = held(dataset, part, number)
            assert np.array_equal(got, images) and np.array_equal(got_labels, labels)


def counted(of_part):
    """What `config.json` says of the samples."""
    result = []
    for number in range(len(of_part["train"])):
        parts = [of_part[part][number][1] for part in ("train", "test")]
        classes, counts = np.unique(np.concatenate(parts), return_counts=True)
        result.append([[int(a), int(b)] for a, b in zip(classes, counts, strict=True)])
    return result


def test_clients_and_parts_are_kept(tmp_path):
    of_part = samples()
    described = {"num_clients": 3, "num_classes": 7, pfllib.SIZES: counted(of_part)}
    folder = write(tmp_path / "mine", of_part, described=described)
    (folder / "train" / ".DS_Store").write_text("left out")
    dataset = data.load(f"pfllib:{folder}")
    check_same(dataset, of_part)
    assert (dataset.name, dataset.num_classes) == ("mine", 7)
    assert dataset.images.shape == (13, 4, 5, 3) and dataset.images.dtype == np.uint8
    assert dataset.dealt.train_count.tolist() == [3, 5, 2]
    assert dataset.dealt.test_count.tolist() == [2, 0, 1]
    rows = np.concatenate(
        [
            row[:count]
            for rows, counts in (dataset.dealt[:2], dataset.dealt[2:4])
            for row, count in zip(rows, counts, strict=True)
        ]
    )
    assert sorted(rows) == list(range(13))
    parts = np.full(13, Part.TRAIN)
    parts[np.concatenate([row[:count] for row, count in zip(*dataset.dealt[2:4], strict=True)])] = (
        Part.TEST
    )
    assert dataset.parts.tolist() == parts.tolist()
    assert all(rows.dtype == np.int32 for rows in dataset.dealt[:4])


def test_ten_clients_are_in_the_order_of_their_numbers(tmp_path):
    of_part = samples(counts={"train": range(1, 13), "test": (1,) * 12})
    check_same(data.load(f"pfllib:{write(tmp_path, of_part)}"), of_part)


def test_no_config_and_no_test_file_of_a_client(tmp_path):
    of_part = samples()
    write(tmp_path, of_part)
    (tmp_path / "test" / "1.npz").unlink()
    dataset = data.load(f"pfllib:{tmp_path}")
    check_same(dataset, of_part)
    assert dataset.num_classes == 1 + max(labels.max() for _, labels in of_part["train"])


@pytest.mark.parametrize(
    "scaled",
    [
        normalised,
        lambda images: normalised(images).astype(np.float64),
        lambda images: normalised(images).astype(np.float16),
        lambda images: normalised(images).astype(">f4"),
        lambda images: np.asfortranarray(normalised(images)),
        lambda images: np.moveaxis(images, -1, 1),
        lambda images: np.moveaxis(images, -1, 1).astype(np.int64),
        lambda images: np.moveaxis(images, -1, 1).astype(np.float32),
        lambda images: np.moveaxis(images, -1, 1) / 255,
        lambda images: (np.moveaxis(images, -1, 1) / np.float32(255)).astype(np.float32),
    ],
)
def test_pixels_come_out_as_they_went_in(tmp_path, scaled):
    of_part = samples()
    check_same(data.load(f"pfllib:{write(tmp_path, of_part, x=scaled)}"), of_part)


@pytest.mark.parametrize("scaled", [normalised, lambda images: np.moveaxis(images, -1, 1) / 255])
@pytest.mark.parametrize("first", [True, False])
def test_a_bright_client_is_scaled_as_all_others(tmp_path, scaled, first):
    of_part = samples()
    number = 0 if first else 2
    images, labels = of_part["train"][number]
    of_part["train"][number] = (images // 4 + 190, labels)
    check_same(data.load(f"pfllib:{write(tmp_path, of_part, x=scaled)}"), of_part)


@pytest.mark.parametrize("kind", [np.int32, np.uint8, np.float32, np.float64, ">i8"])
def test_labels_of_any_type_that_are_whole(tmp_path, kind):
    of_part = samples()
    check_same(data.load(f"pfllib:{write(tmp_path, of_part, y=lambda y: y.astype(kind))}"), of_part)


def test_labels_in_a_list_and_keys_of_bytes(tmp_path):
    of_part = samples()
    check_same(data.load(f"pfllib:{write(tmp_path, of_part, y=np.ndarray.tolist)}"), of_part)
    images, labels = of_part["train"][0]
    np.savez(tmp_path / "train" / "0.npz", data={b"x": normalised(images), b"y": labels, 7: None})
    check_same(data.load(f"pfllib:{tmp_path}"), of_part)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("old", [True, False])
def test_archives_of_other_versions(tmp_path, protocol, old):
    """Of Python 2 to 3.8 and later, and of numpy 1 and 2."""
    of_part = samples(channels=1)
    write(tmp_path, of_part)
    for part, clients in of_part.items():
        for number, (images, labels) in enumerate(clients):
            array = np.empty((), object)
            array[()] = {"x": normalised(images), "y": labels}
            content = pickle.dumps(array, protocol)
            if old and protocol < 4:
                content = content.replace(b"numpy._core", b"numpy.core")
            np.save(tmp_path / "empty.npy", np.empty((), object))
            header = (tmp_path / "empty.npy").read_bytes()[:128]
            path = tmp_path / part / f"{number}.npz"
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("data.npy", header + content)
            again = np.load(path, allow_pickle=True)["data"].tolist()
            assert np.array_equal(again["x"], normalised(images))
    check_same(data.load(f"pfllib:{tmp_path}"), of_part)


def test_archives_of_plain_arrays(tmp_path):
    of_part = samples()
    write(tmp_path, of_part)
    for part, clients in of_part.items():
        for number, (images, labels) in enumerate(clients):
            np.savez(tmp_path / part / f"{number}.npz", x=normalised(images), y=labels)
    check_same(data.load(f"pfllib:{tmp_path}"), of_part)


def test_clients_that_are_missing(tmp_path):
    assert "must exist" in refusal(tmp_path / "none")
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    assert "train must hold 0.npz, 1.npz, ..., got none" in refusal(tmp_path)
    write(tmp_path, samples())
    (tmp_path / "train" / "1.npz").rename(tmp_path / "train" / "3.npz")
    assert "train must hold 0.npz to 3.npz, got no 1.npz" in refusal(tmp_path)
    (tmp_path / "train" / "3.npz").rename(tmp_path / "train" / "1.npz")
    (tmp_path / "train" / "2.npz").unlink()
    assert "test/2.npz must have a client with training samples" in refusal(tmp_path)
    write(tmp_path, samples(counts={"train": (3, 0, 2), "test": (1, 1, 1)}))
    assert "train/1.npz must hold at least one sample, got none" in refusal(tmp_path)
    write(tmp_path, samples(counts={"train": (0, 0, 0), "test": (0, 0, 0)}))
    assert "train/0.npz must hold at least one sample, got none" in refusal(tmp_path)


def test_a_config_that_contradicts_the_files(tmp_path):
    of_part = samples()
    sizes = counted(of_part)
    wrong = [*sizes[:2], [[0, 1]]]
    for described, message in (
        ({"num_clients": 4}, "config.json: num_clients must be 3, as many as files in"),
        ({"num_clients": "three"}, "num_clients must be 3, as many as files"),
        ({"num_classes": 2}, "num_classes must be an integer > 2, the highest label"),
        ({"num_classes": True}, "num_classes must be an integer > 2"),
        ({pfllib.SIZES: sizes[:2]}, "must have an entry for each of 3 clients, got 2"),
        ({pfllib.SIZES: 7}, "must have an entry for each of 3 clients, got int"),
        ({pfllib.SIZES: wrong}, "for client 2, as in its files, got [[0, 1]]"),
        ({pfllib.SIZES: [*sizes[:2], "all"]}, "for client 2, as in its files, got all"),
        ([3], "must hold one JSON object, got list"),
    ):
        write(tmp_path, of_part, described=described)
        assert message in refusal(tmp_path)
    endless = '{"Size of samples for labels in clients": [[[0, Infinity]], 1, 1]}'
    for content in (endless, "{", "[" * 100_000, "\xff"):
        (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
        assert "config.json" in refusal(tmp_path)
    mixed = [[*sorted(one, reverse=True), [5, 0]] for one in sizes]
    write(tmp_path, of_part, described={"num_clients": 3, pfllib.SIZES: mixed})
    check_same(data.load(f"pfllib:{tmp_path}"), of_part)


def test_pixels_that_are_none(tmp_path):
    of_part = samples()
    generator = np.random.default_rng(0)
    for scaled, message in (
        (lambda images: normalised(images) * 0.9 + 0.003, "steps of 255 off"),
        (lambda images: generator.random((len(images), 3, 4, 5)), "must hold whole pixels, norm"),
        (lambda images: (normalised(images) - 0.1) / 0.3, "pixels in -1..1, 0..1 or 0..255 unless"),
        (
            lambda images: np.moveaxis(images, -1, 1) + 1.0,
            "must hold pixels in -1..1, 0..1 or 0..2",
        ),
        (lambda images: np.moveaxis(images, -1, 1) - 1.0, "must hold pixels in"),
    ):
        write(tmp_path, of_part, x=scaled)
        assert message in refusal(tmp_path)
        if "steps" in message or "whole" in message:
            data.load(f"pfllib:{tmp_path}", inexact_pixels=True)
    for value in (np.nan, np.inf, -np.inf):
        write(tmp_path, of_part, x=lambda images, value=value: normalised(images) * value)
        assert "0.npz: x must be finite, got" in refusal(tmp_path, inexact_pixels=True)


def test_inexact_pixels_are_the_nearest_when_told(tmp_path):
    of_part = samples()
    write(tmp_path, of_part, x=lambda images: normalised(images) * 0.999)
    dataset = data.load(f"pfllib:{tmp_path}", inexact_pixels=True)
    wanted = np.rint((of_part["train"][0][0] / 127.5 - 1) * 0.999 * 127.5 + 127.5)
    assert np.array_equal(held(dataset, "train", 0)[0], wanted)
    # In a range of its own: from the darkest to the brightest.
    write(tmp_path, of_part, x=lambda images: np.moveaxis(images, -1, 1) * 0.5 - 60)
    lowest = min(images.min() for part in of_part.values() for images, _ in part if images.size)
    highest = max(images.max() for part in of_part.values() for images, _ in part if images.size)
    dataset = data.load(f"pfllib:{tmp_path}", inexact_pixels=True)
    images = of_part["train"][0][0].astype(float)
    wanted = (images - lowest) / (highest - lowest) * 255
    assert np.abs(held(dataset, "train", 0)[0] - wanted).max() <= 0.501


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x": np.zeros((2, 3, 4, 5)), "y": np.zeros(3)}, "x and y must be equally many"),
        ({"x": np.zeros((2, 2, 4, 5)), "y": np.zeros(2)}, "with 1 or 3 channels, got [2, 2, 4, 5]"),
        ({"x": np.zeros((2, 4, 5, 3)), "y": np.zeros(2)}, "with 1 or 3 channels, got [2, 4, 5, 3]"),
        ({"x": np.zeros((2, 3, 0, 5)), "y": np.zeros(2)}, "1 or 3 channels, got [2, 3, 0, 5]"),
        ({"x": np.zeros((2, 60)), "y": np.zeros(2)}, "with 1 or 3 channels, got [2, 60]"),
        ({"x": np.zeros(()), "y": np.zeros(2)}, "x and y must be equally many, got shapes [] and"),
        ({"x": np.ones((2, 3, 9, 5)), "y": np.arange(2)}, "images must be sized as in "),
        ({"x": np.zeros((2, 3, 4, 5)), "y": np.array([0, 0.5])}, "y must be whole numbers in [0, "),
        ({"x": np.zeros((2, 3, 4, 5)), "y": np.array([0, -1])}, "[0, 65536), got -1"),
        ({"x": np.zeros((2, 3, 4, 5)), "y": np.array([0, np.nan])}, "[0, 65536), got nan"),
        ({"x": np.zeros((2, 3, 4, 5)), "y": np.array([0, 1e9])}, "[0, 65536), got 1000000000.0"),
        ({"x": np.zeros((2, 3, 4, 5)), "y": np.zeros((2, 2))}, "y must be [n] whole numbers, got "),
        ({"x": np.zeros((2, 3, 4, 5)), "y": ["a", "b"]}, "y must be an array of numbers, got list"),
        ({"x": np.zeros((2, 3, 4, 5)), "y": [[0], [1]]}, "y must be an array of numbers, got list"),
        ({"x": np.zeros((2, 3, 4, 5))}, "y must be an array of numbers, got no y"),
        ({"x": np.array([None, 1]), "y": np.arange(2)}, "x must be an array of numbers, got ndarr"),
        (
            {"x": np.ones((2, 3, 4, 5), bool), "y": np.arange(2)},
            "x must be numbers, got dtype bool",
        ),
        ({10**6000: 1}, "x must be an array of numbers, got no x"),
        ({"x": np.zeros((2, 3, 4, 5)), "y": [0, 10**6000]}, "y must be an array of numbers, got l"),
        ([1, 2], "data must be a dict of x and y"),
        ("text", "data must be a dict of x and y"),
    ],
)
def test_archives_that_do_not_do(tmp_path, content, message):
    write(tmp_path, samples())
    array = np.array(content, object) if isinstance(content, list) else content
    np.savez(tmp_path / "train" / "2.npz", data=array)
    got = refusal(tmp_path)
    assert message in got and "train/2.npz" in got


def test_archives_that_are_broken_or_call_something(tmp_path):
    write(tmp_path, samples())
    path = tmp_path / "test" / "2.npz"
    whole = path.read_bytes()
    for keep in (0, 3, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        assert "test/2.npz must be" in refusal(tmp_path)
    np.savez(path, other=np.zeros(3))
    assert "must hold an array data, got ['other']" in refusal(tmp_path)

    class Calls:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'hit')!r}, 'w')",)

    np.savez(path, data={"x": Calls(), "y": 1})
    assert "arrays, dicts, lists and numbers only, got builtins.exec" in refusal(tmp_path)
    assert not (tmp_path / "hit").exists()


def small_set():
    """A set, and who holds what: three clients, one without test samples, in no order."""
    generator = np.random.default_rng(3)
    images = generator.integers(0, 256, (20, 4, 5, 3), np.uint8)
    labels = (np.arange(20) % 3).astype(np.int32)
    train = np.array([[7, 3, 0], [1, 2, 0], [19, 5, 11]], np.int32)
    test = np.array([[4, 6], [0, 0], [8, 0]], np.int32)
    counts = np.array([3, 2, 3], np.int32), np.array([2, 0, 1], np.int32)
    return Dataset(images, labels, 4, "toy"), Partition(train, counts[0], test, counts[1])


def test_what_is_written_is_read_again(tmp_path):
    dataset, partition = small_set()
    folder = pfllib.save(dataset, partition, tmp_path / "out", {"alpha": 0.5})
    again = data.load(f"pfllib:{folder}")
    for number in range(3):
        for part, (rows, counts) in (("train", partition[:2]), ("test", partition[2:4])):
            own = rows[number, : counts[number]]
            images, labels = held(again, part, number)
            assert np.array_equal(images, dataset.images[own])
            assert labels.tolist() == dataset.labels[own].tolist()
    assert again.num_classes == 4
    # And again: the same folder, byte by byte.
    described = json.loads((folder / "config.json").read_text())
    assert described["alpha"] == 0.5 and described["num_clients"] == 3
    twice = pfllib.save(again, again.dealt, tmp_path / "twice", {"alpha": 0.5})
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    assert len(names) == 7
    for name in names:
        assert (twice / name).read_bytes() == (folder / name).read_bytes()


def test_all_256_levels_survive(tmp_path):
    images = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)
    dataset = Dataset(images, np.array([0, 1, 0, 1], np.int32), 2)
    rows = np.array([[0, 1], [2, 3]], np.int32)
    none = np.zeros((2, 1), np.int32), np.zeros(2, np.int32)
    partition = Partition(rows, np.array([2, 2], np.int32), *none)
    again = data.load(f"pfllib:{pfllib.save(dataset, partition, tmp_path / 'out')}")
    assert np.array_equal(again.images, images)


def test_those_codes_read_what_is_written(tmp_path):
    """As their `read_client_data` does, and under the name that numpy 1 has for its parts."""
    dataset, partition = small_set()
    pfllib.save(dataset, partition, tmp_path / "out")
    path = tmp_path / "out" / "train" / "0.npz"
    with open(path, "rb") as file:
        content = np.load(file, allow_pickle=True)["data"].tolist()
    assert content["x"].dtype == np.float32 and content["y"].dtype == np.int64
    assert content["x"].shape == (3, 3, 4, 5)
    assert np.array_equal(content["x"], normalised(dataset.images[[7, 3, 0]]))
    assert content["y"].tolist() == dataset.labels[[7, 3, 0]].tolist()
    with zipfile.ZipFile(path) as archive:
        assert b"numpy._core" not in archive.read("data.npy")


def test_a_place_that_is_taken_or_cannot_be_written(tmp_path, monkeypatch):
    dataset, partition = small_set()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("keep")
    (tmp_path / "file").write_text("keep")
    for name in ("full", "file", "file/below"):
        with pytest.raises(UsageError, match="must be"):
            pfllib.save(dataset, partition, tmp_path / name)
    (tmp_path / "empty").mkdir()
    pfllib.save(dataset, partition, tmp_path / "empty")
    assert (tmp_path / "full" / "mine").read_text() == "keep"

    def disk_full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pfllib, "_write", disk_full)
    with pytest.raises(UsageError, match=r"must be writable, got OSError.*No space left"):
        pfllib.save(dataset, partition, tmp_path / "new" / "deep")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "full"]
