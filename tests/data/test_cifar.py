"""CIFAR as downloaded: pickles of Python 2, unpacked or in their archive."""

import gzip
import io
import os
import pickle
import tarfile

import numpy as np
import pytest

from protonorm_jax import data
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Part

CIFAR10 = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
CIFAR100 = ["train", "test"]


def batch(seed, count=4, *, labels=("labels",)):
    """Images `[count, 32, 32, 3]`, and the dict that a file holds of them."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 32, 32, 3), np.uint8)
    rows = images.transpose(0, 3, 1, 2).reshape(count, 3072)
    content = {b"data": rows, b"filenames": [b"a.png"] * count, b"batch_label": b"batch"}
    content |= {name.encode(): generator.integers(0, 3, count).tolist() for name in labels}
    return images, content


def write(folder, names, **options):
    """The files, and by name what they hold."""
    folder.mkdir(parents=True, exist_ok=True)
    batches = {name: batch(number, 3 + number, **options) for number, name in enumerate(names)}
    for name, (_, content) in batches.items():
        (folder / name).write_bytes(pickle.dumps(content, 2))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"a"]}, 2))
    return batches


def packed(folder, path, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        archive.add(folder, folder.name)
    return path


def check(dataset, batches, *, label, num_classes):
    assert np.array_equal(dataset.images, np.concatenate([one for one, _ in batches.values()]))
    labels = [content[label] for _, content in batches.values()]
    assert dataset.labels.tolist() == [one for part in labels for one in part]
    counts = [len(one) for one in labels]
    assert dataset.num_classes == num_classes
    num_test = counts[-1]
    expected = [Part.TRAIN] * (sum(counts) - num_test) + [Part.TEST] * num_test
    assert dataset.parts.tolist() == expected


def refusal(spec):
    with pytest.raises(UsageError) as caught:
        data.load(str(spec))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_cifar10_wherever_it_lies(tmp_path):
    folder = tmp_path / "root" / "cifar-10-batches-py"
    batches = write(folder, CIFAR10)
    archive = packed(folder, tmp_path / "cifar-10-python.tar.gz")
    plain = packed(folder, tmp_path / "any.tar", "w")
    other = tmp_path / "other"
    other.mkdir()
    for place in (folder, tmp_path / "root", archive, plain, tmp_path):
        dataset = data.load(f"cifar:{place}")
        check(dataset, batches, label=b"labels", num_classes=10)
        assert dataset.name == "cifar10"


def test_cifar100_fine_and_coarse(tmp_path):
    folder = tmp_path / "cifar-100-python"
    batches = write(folder, CIFAR100, labels=("fine_labels", "coarse_labels"))
    archive = packed(folder, tmp_path / "c.tgz")
    for place in (folder, tmp_path, archive):
        check(data.load(f"cifar:{place}"), batches, label=b"fine_labels", num_classes=100)
        coarse = data.load(f"cifar-coarse:{place}")
        check(coarse, batches, label=b"coarse_labels", num_classes=20)
        assert coarse.name == "cifar100-coarse"


def test_real_pickles_of_python_2(tmp_path):
    """Strings without an encoding, as cPickle wrote them."""
    folder = tmp_path / "cifar-100-python"
    batches = write(folder, CIFAR100, labels=("fine_labels", "coarse_labels"))
    for name, (_, content) in batches.items():
        rows = content[b"data"]
        raw = rows.tobytes()
        text = b"\x80\x02}q\x01(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        text += b"K\x00\x85U\x01b\x87R(K\x01K" + bytes([len(rows)]) + b"M\x00\x0c\x86cnumpy\n"
        text += b"dtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK"
        text += b"\x00tb\x89T" + len(raw).to_bytes(4, "little") + raw + b"tb"
        for label in (b"fine_labels", b"coarse_labels"):
            text += b"U" + bytes([len(label)]) + label + b"]("
            text += b"".join(b"K" + bytes([one]) for one in content[label]) + b"e"
        (folder / name).write_bytes(text + b"u.")
    check(data.load(f"cifar:{folder}"), batches, label=b"fine_labels", num_classes=100)


def test_labels_as_other_tools_have_them(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    batches = write(folder, CIFAR10)
    for number, kind in enumerate(
        (np.array, tuple, lambda one: [np.int64(value) for value in one])
    ):
        name = CIFAR10[number]
        content = batches[name][1]
        changed = content | {b"labels": kind(content[b"labels"])}
        (folder / name).write_bytes(pickle.dumps(changed, 2 + number))
    check(data.load(f"cifar:{folder}"), batches, label=b"labels", num_classes=10)


def test_what_is_missing_or_several(tmp_path):
    assert "must exist" in refusal(f"cifar:{tmp_path}/none")
    assert "must hold the files of cifar-10-batches-py or cifar-100-pyth" in refusal(
        f"cifar:{tmp_path}"
    )
    folder = tmp_path / "cifar-10-batches-py"
    write(folder, CIFAR10)
    assert "must be CIFAR-100 to have coarse labels, got cifar10" in refusal(
        f"cifar-coarse:{folder}"
    )
    (folder / "data_batch_3").unlink()
    assert "got no data_batch_3" in refusal(f"cifar:{folder}")
    archive = packed(folder, tmp_path / "a.tar.gz")
    assert "got no data_batch_3" in refusal(f"cifar:{archive}")
    write(tmp_path / "cifar-100-python", CIFAR100, labels=("fine_labels", "coarse_labels"))
    message = "must hold one set, got several: cifar-10-batches-py, cifar-100-python"
    assert message in refusal(f"cifar:{tmp_path}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({b"data": None}, "data must be uint8 of shape [n, 3072], got no array"),
        ({b"data": np.zeros((7, 3072))}, "[n, 3072], got float64 of shape [7, 3072]"),
        ({b"data": np.zeros((7, 3000), np.uint8)}, "[n, 3072], got uint8 of shape [7, 3000]"),
        ({b"data": np.zeros((6, 3072), np.uint8)}, "labels must be 6 integers, as many as images"),
        ({b"labels": None}, "labels must be 7 integers, as many as images, got another None"),
        ({b"labels": [0] * 6}, "labels must be 7 integers, as many as images, got another list"),
        ({b"labels": ["a"] * 7}, "labels must be 7 integers"),
        ({b"labels": [[1]] * 7}, "labels must be 7 integers"),
        ({b"labels": [0] * 6 + [10]}, "labels must be in [0, 10), got 0..10"),
        ({b"labels": np.arange(7) / 2}, "labels must be integers, got dtype"),
    ],
)
def test_files_that_do_not_do(tmp_path, changes, message):
    batches = write(tmp_path, CIFAR10)
    content = batches["data_batch_5"][1] | changes
    (tmp_path / "data_batch_5").write_bytes(pickle.dumps(content, 2))
    got = refusal(f"cifar:{tmp_path}")
    assert str(tmp_path) in got and message in got


def test_files_that_call_something(tmp_path):
    write(tmp_path, CIFAR10)
    (tmp_path / "data_batch_2").write_bytes(b"cposix\nsystem\n(S'touch hit'\ntR.")
    message = f"{tmp_path}/data_batch_2 must hold arrays, dicts, lists and numbers only, got posix"
    assert message in refusal(f"cifar:{tmp_path}")
    (tmp_path / "data_batch_2").write_bytes(pickle.dumps([1]))
    assert "data_batch_2 must hold a dict, got list" in refusal(f"cifar:{tmp_path}")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_archives_with_links_or_devices(tmp_path, kind):
    folder = tmp_path / "cifar-10-batches-py"
    write(folder, CIFAR10)
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
        archive.add(folder, folder.name)
    assert "must hold plain files, got a link or device cifar-10-batches-py/data_batch_1" in (
        refusal(f"cifar:{path}")
    )


def test_archives_that_are_broken_or_bombs(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    write(folder, CIFAR10)
    whole = packed(folder, tmp_path / "a.tar.gz").read_bytes()
    path = tmp_path / "b.tar.gz"
    for keep in (0, 1, 100, len(whole) // 2, len(whole) - 20):
        path.write_bytes(whole[:keep])
        got = refusal(f"cifar:{path}")
        assert str(path) in got
    path.write_bytes(gzip.compress(whole))
    assert f"{path} must be readable, got ReadError" in refusal(f"cifar:{path}")
    # Many small files, and one that is large and of no use.
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for number in range(1100):
            archive.addfile(tarfile.TarInfo(str(number)))
    path.write_bytes(gzip.compress(content.getvalue(), 1))
    assert "must hold at most 1000 files" in refusal(f"cifar:{path}")
    with gzip.open(path, "wb", 1) as file:
        member = tarfile.TarInfo("other")
        member.size = 2**33
        file.write(member.tobuf())
        for _ in range(100):
            file.write(bytes(2**20))
    assert "bytes from" in refusal(f"cifar:{path}")


def test_nothing_is_unpacked(tmp_path, monkeypatch):
    folder = tmp_path / "set" / "cifar-10-batches-py"
    write(folder, CIFAR10)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(folder, "../../escaped")
        for name in CIFAR10:
            archive.add(folder / name, f"/absolute/{name}")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):  # Of each file there are two.
        data.load(f"cifar:{tmp_path}/a.tar")
    assert sorted(tmp_path.rglob("*")) == before and not os.path.exists("/absolute")
