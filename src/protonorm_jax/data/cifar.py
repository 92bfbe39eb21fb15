"""Sources `cifar:PATH` and `cifar-coarse:PATH`: CIFAR-10 and CIFAR-100, the python version.

As downloaded from https://www.cs.toronto.edu/~kriz/cifar.html (`cifar-10-python.tar.gz`,
`cifar-100-python.tar.gz`), or unpacked. A file of it is a pickled dict of `data` (`[n, 3072]`
uint8: the red pixels of an image, the green and the blue ones, each by rows) and the labels. The
pickles are read by `pickles`, which runs nothing, and archives member by member in memory.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

import functools
import gzip
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from protonorm_jax.data import checks, limits, pickles
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Dataset, Part

MAX_BATCH = 2**28
"""Bytes of a file; the largest of CIFAR-100 has 155 million."""

MAX_UNPACKED = 2**30
"""Bytes of an archive, unpacked; both have less than 200 million."""

MAX_MEMBERS = 1000
"""Files and folders in an archive; both have fewer than ten."""


class _Kind(NamedTuple):
    """One of the two sets.

    Attributes:
      name: of the set.
      folder: in which its files lie.
      archive: in which it is downloaded.
      parts: its files in order, with the part that they are of.
      classes: number of classes by the name of the labels.
    """

    name: str
    folder: str
    archive: str
    parts: dict[str, Part]
    classes: dict[str, int]


_KINDS = (
    _Kind(
        "cifar10",
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        {f"data_batch_{number}": Part.TRAIN for number in range(1, 6)} | {"test_batch": Part.TEST},
        {"labels": 10},
    ),
    _Kind(
        "cifar100",
        "cifar-100-python",
        "cifar-100-python.tar.gz",
        {"train": Part.TRAIN, "test": Part.TEST},
        {"fine_labels": 100, "coarse_labels": 20},
    ),
)


def load(argument: str, *, coarse: bool = False, **_: object) -> Dataset:
    """Reads CIFAR-10 or CIFAR-100, whichever is there.

    Args:
      argument: the folder of the files, a folder with that folder or the archive in it (such as
        torchvision's root), or the archive, gzipped or not.
      coarse: whether to take the 20 coarse labels of CIFAR-100 in place of the 100 fine ones.

    Returns:
      The set with `parts`, training files first.

    Raises:
      UsageError: there is no such set or several, a file is missing, broken, or holds anything but
        such a dict; or CIFAR-10 is asked for coarse labels.
    """
    path, kind = _found(Path(argument).expanduser())
    batches: dict[str, dict[str, Any]] = {}
    for name, batch in _unpacked(path, kind) if path.is_dir() else _packed(path):
        if name in batches:
            raise UsageError(f"{path} must hold one file of each name, got a second {name}")
        batches[name] = batch
    if kind is None:
        kind = next((one for one in _KINDS if set(one.parts) & set(batches)), _KINDS[0])
    missing = [name for name in kind.parts if name not in batches]
    if missing:
        raise UsageError(f"{path} must hold {', '.join(kind.parts)}, got no {missing[0]}")
    label_name = "coarse_labels" if coarse else next(iter(kind.classes))
    if label_name not in kind.classes:
        raise UsageError(f"{path} must be CIFAR-100 to have coarse labels, got {kind.name}")
    images, labels = [], []
    for name in kind.parts:
        place = f"{path}: {name}"
        images.append(_images(batches[name], place))
        labels.append(_labels(batches[name], label_name, len(images[-1]), place))
    counts = [len(part) for part in images]
    return checks.dataset(
        np.concatenate(images),
        np.concatenate(labels),
        origin=str(path),
        name=kind.name + ("-coarse" if coarse else ""),
        num_classes=kind.classes[label_name],
        parts=np.repeat(np.array(list(kind.parts.values()), np.uint8), counts),
    )


load_coarse = functools.partial(load, coarse=True)


def _found(path: Path) -> tuple[Path, _Kind | None]:
    """Where the files are, a folder or an archive, and which set it is if that is known."""
    if not path.is_dir():
        return path, None
    found = [
        (place, kind)
        for kind in _KINDS
        for place in (path, path / kind.folder, path / kind.archive)
        if (place.is_file() if place.suffix else any((place / one).is_file() for one in kind.parts))
    ]
    # An archive counts only where it has not been unpacked.
    found = [one for one in found if one[0].is_dir()] or found
    if not found:
        names = " or ".join(kind.folder for kind in _KINDS)
        raise UsageError(f"{path} must hold the files of {names}, got none of them")
    if len(found) > 1:
        names = ", ".join(place.name for place, _ in found)
        raise UsageError(f"{path} must hold one set, got several: {names}; name one")
    return found[0]


def _unpacked(folder: Path, kind: _Kind | None) -> Iterator[tuple[str, Any]]:
    """The files of a folder, by name."""
    assert kind is not None
    for name in kind.parts:
        path = folder / name
        if path.is_file():
            with checks.reading(path), open(path, "rb") as file:
                yield name, _batch(file, str(path))


def _packed(path: Path) -> Iterator[tuple[str, Any]]:
    """The files of an archive, by name."""
    wanted = {name for kind in _KINDS for name in kind.parts}
    checks.regular(path)
    with checks.reading(path), open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        stored = file.seek(0, 2)
        file.seek(0)
        content: Any = _Limited(gzip.GzipFile(fileobj=file) if packed else file, stored)
        with tarfile.open(fileobj=content, mode="r|") as archive:
            for count, member in enumerate(archive):
                name = limits.shown(member.name)
                if count >= MAX_MEMBERS:
                    raise UsageError(f"{path} must hold at most {MAX_MEMBERS} files, got more")
                if member.isdir():
                    continue
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                    raise UsageError(f"{path} must hold plain files, got a link or device {name}")
                base = PurePosixPath(member.name).name
                if base in wanted:
                    yield base, _batch(archive.extractfile(member), f"{path}: {name}")


class _Limited:
    """The content of an archive, up to what it may unpack to."""

    def __init__(self, file: Any, stored: int) -> None:
        self._file = file
        self._stored = stored
        self._left = min(MAX_UNPACKED, max(limits.MIN_BOMB, limits.MAX_RATIO * stored))
        self._limit = self._left

    def read(self, size: int) -> bytes:
        content = self._file.read(min(size, self._left + 1))
        self._left -= len(content)
        if self._left < 0:
            raise ValueError(f"more than {self._limit} bytes from {self._stored}")
        return content


def _batch(file: Any, place: str) -> dict[str, Any]:
    """What one file holds."""
    content = file.read(MAX_BATCH + 1)
    if len(content) > MAX_BATCH:
        raise UsageError(f"{place} must have at most {MAX_BATCH} bytes, got more")
    values = pickles.load(content, place)
    if not isinstance(values, dict):
        raise UsageError(f"{place} must hold a dict, got {type(values).__name__}")
    return pickles.by_name(values)


def _images(batch: dict[str, Any], place: str) -> np.ndarray:
    """`[n, 32, 32, 3]` uint8."""
    data = pickles.numbers(batch.get("data"))
    if data is None or data.dtype != np.uint8 or data.shape[1:] != (3072,):
        kind = "no array" if data is None else f"{data.dtype} of shape {list(data.shape)}"
        raise UsageError(f"{place}: data must be uint8 of shape [n, 3072], got {kind}")
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _labels(batch: dict[str, Any], name: str, count: int, place: str) -> np.ndarray:
    """`[count]` integers, from a list or an array."""
    values = pickles.numbers(batch.get(name))
    if values is None or values.shape != (count,):
        kind = "none" if name not in batch else f"another {type(batch[name]).__name__}"
        raise UsageError(f"{place}: {name} must be {count} integers, as many as images, got {kind}")
    return values
