"""The cache: found by content, whole or not there, never in the way."""

import concurrent.futures
import os
import time

import numpy as np
import pytest

from protonorm_jax.data import cache
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Dataset

IMAGES = np.arange(4 * 3 * 2, dtype=np.uint8).reshape(4, 3, 2, 1)
TOY = Dataset(
    IMAGES, np.array([0, 1, 4, 1], np.int32), 6, "toy", parts=np.array([0, 0, 1, 2], np.uint8)
)


def equal(one, other):
    assert (one.num_classes, one.name) == (other.num_classes, other.name)
    assert np.array_equal(one.images, other.images) and np.array_equal(one.labels, other.labels)
    assert (one.parts is None) == (other.parts is None)
    assert one.parts is None or np.array_equal(one.parts, other.parts)
    return True


def never():
    raise AssertionError("made again")


@pytest.mark.parametrize("parts", [TOY.parts, None])
def test_made_once_and_found_by_its_key(tmp_path, parts):
    toy = TOY._replace(parts=parts)
    key = cache.key("a", 1)
    assert equal(cache.load_or_make("toy", lambda: key, lambda: toy, tmp_path), toy)
    assert [entry.name for entry in tmp_path.iterdir()] == [f"toy-{key}.npz"]
    assert equal(cache.load_or_make("toy", lambda: key, never, tmp_path), toy)
    other = toy._replace(labels=toy.labels[::-1].copy())
    assert equal(
        cache.load_or_make("toy", lambda: cache.key("a", 2), lambda: other, tmp_path), other
    )
    assert equal(cache.load_or_make("toy", lambda: key, never, tmp_path), toy)


def test_keys_differ_by_value_and_by_where_one_ends():
    values = [("a", "b"), ("ab", ""), ("a", ["b"]), (1, 2), (12,), ("\udcff", ""), ("a", "b\n")]
    assert len({cache.key(*one) for one in values}) == len(values)


def test_nothing_is_kept_of_a_failure(tmp_path):
    def fails():
        raise UsageError("no")

    with pytest.raises(UsageError):
        cache.load_or_make("toy", lambda: "k", fails, tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_kept_of_files_that_change_meanwhile(tmp_path):
    keys = iter(["before", "after"])
    assert equal(cache.load_or_make("toy", lambda: next(keys), lambda: TOY, tmp_path), TOY)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, -1, "flipped", "array", "folder"])
def test_a_broken_file_is_made_again(tmp_path, keep):
    cache.load_or_make("toy", lambda: "k", lambda: TOY, tmp_path)
    path = tmp_path / "toy-k.npz"
    whole = path.read_bytes()
    if keep == "flipped":
        place = whole.index(IMAGES.tobytes()) + 5
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    elif keep == "array":
        np.save(tmp_path / "single.npy", IMAGES)
        (tmp_path / "single.npy").rename(path)
    elif keep == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    if keep == "folder":  # Nothing can be put in its place.
        with pytest.warns(UserWarning, match="must be writable"):
            assert equal(cache.load_or_make("toy", lambda: "k", lambda: TOY, tmp_path), TOY)
        return
    assert equal(cache.load_or_make("toy", lambda: "k", lambda: TOY, tmp_path), TOY)
    assert equal(cache.load_or_make("toy", lambda: "k", never, tmp_path), TOY)


def test_a_place_that_cannot_be_written_is_a_warning(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match=r"file/below/toy-k\.npz must be writable.*decoded again"):
        dataset = cache.load_or_make("toy", lambda: "k", lambda: TOY, tmp_path / "file" / "below")
    assert equal(dataset, TOY)


def test_without_a_home_nothing_is_kept(monkeypatch):
    def homeless(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.expanduser", homeless)
    with pytest.warns(UserWarning, match="nothing is kept of what is decoded: ~/.cache must begin"):
        assert equal(cache.load_or_make("toy", lambda: "k", lambda: TOY), TOY)
    assert cache.only("toy") is None


def test_a_full_disk_is_a_warning_and_leaves_nothing(tmp_path, monkeypatch):
    def full(file, **_):
        file.write(b"PK")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.warns(UserWarning, match="No space left"):
        assert equal(cache.load_or_make("toy", lambda: "k", lambda: TOY, tmp_path), TOY)
    assert not list(tmp_path.iterdir())


def test_several_at_once(tmp_path):
    def work(_):
        return cache.load_or_make("toy", lambda: "k", lambda: TOY, tmp_path)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(equal(one, TOY) for one in pool.map(work, range(24)))
    assert [entry.name for entry in tmp_path.iterdir()] == ["toy-k.npz"]


def test_what_killed_processes_left_is_cleared_in_time(tmp_path):
    old, new, other = tmp_path / ".a.1.tmp", tmp_path / ".b.2.tmp", tmp_path / "c.tmp"
    for path in (old, new, other):
        path.write_bytes(b"PK")
    for path in (old, other):
        os.utime(path, (time.time() - 2 * 24 * 3600,) * 2)
    cache.load_or_make("toy", lambda: "k", lambda: TOY, tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".b.2.tmp", "c.tmp", "toy-k.npz"]


def test_only_one_of_a_kind(tmp_path):
    key, other = cache.key(1), cache.key(2)
    assert cache.only("toy", tmp_path / "none") is None
    cache.load_or_make("toy-16px", lambda: key, lambda: TOY, tmp_path)
    assert cache.only("toy", tmp_path) is None
    cache.load_or_make("toy", lambda: key, lambda: TOY, tmp_path)
    assert equal(cache.only("toy", tmp_path), TOY)
    cache.load_or_make("toy", lambda: other, lambda: TOY, tmp_path)
    assert cache.only("toy", tmp_path) is None
