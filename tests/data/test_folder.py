"""Source `folder`: parts, tables of labels, links, junk, hostile names, and the cache."""

import os
import shutil

import numpy as np
import PIL.Image
import pytest

from protonorm_jax import data
from protonorm_jax.data import folder
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Part

RNG = np.random.default_rng(0)


def write(path, value, shape=(3, 2)):
    """An image of one grey value, by which it is known again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.full(shape, value, np.uint8)).save(path, "png")
    return path


def values(dataset):
    return dataset.images[:, 0, 0, 0].tolist()


def refusal(root, **how):
    with pytest.raises(UsageError) as caught:
        data.load(f"folder:{root}", **how)
    message = str(caught.value)
    assert message.isprintable(), message
    return message


def sorted_by_part(root, train="train", other="test"):
    for name, value in (("cat/1", 1), ("cat/2", 2), ("dog/1", 3), ("eel/1", 4)):
        write(root / train / f"{name}.png", value)
    for name, value in (("cat/9", 5), ("eel/9", 6)):
        write(root / other / f"{name}.png", value)
    return root


@pytest.mark.parametrize(
    ("train", "other", "part"),
    [
        ("train", "test", Part.TEST),
        ("train", "val", Part.VALIDATION),
        ("Train", "Valid", Part.VALIDATION),
        ("training", "validation", Part.VALIDATION),
        ("training", "testing", Part.TEST),
    ],
)
def test_parts(tmp_path, train, other, part):
    dataset = data.load(f"folder:{sorted_by_part(tmp_path / 'pets', train, other)}")
    assert values(dataset) == [1, 2, 3, 4, 5, 6]
    assert dataset.labels.tolist() == [0, 0, 1, 2, 0, 2]
    assert dataset.parts.tolist() == [0, 0, 0, 0, part, part]
    assert (dataset.num_classes, dataset.name) == (3, "pets")


def test_three_parts_come_in_their_order(tmp_path):
    sorted_by_part(tmp_path)
    write(tmp_path / "val" / "dog" / "a.png", 7)
    dataset = data.load(f"folder:{tmp_path}")
    assert values(dataset) == [1, 2, 3, 4, 7, 5, 6]
    assert dataset.labels.tolist() == [0, 0, 1, 2, 1, 0, 2]
    assert dataset.parts.tolist() == [0, 0, 0, 0, 1, 2, 2]


def test_one_part_is_none(tmp_path):
    sorted_by_part(tmp_path)
    shutil.rmtree(tmp_path / "test")
    dataset = data.load(f"folder:{tmp_path}")
    assert values(dataset) == [1, 2, 3, 4] and dataset.parts is None
    dataset = data.load(f"folder:{tmp_path}/train")
    assert values(dataset) == [1, 2, 3, 4] and dataset.parts is None


def test_classes_may_be_called_as_parts_are(tmp_path):
    for value, name in enumerate(("bus", "test", "train")):
        write(tmp_path / name / "1.png", value)
    dataset = data.load(f"folder:{tmp_path}")
    assert values(dataset) == dataset.labels.tolist() == [0, 1, 2] and dataset.parts is None


def test_parts_that_do_not_fit(tmp_path):
    sorted_by_part(tmp_path)
    write(tmp_path / "test" / "fox" / "1.png", 1)
    message = refusal(tmp_path)
    assert f"{tmp_path}/test/fox must be a class of the training part, which has 3" in message
    shutil.rmtree(tmp_path / "test" / "fox")
    (tmp_path / "test" / "dog").mkdir()  # A class without test samples is none the less one.
    assert len(data.load(f"folder:{tmp_path}").labels) == 6
    (tmp_path / "extra").mkdir()
    assert "(test, train) or of classes, got also extra" in refusal(tmp_path)
    (tmp_path / "extra").rename(tmp_path / "val")
    (tmp_path / "valid").mkdir()
    assert "must hold one folder for each part, got val and valid" in refusal(tmp_path)
    (tmp_path / "valid").rmdir()
    (tmp_path / "train" / "hen").mkdir()
    assert f"{tmp_path}/train/hen must hold at least one image, got none" in refusal(tmp_path)
    for name in ("hen", "cat", "dog"):
        shutil.rmtree(tmp_path / "train" / name)
    message = f"{tmp_path}/train must hold at least 2 folders, one for each class, got 1"
    assert message in refusal(tmp_path)


def tiny_imagenet(root):
    """Its layout, with two classes."""
    for label, name in enumerate(("n02", "n01")):
        for i in range(2):
            write(root / "train" / name / "images" / f"{name}_{i}.JPEG", 10 * label + i)
        (root / "train" / name / f"{name}_boxes.txt").write_text("n02_0.JPEG\t0\t0\t9\t9\n")
    rows = []
    for i, name in enumerate(("n01", "n02", "n01")):
        write(root / "val" / "images" / f"val_{i}.JPEG", 100 + i)
        rows.append(f"val_{i}.JPEG\t{name}\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
    write(root / "test" / "images" / "test_0.JPEG", 200)
    (root / "wnids.txt").write_text("n02\nn01\n")
    (root / "words.txt").write_text("n01\tfish\n")
    return root


def test_tiny_imagenet(tmp_path):
    root = tiny_imagenet(tmp_path / "tiny-imagenet-200")
    with pytest.warns(UserWarning, match="test is left out: its 1 images have no labels"):
        dataset = data.load(f"folder:{root}")
    assert values(dataset) == [10, 11, 0, 1, 100, 101, 102]
    assert dataset.labels.tolist() == [0, 0, 1, 1, 0, 1, 0]
    assert dataset.parts.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert dataset.name == "tiny-imagenet-200"


def test_a_table_must_fit_its_images(tmp_path):
    root = tiny_imagenet(tmp_path)
    shutil.rmtree(root / "test")
    table = root / "val" / "val_annotations.txt"
    text = table.read_text()
    table.write_text(text.replace("val_1.JPEG\tn02", "val_1.JPEG\tn07"))
    assert f"{table}: line 2 must name an image and a class of the training part" in refusal(root)
    table.write_text(text.replace("\t", " "))
    assert f"{table}: line 1 must name an image and a class" in refusal(root)
    table.write_text(text.splitlines(True)[0])
    assert f"{table} must give each image a class, got none for val_1.JPEG" in refusal(root)
    table.write_text(text + "gone.JPEG\tn01\n")
    assert f"{table} must name images that are there, got no gone.JPEG" in refusal(root)
    table.write_bytes(b"\xff\xfe\0")
    assert f"{table} must be readable, got UnicodeDecodeError" in refusal(root)
    table.unlink()
    os.mkfifo(table)
    assert f"{table} must be a file or folder, got a pipe" in refusal(root)


def test_images_next_to_no_folder_have_no_labels(tmp_path):
    sorted_by_part(tmp_path)
    shutil.rmtree(tmp_path / "test")
    write(tmp_path / "test" / "1.png", 9)
    with pytest.warns(UserWarning, match="test is left out: its 1 images have no labels"):
        assert values(data.load(f"folder:{tmp_path}")) == [1, 2, 3, 4]


def test_junk_is_left_out(tmp_path):
    root = sorted_by_part(tmp_path)
    names = ("Thumbs.db", "desktop.ini", ".DS_Store", "._1.png", "notes.txt", "boxes.csv", "Icon\r")
    for place in (
        root,
        root / "train",
        root / "train" / "cat",
        root / "test",
        root / "test" / "eel",
    ):
        for name in names:
            (place / name).write_text("no image")
        for name in ("__MACOSX", ".ipynb_checkpoints", "@eaDir"):
            (place / name).mkdir()
            (place / name / "1.png").write_text("no image")
    (root / "LICENSE").write_text("no image")
    assert values(data.load(f"folder:{root}")) == [1, 2, 3, 4, 5, 6]
    shutil.rmtree(root / "test")
    assert values(data.load(f"folder:{root / 'train'}")) == [1, 2, 3, 4]


def test_links_are_followed(tmp_path):
    store = tmp_path / "store"
    write(store / "a.png", 1)
    write(store / "dogs" / "b.png", 2)
    (tmp_path / "set" / "cat").mkdir(parents=True)
    (tmp_path / "set" / "cat" / "linked.png").symlink_to(store / "a.png")
    (tmp_path / "set" / "dog").symlink_to("../store/dogs")
    (tmp_path / "link").symlink_to("set")
    assert values(data.load(f"folder:{tmp_path}/link")) == [1, 2]


def test_links_that_lead_nowhere_or_in_a_circle(tmp_path):
    root = sorted_by_part(tmp_path / "set")
    link = root / "train" / "cat" / "z"
    for target in (".", "..", "../..", root, "../../../set/train"):
        link.symlink_to(target)
        assert f"{link} must not lead in a circle, got a link to {root}" in refusal(root)
        link.unlink()
    link.symlink_to("gone.png")
    assert f"{link} must lead to a file or folder, got a link to gone.png" in refusal(root)
    link.unlink()
    link.symlink_to("z")
    assert f"{link} must lead somewhere, got a link to itself" in refusal(root)
    link.unlink()
    (root / "train" / "fox").symlink_to("/nowhere/fox")
    message = f"{root}/train/fox must lead to a file or folder, got a link to /nowhere/fox"
    assert message in refusal(root)
    (tmp_path / "loop").symlink_to("loop")
    assert "must lead somewhere, got a link to itself" in refusal(tmp_path / "loop")


def test_folders_that_multiply_by_links_come_to_an_end(tmp_path):
    for i in range(40):
        (tmp_path / f"level{i}").mkdir()
        for name in "ab":
            (tmp_path / f"level{i}" / name).symlink_to(f"../level{i + 1}")
    (tmp_path / "level40").mkdir()
    assert "must be at most 16 folders deep, got more" in refusal(tmp_path / "level0")


def test_what_is_no_file_is_not_opened(tmp_path):
    root = sorted_by_part(tmp_path)
    os.mkfifo(root / "train" / "cat" / "z.png")
    assert "train/cat/z.png must be a file or folder, got a pipe" in refusal(root)
    (root / "train" / "cat" / "z.png").unlink()
    (root / "train" / "cat" / "z.png").symlink_to("/dev/zero")
    assert "train/cat/z.png must be a file or folder, got a device" in refusal(root)


HOSTILE = [
    "new\nline",
    "[/b]",
    "x" * 251,
    os.fsdecode(b"\xff\xfe"),
    "tab\t",
    "ünï",
    "-rf",
    "a b",
    "{x}",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_as_nobody_should_give_them(tmp_path, name):
    root = tmp_path / name
    write(root / name / f"{name}.png", 1)
    other = write(root / "zebra" / f"{name}.png", 2)
    dataset = data.load(f"folder:{root}")
    assert sorted(values(dataset)) == [1, 2] and dataset.name.isprintable()
    assert dataset.name == root.name or not root.name.isprintable()
    other.write_bytes(b"no image")
    assert "must be readable" in refusal(root)
    other.unlink()
    assert "must hold at least one image" in refusal(root)
    assert "must exist" in refusal(root / name / "none")


def test_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    sorted_by_part(tmp_path / "pets")
    assert len(data.load("folder:~/pets").labels) == 6
    with pytest.raises(
        UsageError, match="~nobody-has-this-name/pets must begin with a home folder"
    ):
        data.load("folder:~nobody-has-this-name/pets")
    monkeypatch.chdir(tmp_path / "pets")
    assert data.load("folder:.").name == data.load("folder:../pets/train/..").name == "pets"


def test_sizes_that_differ_need_one(tmp_path):
    for i, shape in enumerate([(3, 2), (5, 9), (16, 4)]):
        write(tmp_path / "ab"[i % 2] / f"{i}.png", 50 * i, shape)
    assert "--image-size makes them equal" in refusal(tmp_path)
    dataset = data.load(f"folder:{tmp_path}", image_size=6)
    assert dataset.images.shape == (3, 6, 6, 1) and values(dataset) == [0, 100, 50]


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """A set so large that it is kept, as `load()` and the number of images decoded by it."""
    monkeypatch.setattr(folder, "CACHED_IMAGES", 6)
    root = sorted_by_part(tmp_path / "pets")
    told = []

    def load(place=root, **how):
        told.clear()
        how = {
            "cache_dir": tmp_path / "cache",
            "on_progress": lambda *news: told.append(news),
        } | how
        dataset = data.load(f"folder:{place}", **how)
        return dataset, max(
            (done for what, done, _ in told if what == "decoding images"), default=0
        )

    return root, load


def test_decoded_once_and_found_by_content(cached, tmp_path):
    root, load = cached
    first, decoded = load()
    assert decoded == 6
    again, decoded = load()
    assert decoded == 0
    moved = root.rename(tmp_path / "elsewhere")
    other, decoded = load(moved)
    assert decoded == 0 and other.name == "elsewhere"
    for dataset in (again, other):
        assert np.array_equal(dataset.images, first.images)
        assert np.array_equal(dataset.parts, first.parts)
        assert np.array_equal(dataset.labels, first.labels) and dataset.num_classes == 3
    assert load(moved, image_size=2)[0].images.shape == (6, 2, 2, 1)
    assert values(load(moved)[0]) == values(first)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_changed_files_are_seen(cached):
    root, load = cached
    load()
    path = root / "train" / "cat" / "2.png"
    before = path.stat()
    write(path, 77)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert values(load()[0]) == [1, 77, 3, 4, 5, 6]
    path.rename(root / "train" / "dog" / "2.png")  # The same bytes, of another class.
    changed, _ = load()
    assert values(changed) == [1, 3, 77, 4, 5, 6]
    assert changed.labels.tolist() == [0, 1, 1, 2, 0, 2]
    (root / "test").rename(root / "val")
    assert load()[0].parts.tolist() == [0, 0, 0, 0, 1, 1]


def test_a_changed_table_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "CACHED_BYTES", 1)
    root = tiny_imagenet(tmp_path / "set")
    shutil.rmtree(root / "test")
    table = root / "val" / "val_annotations.txt"
    for names, expected in (("n01 n02 n01", [0, 1, 0]), ("n02 n02 n01", [1, 1, 0])):
        rows = [f"val_{i}.JPEG\t{name}\n" for i, name in enumerate(names.split())]
        table.write_text("".join(rows))
        dataset = data.load(f"folder:{root}", cache_dir=tmp_path / "cache")
        assert dataset.labels[4:].tolist() == expected


def test_small_sets_are_not_kept(tmp_path):
    data.load(f"folder:{sorted_by_part(tmp_path / 'pets')}", cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
