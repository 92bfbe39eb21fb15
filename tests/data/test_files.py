"""Sources `idx` and `folder`: files as the world has them, whole and broken."""

import gzip
import struct

import numpy as np
import PIL.Image
import pytest

from protonorm_jax import data
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Part

IMAGES = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
LABELS = np.array([0, 1, 2, 0, 1], np.uint8)


def refusal(spec):
    with pytest.raises(UsageError) as caught:
        data.load(str(spec))
    message = str(caught.value)
    assert "\n" not in message
    return message


def idx_bytes(array):
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    return b"\0\0\x08" + bytes([array.ndim]) + shape + bytes(array)


def write_idx(folder, part="train", *, images=IMAGES, labels=LABELS, zipped=False, prefix=""):
    folder.mkdir(exist_ok=True)
    for kind, array, number in (("images", images, 3), ("labels", labels, 1)):
        content = idx_bytes(np.ascontiguousarray(array))
        name = f"{prefix}{part}-{kind}-idx{number}-ubyte" + (".gz" if zipped else "")
        (folder / name).write_bytes(gzip.compress(content) if zipped else content)


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_joins_training_and_test_files(tmp_path, zipped):
    folder, test_images = tmp_path / "toy", 255 - IMAGES[:2]
    write_idx(folder, "t10k", images=test_images, labels=LABELS[:2], zipped=zipped)
    write_idx(folder, "train", zipped=not zipped)
    dataset = data.load(f"idx:{folder}")
    assert np.array_equal(dataset.images[..., 0], np.concatenate([IMAGES, test_images]))
    assert dataset.labels.tolist() == [0, 1, 2, 0, 1, 0, 1]
    assert (dataset.num_classes, dataset.name) == (3, "toy")
    only = data.load(f"idx:{folder}/t10k")
    assert np.array_equal(only.images[..., 0], test_images) and only.num_classes == 2
    name = "t10k-images-idx3-ubyte" + (".gz" if zipped else "")
    assert len(data.load(f"idx:{folder / name}").labels) == 2


def test_idx_unpacked_next_to_its_archive_counts_once(tmp_path):
    colours = np.arange(5 * 4 * 3 * 3, dtype=np.uint8).reshape(5, 4, 3, 3)
    write_idx(tmp_path, images=colours, zipped=True)
    write_idx(tmp_path, images=colours)
    assert np.array_equal(data.load(f"idx:{tmp_path}").images, colours)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    assert np.array_equal(data.load(f"idx:{tmp_path}").images, colours)


def test_idx_folder_of_several_sets_needs_a_name(tmp_path):
    for prefix in ("emnist-letters-", "emnist-digits-"):
        for part in ("train", "test"):
            write_idx(tmp_path, part, prefix=prefix)
    message = refusal(f"idx:{tmp_path}")
    assert "must hold one set, got several: emnist-digits-, emnist-letters-; name one" in message
    dataset = data.load(f"idx:{tmp_path}/emnist-letters")
    assert len(dataset.labels) == 10 and dataset.name == "emnist-letters"


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("train-images.idx3-ubyte", "train-labels.idx1-ubyte"),
        ("TRAIN-IMAGES-IDX3-UBYTE.GZ", "TRAIN-LABELS-IDX1-UBYTE.GZ"),
        ("Train-Images.IDX3-ubyte", "train-labels-idx1-ubyte.gz"),
        ("train-images-idx3-ubyte", "train-labels.idx1-ubyte.GZ"),
        ("mnist-train-images-idx3-ubyte.gz", "mnist-train-labels-idx1-ubyte.gz"),
    ],
)
def test_idx_names_in_any_spelling(tmp_path, images, labels):
    (tmp_path / images).write_bytes(idx_bytes(IMAGES))  # Packed or not, whatever the name says.
    (tmp_path / labels).write_bytes(gzip.compress(idx_bytes(LABELS)))
    (tmp_path / "train-images-idx3-ubyte.d").mkdir()
    dataset = data.load(f"idx:{tmp_path}")
    assert np.array_equal(dataset.images[..., 0], IMAGES)
    assert dataset.labels.tolist() == LABELS.tolist()
    assert dataset.parts.tolist() == [Part.TRAIN] * 5
    assert len(data.load(f"idx:{tmp_path / images}").labels) == 5


def test_idx_parts_by_name(tmp_path):
    for part in ("t10k", "train", "valid"):
        write_idx(tmp_path, part)
    parts = data.load(f"idx:{tmp_path}").parts
    assert parts.dtype == np.uint8
    assert parts.tolist() == [Part.TRAIN] * 5 + [Part.TEST] * 5 + [Part.VALIDATION] * 5
    write_idx(tmp_path / "plain", "some")
    assert data.load(f"idx:{tmp_path}/plain").parts is None


def test_idx_in_a_folder_of_torchvision(tmp_path):
    root = tmp_path / "root"
    for prefix in ("emnist-letters-", "emnist-digits-"):
        (root / "EMNIST" / "raw").mkdir(parents=True, exist_ok=True)
        write_idx(root / "EMNIST" / "raw", prefix=prefix)
    (root / "MNIST" / "processed").mkdir(parents=True)
    (root / "MNIST" / "raw").mkdir()
    write_idx(root / "MNIST" / "raw", zipped=True)
    write_idx(root / "MNIST" / "raw", "t10k")
    message = f"must hold one set, got several: EMNIST, MNIST; name one as idx:{root}/EMNIST"
    assert message in refusal(f"idx:{root}")
    message = f"emnist-letters-; name one as idx:{root}/EMNIST/raw/emnist-digits-"
    assert message in refusal(f"idx:{root}/EMNIST")
    assert len(data.load(f"idx:{root}/EMNIST/emnist-letters").labels) == 5
    for place in (root / "MNIST", root / "MNIST" / "raw"):
        dataset = data.load(f"idx:{place}")
        assert len(dataset.labels) == 10 and dataset.name == "MNIST"
    (root / "EMNIST" / "raw").rename(root / "EMNIST" / "other")
    assert len(data.load(f"idx:{root}").labels) == 10


def test_idx_labels_of_qmnist(tmp_path):
    """A file of int32 that says more of each sample than its class."""
    write_idx(tmp_path, prefix="qmnist-")
    (tmp_path / "qmnist-train-labels-idx1-ubyte").unlink()
    rows = np.arange(5 * 8).reshape(5, 8) * 1000
    rows[:, 0] = LABELS
    content = b"\0\0\x0c\x02" + struct.pack(">2I", 5, 8) + rows.astype(">i4").tobytes()
    (tmp_path / "qmnist-train-labels-idx2-int").write_bytes(content)
    assert data.load(f"idx:{tmp_path}").labels.tolist() == LABELS.tolist()


def test_idx_files_that_are_missing_or_do_not_fit_together(tmp_path):
    assert "must exist" in refusal(f"idx:{tmp_path}/none/train")
    assert "must hold idx files such as" in refusal(f"idx:{tmp_path}")
    write_idx(tmp_path, "t10k", images=IMAGES[:, 1:])
    write_idx(tmp_path)
    assert "must hold idx files such as" in refusal(f"idx:{tmp_path}/kmnist")
    message = "images must be sized as in train-images-idx3-ubyte, got [3, 3] and [4, 3]"
    assert message in refusal(f"idx:{tmp_path}")
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    message = "train-labels-idx1-ubyte must exist, as the labels of train-i"
    assert message in refusal(f"idx:{tmp_path}")


# Without its time in it, which would be in the names of the tests: processes that share them must
# agree on those.
ZIPPED = gzip.compress(idx_bytes(IMAGES), mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be an idx file of uint8 (first bytes 00 00 08), got first bytes of an empty"),
        (b"\0\0\x0d\x03" + bytes(12), "(first bytes 00 00 08), got first bytes 00 00 0d"),
        (b"\0\0\x08\x03" + bytes(4), "must be at least 16 bytes long, got 8"),
        (idx_bytes(IMAGES)[:-1], "must be 76 bytes long as its header [5, 4, 3] says, got 75"),
        (idx_bytes(IMAGES) + b"\0", "must be 76 bytes long as its header [5, 4, 3] says, got 77"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "bytes long as its header [4294967295, "),
        (ZIPPED[:-9], "must be readable, got EOFError"),
        (ZIPPED[:-8] + bytes(8), "must be readable, got BadGzipFile"),
        (b"\x1f\x8b" + bytes(20), "must be readable, got"),
        (gzip.compress(idx_bytes(IMAGES)[:-1], mtime=0), "must be 76 bytes long as its header"),
        (gzip.compress(idx_bytes(IMAGES) + b"a", mtime=0), "76 bytes long as its header [5, 4, 3]"),
        (
            gzip.compress(ZIPPED, mtime=0),
            "must be an idx file of uint8 (first bytes 00 00 08), got",
        ),
        (b"\0\0\x08\0a", "images and labels must be equally many, got shapes [] and [5]"),
        (b"\0\0\x08\xff" + bytes(1020), "must have at most 8 dimensions"),
        (idx_bytes(IMAGES[:, 0, 0]), "images must have shape [N, H, W]"),
        (idx_bytes(IMAGES[:4]), "images and labels must be equally many, got shapes [4, 4, 3] and"),
    ],
)
def test_idx_broken_images(tmp_path, content, message):
    write_idx(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    got = refusal(f"idx:{tmp_path}")
    assert str(tmp_path) in got and message in got


def write_image(path, array, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = PIL.Image.fromarray(array)
    # PNG has no such grey.
    kind = "tiff" if array.dtype == np.int32 else None
    (image.convert(mode) if mode else image).save(path, kind)


def two_classes(folder):
    for number, name in enumerate(("cat/a", "cat/b", "dog/a")):
        write_image(folder / f"{name}.png", IMAGES[number])
    return folder


def test_folder_of_grey_images_without_what_is_hidden(tmp_path):
    folder = two_classes(tmp_path / "pets")
    write_image(folder / "ape" / "z.png", IMAGES[3])
    for name in ("README", "cat/.hidden", ".git/x"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("left out")
    dataset = data.load(f"folder:{folder}")
    assert np.array_equal(dataset.images[..., 0], IMAGES[[3, 0, 1, 2]])
    assert dataset.labels.tolist() == [0, 1, 1, 2]
    assert (dataset.num_classes, dataset.name) == (3, "pets")


def test_folder_of_mixed_images_becomes_colour(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (4, 3, 3), np.uint8)
    dog = two_classes(tmp_path) / "dog"
    write_image(dog / "colour.png", colour)
    write_image(dog / "clear.png", np.dstack([colour, np.full((4, 3), 255, np.uint8)]))
    write_image(dog / "palette.gif", IMAGES[0] // 32, "P")
    write_image(dog / "picture.jpg", colour)
    write_image(dog / "two_tone.png", IMAGES[0], "1")
    half_clear = PIL.Image.fromarray(IMAGES[0] % 4).convert("P")
    half_clear.save(dog / "half_clear.png", transparency=bytes([0, 128, 255, 255]))
    images = data.load(f"folder:{tmp_path}").images
    assert images.shape == (9, 4, 3, 3)
    assert np.array_equal(images[0], np.repeat(IMAGES[0][..., None], 3, -1))
    names = sorted(path.name for path in dog.iterdir())
    found = dict(zip(names, images[2:], strict=True))
    assert np.array_equal(found["colour.png"], colour)
    assert np.array_equal(found["clear.png"], colour)
    assert np.array_equal(found["palette.gif"][..., 0], IMAGES[0] // 32)
    assert set(found["two_tone.png"].ravel()) <= {0, 255}


def test_folders_that_are_refused(tmp_path):
    root = f"folder:{tmp_path}"
    assert "must exist" in refusal(f"{root}/none")
    assert "must hold at least 2 folders, one for each class, got 0" in refusal(root)
    two_classes(tmp_path)
    assert "NotADirectoryError" in refusal(f"{root}/cat/a.png")
    (tmp_path / "eel").mkdir()
    assert f"{tmp_path}/eel must hold at least one image, got none" in refusal(root)
    (tmp_path / "eel" / "inner").mkdir()
    assert f"{tmp_path}/eel must hold at least one image, got none" in refusal(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (IMAGES[0].T.copy(), ": images must all have one size, got 3x4 and 4x3 in "),
        (IMAGES[0].astype(np.int32), " must have 8 bits a channel, or 16 of grey, got Pillow mode"),
        (b"", " must be readable, got UnidentifiedImageError"),
        (b"not an image", " must be readable, got UnidentifiedImageError"),
        (20, " must be readable, got"),
        (40, " must be readable, got"),
        (50, " must be readable, got"),
    ],
    ids=str,
)
def test_folder_with_one_file_that_does_not_do(tmp_path, content, message):
    """Of another size or depth, no image at all, or the first bytes of one."""
    path = two_classes(tmp_path) / "dog" / "a.png"
    if isinstance(content, np.ndarray):
        write_image(path, content)
    else:
        path.write_bytes(path.read_bytes()[:content] if isinstance(content, int) else content)
    assert f"{path}{message}" in refusal(f"folder:{tmp_path}")
