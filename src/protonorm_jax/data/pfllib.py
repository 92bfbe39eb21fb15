"""Source `pfllib:FOLDER`: clients as PFLlib, HtFLlib, FedTGP and ProtoNorm keep them; its writer.

    FOLDER/train/0.npz, 1.npz, ...   the training samples of each client
    FOLDER/test/0.npz, 1.npz, ...    its test samples
    FOLDER/config.json               how many clients and classes there are, and how they were dealt

Each archive holds an array `data` of one object, a pickled dict of `x` (`[n, channels, H, W]`) and
`y` (`[n]`). The pickles are read by `pickles`, which runs nothing. Archives with plain arrays `x`
and `y` are taken too.

The layout is that of PFLlib, https://github.com/TsingZ0/PFLlib.
"""

import contextlib
import io
import json
import os
import pickle
import re
import secrets
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from protonorm_jax.data import arrays, checks, limits, pickles, pixels
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Dataset, Part, Partition

CONFIG = "config.json"
SIZES = "Size of samples for labels in clients"
MAX_CONFIG = 2**23
"""Bytes of `config.json`."""

_FILE = re.compile(r"(0|[1-9]\d{0,6})\.npz")


class _Share(NamedTuple):
    """Samples of one client, of one part.

    Attributes:
      pixels: of its images, `[n, H, W, channels]`; None without samples.
      labels: `[n]` int64.
    """

    pixels: pixels.Pixels | None
    labels: np.ndarray


def load(argument: str, *, inexact_pixels: bool = False, **_: object) -> Dataset:
    """Reads a folder; its clients and their training and test samples are kept as they are.

    Args:
      argument: the folder.
      inexact_pixels: whether floats that are no whole pixels in -1..1, 0..1 or 0..255 are taken
        for the nearest ones.

    Returns:
      The set with `parts`, and with the folder's clients as `dealt`.

    Raises:
      UsageError: a file is missing, broken, holds anything but arrays, or contradicts another.
    """
    root = Path(argument).expanduser()
    train, test = _files(root / "train"), _files(root / "test")
    _check_numbers(root, train, test)
    described = _described(root / CONFIG)
    if "num_clients" in described and described["num_clients"] != len(train):
        raise UsageError(
            f"{root / CONFIG}: num_clients must be {len(train)}, as many as files in "
            f"{root / 'train'}, got {limits.shown(described['num_clients'])}"
        )
    files = [(number, part) for number in range(len(train)) for part in (train, test)]
    paths = [part[number] for number, part in files if number in part]
    _check_sizes(root, paths)
    labels: list[np.ndarray] = []

    def read(scale: pixels.Scale | None) -> Iterator[pixels.Pixels]:
        labels.clear()
        for path in paths:
            share = _read(path, scale)
            labels.append(share.labels)
            if share.pixels is not None:
                yield share.pixels
            elif path.parent.name == "train":
                raise UsageError(f"{path} must hold at least one sample, got none")

    levels, _scale = pixels.restore(read, str(root), inexact=inexact_pixels)
    return _joined(root, paths, levels, labels, described)


def _files(folder: Path) -> dict[int, Path]:
    """The archives of a folder by the number of their client; what else lies there is left out."""
    with checks.reading(folder):
        names = sorted(os.listdir(folder))
    matches = [(_FILE.fullmatch(name), name) for name in names]
    return {int(match[1]): folder / name for match, name in matches if match}


def _check_numbers(root: Path, train: Mapping[int, Path], test: Mapping[int, Path]) -> None:
    """Refuses a folder whose clients are not 0, 1, 2, ..."""
    if not train:
        raise UsageError(f"{root / 'train'} must hold 0.npz, 1.npz, ..., got none")
    missing = sorted(set(range(len(train))) - set(train))
    if missing:
        raise UsageError(
            f"{root / 'train'} must hold 0.npz to {max(train)}.npz, got no {missing[0]}.npz"
        )
    extra = sorted(set(test) - set(train))
    if extra:
        raise UsageError(
            f"{test[extra[0]]} must have a client with training samples, got no "
            f"{root / 'train' / f'{extra[0]}.npz'}"
        )


def _described(path: Path) -> dict[str, Any]:
    """What `config.json` says; empty if there is none."""
    if not path.exists():
        return {}
    with checks.reading(path), open(path, "rb") as file:
        content = file.read(MAX_CONFIG + 1)
        if len(content) > MAX_CONFIG:
            raise UsageError(f"{path} must have at most {MAX_CONFIG} bytes, got more")
        try:
            values = json.loads(content)
        except RecursionError as error:
            raise UsageError(f"{path} must not be nested that deep, got {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold one JSON object, got {type(values).__name__}")
    return values


def _check_sizes(root: Path, paths: Sequence[Path]) -> None:
    """Refuses archives that unpack to more than they should, all of them together."""
    unpacked = stored = 0
    for path in paths:
        with arrays.Archive(path) as archive:
            unpacked += archive.check(set(archive.names) & {"data", "x", "y"})
        stored += path.stat().st_size
    limits.check_unpacked(root, unpacked, stored)


def _read(path: Path, scale: pixels.Scale | None) -> _Share:
    """The samples in one archive, images by rows with the channels last."""
    values = _content(path)
    images, labels = values["x"], _whole(values["y"], path)
    if not images.ndim or len(images) != len(labels):
        raise UsageError(
            f"{path}: x and y must be equally many, got shapes {list(images.shape)} and "
            f"{list(labels.shape)}"
        )
    if not len(images):
        return _Share(None, labels)
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.size:
        raise UsageError(
            f"{path}: x must have shape [n, channels, H, W] with 1 or 3 channels, got "
            f"{list(images.shape)}"
        )
    found = pixels.convert(images, scale, f"{path}: x")
    levels = np.ascontiguousarray(found.levels.transpose(0, 2, 3, 1))
    return _Share(found._replace(levels=levels), labels)


def _content(path: Path) -> dict[str, np.ndarray]:
    """The arrays `x` and `y` of an archive."""
    with arrays.Archive(path) as archive:
        if "data" in archive.names:
            values = archive.read("data", pickled=True)
        elif {"x", "y"} <= set(archive.names):
            values = {name: archive.read(name) for name in ("x", "y")}
        else:
            names = limits.shown(sorted(archive.names)[:8])
            raise UsageError(f"{path} must hold an array data, got {names}")
    if isinstance(values, np.ndarray) and values.dtype.hasobject and values.size == 1:
        values = values.reshape(-1)[0]
    if not isinstance(values, dict):
        raise UsageError(f"{path}: data must be a dict of x and y, got {type(values).__name__}")
    values = pickles.by_name(values)
    result = {}
    for name in ("x", "y"):
        found = pickles.numbers(values.get(name))
        if found is None:
            kind = type(values[name]).__name__ if name in values else f"no {name}"
            raise UsageError(f"{path}: {name} must be an array of numbers, got {kind}")
        result[name] = found
    return result


def _whole(labels: np.ndarray, path: Path) -> np.ndarray:
    """Labels `[n]` int64 of any type of number, if they are whole."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iuf":
        raise UsageError(
            f"{path}: y must be [n] whole numbers, got {labels.dtype} of shape {list(labels.shape)}"
        )
    broken = ~np.isfinite(labels) | (labels != np.rint(labels)) | (labels < 0)
    broken |= labels >= checks.MAX_CLASSES
    if broken.any():
        raise UsageError(
            f"{path}: y must be whole numbers in [0, {checks.MAX_CLASSES}), got "
            f"{labels[broken.argmax()]}"
        )
    return labels.astype(np.int64)


def _joined(
    root: Path,
    paths: Sequence[Path],
    levels: list[np.ndarray],
    labels: list[np.ndarray],
    described: Mapping[str, Any],
) -> Dataset:
    """One set of the samples of all files, client by client, training samples first."""
    counts = {path: len(part) for path, part in zip(paths, labels, strict=True)}
    filled = [path for path in paths if counts[path]]
    for path, part in zip(filled, levels, strict=True):
        if part.shape[1:] != levels[0].shape[1:]:
            raise UsageError(
                f"{path}: images must be sized as in {filled[0]}, got {list(part.shape[1:])} and "
                f"{list(levels[0].shape[1:])} (height, width, channels)"
            )
    starts = dict(zip(paths, np.cumsum([0, *counts.values()]), strict=False))
    rows: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    for number in range(sum(path.parent.name == "train" for path in paths)):
        for name, of_part in rows.items():
            path = root / name / f"{number}.npz"
            of_part.append(starts.get(path, 0) + np.arange(counts.get(path, 0)))
    parts = [Part.TRAIN if path.parent.name == "train" else Part.TEST for path in paths]
    result = checks.dataset(
        np.concatenate(levels),
        np.concatenate(labels),
        origin=str(root),
        name=root.resolve().name,
        num_classes=_num_classes(root, labels, described),
        parts=np.repeat(np.array(parts, np.uint8), list(counts.values())),
        dealt=Partition(*_padded(rows["train"]), *_padded(rows["test"])),
    )
    _check_counts(root, result, described)
    return result


def _padded(rows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """`[M, longest]` int32, padded with 0, and `[M]` int32 counts."""
    counts = np.array([len(row) for row in rows], np.int32)
    result = np.zeros((len(rows), max(1, int(counts.max()))), np.int32)
    for padded, row in zip(result, rows, strict=True):
        padded[: len(row)] = row
    return result, counts


def _num_classes(
    root: Path, labels: Sequence[np.ndarray], described: Mapping[str, Any]
) -> int | None:
    """How many classes `config.json` says there are; None if it does not."""
    value = described.get("num_classes")
    if value is None:
        return None
    highest = max(int(part.max()) for part in labels if len(part))
    if isinstance(value, bool) or not isinstance(value, int) or value <= highest:
        raise UsageError(
            f"{root / CONFIG}: num_classes must be an integer > {highest}, the highest label in "
            f"the files, got {limits.shown(value)}"
        )
    return value


def _check_counts(root: Path, dataset: Dataset, described: Mapping[str, Any]) -> None:
    """Refuses files that hold other samples than `config.json` says."""
    if SIZES not in described:
        return
    found = class_sizes(dataset, dataset.dealt)
    said = described[SIZES]
    if not isinstance(said, list) or len(said) != len(found):
        raise UsageError(
            f"{root / CONFIG}: {SIZES!r} must have an entry for each of {len(found)} clients, got "
            f"{len(said) if isinstance(said, list) else type(said).__name__}"
        )
    for number, (one, other) in enumerate(zip(said, found, strict=True)):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            if sorted([int(label), int(count)] for label, count in one if count) == other:
                continue
        raise UsageError(
            f"{root / CONFIG}: {SIZES!r} must be {limits.shown(other)} for client {number}, as in "
            f"its files, got {limits.shown(one)}"
        )


def class_sizes(dataset: Dataset, partition: Partition | None) -> list[list[list[int]]]:
    """Of each client, the classes that it has and how many samples, training and test together."""
    assert partition is not None
    result = []
    for train, num_train, test, num_test in zip(*partition[:4], strict=True):
        rows = np.concatenate([train[:num_train], test[:num_test]])
        classes, counts = np.unique(dataset.labels[rows], return_counts=True)
        result.append([[int(one), int(count)] for one, count in zip(classes, counts, strict=True)])
    return result


def save(
    dataset: Dataset,
    partition: Partition,
    directory: str | os.PathLike,
    described: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a set and who holds what as a folder that `load` and those codes read.

    Images become float32 in -1..1, as `(image / 255 - 0.5) / 0.5`, which `load` undoes exactly.

    Args:
      dataset: the set.
      partition: who holds which samples.
      directory: where to; it must be new or empty, and appears whole or not at all.
      described: what else `config.json` says.

    Returns:
      The directory.

    Raises:
      UsageError: the place holds something or cannot be written.
    """
    directory = Path(os.path.realpath(Path(directory).expanduser()))
    check_free(directory)
    temporary = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}.tmp")
    missing = [folder for folder in directory.parents if not folder.exists()]
    try:
        try:
            for part in ("train", "test"):
                (temporary / part).mkdir(parents=True)
            for number, (train, num_train, test, num_test) in enumerate(
                zip(*partition[:4], strict=True)
            ):
                for name, rows in (("train", train[:num_train]), ("test", test[:num_test])):
                    with open(temporary / name / f"{number}.npz", "xb") as file:
                        _write(file, dataset.images[rows], dataset.labels[rows])
                        _sync(file)
            values = {
                "num_clients": len(partition.train),
                "num_classes": dataset.num_classes,
                **(described or {}),
                SIZES: class_sizes(dataset, partition),
            }
            with open(temporary / CONFIG, "xb") as file:
                file.write(json.dumps(values).encode())
                _sync(file)
            os.replace(temporary, directory)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            with contextlib.suppress(OSError):
                for folder in missing:
                    folder.rmdir()
            raise
    except OSError as error:
        raise UsageError(f"{directory} must be writable, got {checks.one_line(error)}") from error
    return directory


def check_free(directory: Path) -> None:
    """Refuses a place that something is in.

    Raises:
      UsageError: it is a file, or a folder that holds something.
    """
    with checks.reading(directory):
        if os.path.lexists(directory) and (not directory.is_dir() or any(directory.iterdir())):
            raise UsageError(f"{directory} must be a new or empty folder, got one that is taken")


def _sync(file: BinaryIO) -> None:
    """Has what was written reach the disk, before the folder appears under its name."""
    file.flush()
    os.fsync(file.fileno())


def _write(file: BinaryIO, images: np.ndarray, labels: np.ndarray) -> None:
    """An archive as `numpy.savez_compressed(file, data={"x": ..., "y": ...})` makes it."""
    scaled = (images.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    values = {
        "x": np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)),
        "y": labels.astype(np.int64),
    }
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        content, {"descr": "|O", "fortran_order": False, "shape": ()}
    )
    array = np.empty((), object)
    array[()] = values
    pickled = pickle.dumps(array, protocol=3)
    # Those codes run with numpy 1 too, which knows its own parts under this name alone.
    content.write(pickled.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n", 1))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        # Without the time of day, so that equal samples make equal files.
        archive.writestr(zipfile.ZipInfo("data.npy"), content.getvalue(), zipfile.ZIP_DEFLATED)
