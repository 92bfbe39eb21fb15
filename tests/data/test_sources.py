"""The specs, the embedded digits, numpy archives and the cache."""

import subprocess
import sys

import numpy as np
import pytest

from protonorm_jax import data
from protonorm_jax.data import cache
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Dataset, Part, Partition

IMAGES = np.arange(6 * 5 * 4, dtype=np.uint8).reshape(6, 5, 4)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def refusal(spec, **places):
    with pytest.raises(UsageError) as caught:
        data.load(str(spec), **places)
    message = str(caught.value)
    assert "\n" not in message
    return message


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_digits():
    digits = data.load("digits")
    assert digits.images.shape == (1797, 8, 8, 1) and digits.images.dtype == np.uint8
    assert digits.labels.shape == (1797,) and digits.labels.dtype == np.int32
    assert np.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (digits.num_classes, digits.name) == (10, "digits")
    # The first image of the source, in its own scale of 0..16.
    first = np.round(digits.images[0, :2, :, 0] / 255 * 16).astype(int)
    assert first.tolist() == [[0, 0, 5, 13, 9, 1, 0, 0], [0, 0, 13, 15, 10, 15, 5, 0]]
    assert digits.images.min() == 0 and digits.images.max() == 255
    assert np.array_equal(data.load().images, digits.images)


def test_unknown_specs():
    known = "digits, npz, pfllib, cifar, cifar-coarse, idx, folder, parquet, tfds"
    assert f"Config.data must be one of {known}" in refusal("mnist")
    assert "got 'digits:small'" in refusal("digits:small")
    assert "must exist" in refusal("npz:nowhere")
    for name in ("npz", "pfllib", "idx", "folder", "parquet", "tfds"):
        assert f"got '{name}:'" in refusal(name + ":")
        assert f"got '{name}'" in refusal(name)


def test_import_is_light():
    code = (
        "import sys, protonorm_jax.data\n"
        "heavy = {'tensorflow_datasets', 'tensorflow', 'sklearn', 'array_record', 'pyarrow'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_npz_shapes_and_dtypes(tmp_path, channels):
    images = IMAGES if channels is None else np.repeat(IMAGES[..., None], channels, -1)
    path = saved(tmp_path / "mine.npz", images=images.astype(np.int64), labels=LABELS)
    for spec in (f"npz:{path}", str(path)):
        dataset = data.load(spec)
        assert dataset.images.shape == (6, 5, 4, channels or 1)
        assert dataset.images.dtype == np.uint8 and dataset.labels.dtype == np.int32
        assert np.array_equal(dataset.images[..., 0], IMAGES)
        assert dataset.labels.tolist() == LABELS.tolist()
        assert (dataset.num_classes, dataset.name) == (3, "mine")


@pytest.mark.parametrize(
    "names",
    [
        [("images", "labels")],
        [("x", "y")],
        [("x_train", "y_train"), ("x_test", "y_test")],
        [("x_train", "y_train")],
        [
            ("train_images", "train_labels"),
            ("val_images", "val_labels"),
            ("test_images", "test_labels"),
        ],
    ],
)
def test_npz_layouts(tmp_path, names):
    cuts = np.array_split(np.arange(6), len(names))
    arrays = {}
    for (image_name, label_name), cut in zip(names, cuts, strict=True):
        arrays |= {image_name: IMAGES[cut], label_name: LABELS[cut, None].astype(np.uint8)}
    dataset = data.load(str(saved(tmp_path / "set.npz", **arrays)))
    assert np.array_equal(dataset.images[..., 0], IMAGES)
    assert dataset.labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("names", ["x_{}", "{}_images"])
def test_npz_parts_of_published_layouts(tmp_path, names):
    arrays = {}
    for number, part in enumerate(("train", "val", "test")):
        name = names.format(part)
        arrays[name] = IMAGES[: number + 2]
        arrays[name.replace("x_", "y_").replace("images", "labels")] = LABELS[: number + 2]
    parts = data.load(str(saved(tmp_path / "a.npz", **arrays))).parts
    assert parts.tolist() == [Part.TRAIN] * 2 + [Part.VALIDATION] * 3 + [Part.TEST] * 4
    for name in list(arrays):
        if "val" in name:
            del arrays[name]
    parts = data.load(str(saved(tmp_path / "b.npz", **arrays))).parts
    assert parts.tolist() == [Part.TRAIN] * 2 + [Part.TEST] * 4


def test_npz_parts_of_its_own(tmp_path):
    parts = np.array([0, 0, 1, 2, 2, 0])
    path = saved(tmp_path / "a.npz", images=IMAGES, labels=LABELS, parts=parts)
    dataset = data.load(str(path))
    assert dataset.parts.tolist() == parts.tolist() and dataset.parts.dtype == np.uint8
    again = data.load(str(data.save_npz(dataset, tmp_path / "again.npz")))
    assert again.parts.tolist() == parts.tolist()
    for bad, message in (
        (parts[:5], "parts must be [6] integers"),
        (parts + 1, "parts must be 0 (TRAIN), 1 (VALIDATION), 2 (TEST), got 1..3"),
    ):
        assert message in refusal(saved(path, images=IMAGES, labels=LABELS, parts=bad))


def test_npz_arrays_by_column_and_of_other_machines(tmp_path):
    for images in (np.asfortranarray(IMAGES), IMAGES.astype(">u2"), IMAGES.astype(">i8")):
        labels = LABELS.astype(">i4")
        dataset = data.load(str(saved(tmp_path / "a.npz", images=images, labels=labels)))
        assert np.array_equal(dataset.images[..., 0], IMAGES) and dataset.images.flags.c_contiguous
        assert dataset.labels.tolist() == LABELS.tolist()


def test_npz_num_classes_may_leave_gaps(tmp_path):
    path = saved(tmp_path / "a.npz", images=IMAGES, labels=LABELS * 2, num_classes=np.array(9))
    assert data.load(str(path)).num_classes == 9
    path = saved(tmp_path / "b.npz", images=IMAGES, labels=LABELS * 2)
    assert data.load(str(path)).num_classes == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "must hold images and labels, got no labels"),
        ({"images": None}, "must hold images and labels, got no images"),
        ({"images": None, "labels": None, "foo": LABELS}, "must hold images and labels, got ['foo"),
        ({"images": IMAGES / 255}, "images must be uint8 in 0..255, got dtype float64; for"),
        ({"images": IMAGES.astype(int) - 1}, "images must be uint8 in 0..255, got -1..118"),
        ({"images": IMAGES.astype(int) * 9}, "images must be uint8 in 0..255, got 0..1071"),
        ({"images": IMAGES * np.nan}, "images must be finite, got NaN or infinity"),
        ({"images": IMAGES[..., None].repeat(2, -1)}, "must have 1 or 3 channels, in the last dim"),
        (
            {"images": IMAGES[..., None].repeat(4, -1)},
            "1 or 3 channels, in the last dimension, got",
        ),
        (
            {"images": IMAGES.astype([("a", "u1")])},
            "images must hold plain numbers, got dtype [('a",
        ),
        ({"images": IMAGES * 1j}, "images must hold plain numbers, got dtype complex128"),
        ({"images": IMAGES > 9}, "images must be uint8 in 0..255, got dtype bool"),
        ({"images": IMAGES[:, 0]}, "images must have shape [N, H, W] or [N, H, W, channels], got"),
        ({"images": IMAGES.reshape(6, 1, 4, 5)}, "images must have 1 or 3 channels, in the last"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "images must not be empty, got shape [0,"),
        ({"images": np.uint8(3)}, "images and labels must be equally many, got shapes [] and [6]"),
        ({"labels": LABELS[:5]}, "images and labels must be equally many, got shapes [6, 5, 4] an"),
        ({"labels": LABELS.astype(float)}, "labels must be integers, got dtype float64"),
        ({"labels": np.array(list("abcabc"))}, "labels must be integers, got dtype <U1"),
        ({"labels": np.eye(6, dtype=int)}, "labels must have shape [N], got [6, 6]"),
        ({"labels": LABELS - 1}, "labels must be in [0, 65536), got -1..1"),
        ({"labels": LABELS + 2**40}, "labels must be in [0, 65536), got 1099511627776..109"),
        ({"labels": LABELS * 0 + 4}, "labels must hold at least 2 classes, got only class 4"),
        ({"num_classes": np.array(2)}, "labels must be in [0, 2), got 0..2"),
        ({"num_classes": np.array(1)}, "num_classes must be in [2, 65536], got 1"),
        ({"num_classes": np.array(3.0)}, "num_classes must be an integer, got float64 of shape []"),
        ({"name": np.array([1])}, "name must be a string, got int64 of shape [1]"),
    ],
)
def test_npz_refusals(tmp_path, changes, message):
    arrays = {"images": IMAGES, "labels": LABELS} | changes
    path = saved(tmp_path / "bad.npz", **{k: v for k, v in arrays.items() if v is not None})
    got = refusal(path)
    assert str(path) in got and message in got


def test_npz_parts_must_fit(tmp_path):
    parts = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:, 1:], "y_test": LABELS}
    assert "x_test must have images shaped as in x_train" in refusal(
        saved(tmp_path / "a.npz", **parts)
    )
    parts |= {"x_test": IMAGES, "y_test": LABELS[:, None]}
    assert "y_test must be shaped as y_train" in refusal(saved(tmp_path / "b.npz", **parts))
    parts["y_test"] = LABELS[1:]
    assert "x_test and y_test must be equally many" in refusal(saved(tmp_path / "c.npz", **parts))
    del parts["y_test"]
    assert "must hold x_test and y_test, got no y_test" in refusal(
        saved(tmp_path / "d.npz", **parts)
    )


def test_npz_files_that_cannot_be_read(tmp_path, monkeypatch):
    whole = saved(tmp_path / "whole.npz", images=IMAGES, labels=LABELS).read_bytes()
    path = tmp_path / "other.npz"
    for keep in (0, 1):
        path.write_bytes(whole[:keep])
        assert f"{path} must be a .npz archive, got" in refusal(path)
    for keep in (70, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        assert f"{path} must be readable, got" in refusal(path)
    path.write_bytes(whole[:200] + bytes([whole[200] ^ 255]) + whole[201:])
    assert "CRC" in refusal(path)
    path.write_bytes(b"\x80\x04K\x01.")  # A pickled number.
    assert "must be a .npz archive, got first bytes 80 04" in refusal(path)
    saved(path, images=np.array([IMAGES, None], object), labels=LABELS)
    assert f"{path}: images must hold no pickled objects" in refusal(path)
    np.save(tmp_path / "single.npy", IMAGES)
    (tmp_path / "single.npy").rename(path)
    assert "must be a .npz archive, got a single array" in refusal(path)
    (tmp_path / "folder.npz").mkdir()
    assert "IsADirectoryError" in refusal(tmp_path / "folder.npz")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")  # Root may read everything: act it out.

    monkeypatch.setattr("builtins.open", refuse)
    assert "PermissionError" in refusal(tmp_path / "whole.npz")


def test_save_and_load_again(tmp_path):
    dataset = Dataset(IMAGES[..., None], LABELS.astype(np.int32), 5, "toy")
    path = tmp_path / "new" / "folder" / "file"  # no suffix is added
    assert data.save_npz(dataset, path) == path
    again = data.load(f"npz:{path}")
    assert all(np.array_equal(a, b) for a, b in zip(dataset[:4], again[:4], strict=True))
    assert again.parts is None and again.dealt is None
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_save_does_not_lose_who_holds_what(tmp_path):
    rows, counts = np.array([[0]], np.int32), np.array([1], np.int32)
    dealt = Dataset(IMAGES, LABELS, 3, dealt=Partition(rows, counts, rows, counts))
    with pytest.raises(UsageError, match="must be a pfllib folder to keep who holds what"):
        data.save_npz(dealt, tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())


def test_save_is_all_or_nothing(tmp_path, monkeypatch):
    dataset = data.load("digits")
    path = tmp_path / "digits.npz"
    data.save_npz(dataset, path)
    before = path.read_bytes()

    def disk_full(file, **_):
        file.write(b"PK")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", disk_full)
        with pytest.raises(UsageError, match=r"must be writable, got OSError.*No space left"):
            data.save_npz(dataset, path)
        with pytest.raises(UsageError, match="must be writable"):
            data.save_npz(dataset, tmp_path / "other.npz")
    assert [entry.name for entry in tmp_path.iterdir()] == ["digits.npz"]
    assert path.read_bytes() == before
    with pytest.raises(UsageError, match="must be writable"):
        data.save_npz(dataset, path / "below" / "a file.npz")


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "protonorm_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".cache" / "protonorm_jax"
    assert cache.folder(tmp_path / "mine") == tmp_path / "mine"
