"""Source `idx:PATH`: the files of the MNIST family (MNIST, Fashion-MNIST, KMNIST, EMNIST, QMNIST).

An idx file is: two zero bytes, the element type (8: uint8, 12: int32), the number of dimensions,
each dimension as a big-endian 32-bit integer, the elements. Gzip is seen from the first bytes, not
from the name.
"""

import contextlib
import gzip
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from protonorm_jax.data import checks, limits
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Dataset, Part

_PARTS = {
    "train": Part.TRAIN,
    "valid": Part.VALIDATION,
    "val": Part.VALIDATION,
    "t10k": Part.TEST,
    "test": Part.TEST,
}
_BEFORE_IMAGES = re.compile(rf"({'|'.join(_PARTS)})-images.*")
_TYPES: dict[int, np.dtype] = {8: np.dtype(np.uint8), 12: np.dtype(">i4")}


def load(argument: str, **_: object) -> Dataset:
    """Reads pairs of idx files, training files first, and joins them.

    Args:
      argument: a folder (`FOLDER`), or a folder and how the names of the wanted files begin, for
        folders that hold several sets (`FOLDER/emnist-balanced`). Image files are those with
        `images` and `idx` in their name (`train-images-idx3-ubyte.gz`, `train-images.idx3-ubyte`,
        in any case); the labels lie next to them under the same name with `labels` and `idx1`. A
        folder of torchvision's does too: the files are looked for in `raw` and `*/raw` in it.

    Returns:
      The set, with `parts` if all names say of which part their files are; `num_classes` is the
      highest label plus one.

    Raises:
      UsageError: a file is missing, broken or of another type, or the folder holds several sets.
    """
    path = Path(argument).expanduser()
    folder, prefix = (path, "") if path.is_dir() else (path.parent, path.name)
    folder, files = _found(folder, _key(prefix))
    image_names = sorted(
        (key for key in files if "images" in key and key.startswith(_key(prefix))),
        key=lambda key: ("train" not in key, key),
    )
    if not image_names:
        raise UsageError(f"{path} must hold idx files such as train-images-idx3-ubyte.gz, got none")
    sets = sorted({_BEFORE_IMAGES.sub("", key) for key in image_names})
    if len(sets) > 1:
        raise UsageError(
            f"{path} must hold one set, got several: {', '.join(sets)}; "
            f"name one as idx:{folder / sets[0]}"
        )
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for key in image_names:
        image_path = files[key]
        part, part_labels = read_array(image_path), _read_labels(key, files, image_path)
        if images and part.shape[1:] != images[0].shape[1:]:
            raise UsageError(
                f"{image_path}: images must be sized as in {files[image_names[0]].name}, "
                f"got {list(part.shape[1:])} and {list(images[0].shape[1:])}"
            )
        if not part.ndim or part_labels.ndim != 1 or len(part_labels) != len(part):
            raise UsageError(
                f"{image_path}: images and labels must be equally many, "
                f"got shapes {list(part.shape)} and {list(part_labels.shape)}"
            )
        images.append(part)
        labels.append(part_labels)
    own_name = folder.resolve()
    return checks.dataset(
        np.concatenate(images),
        np.concatenate(labels),
        origin=str(path),
        name=prefix.removesuffix(".gz")
        or (own_name.parent if own_name.name == "raw" else own_name).name,
        parts=_parts(image_names, [len(part) for part in images]),
    )


def _key(name: str) -> str:
    """What a file is called but for how it is spelled and packed."""
    return name.lower().removesuffix(".gz").replace(".", "-")


def _found(folder: Path, prefix: str) -> tuple[Path, dict[str, Path]]:
    """The folder in which files lie whose names begin so, and all files in it by key.

    Raises:
      UsageError: the folder cannot be read, or below it several have such files.
    """
    files = _files(folder)
    if any(key.startswith(prefix) for key in files):
        return folder, files
    with checks.reading(folder):
        inner = [folder / "raw", *sorted(folder.glob("*/raw"))]
    found = [(one, _files(one)) for one in inner if one.is_dir()]
    having = [one for one in found if any(key.startswith(prefix) for key in one[1])]
    if len(having) > 1:
        names = [one.parent.name for one, _ in having]
        raise UsageError(
            f"{folder} must hold one set, got several: {', '.join(names)}; "
            f"name one as idx:{folder / names[0]}"
        )
    return having[0] if having else (folder, {})


def _files(folder: Path) -> dict[str, Path]:
    """The idx files of a folder by key, unpacked ones rather than archives."""
    with checks.reading(folder):
        paths = sorted(folder.iterdir(), key=lambda path: path.name)
        packed_first = sorted(paths, key=lambda path: path.suffix.lower() != ".gz")
        return {
            _key(path.name): path
            for path in packed_first
            if "idx" in path.name.lower() and path.is_file()
        }


def _parts(names: Sequence[str], counts: Sequence[int]) -> np.ndarray | None:
    """Of each sample its part; None if a name does not say."""
    matches = [_BEFORE_IMAGES.search(name) for name in names]
    parts = [_PARTS[match[1]] for match in matches if match]
    return np.repeat(np.array(parts, np.uint8), counts) if len(parts) == len(names) else None


def _read_labels(image_name: str, files: dict[str, Path], image_path: Path) -> np.ndarray:
    """The labels of a file of images; of QMNIST's, which say more, the class."""
    name = image_name.replace("images", "labels")
    plain = re.sub(r"idx\d", "idx1", name)
    extended = re.sub(r"idx\d-ubyte", "idx2-int", name)
    for key in (plain, extended):
        if key in files:
            labels = read_array(files[key])
            return labels[:, 0] if key == extended and labels.ndim == 2 else labels
    wanted = re.sub(r"idx\d", "idx1", re.sub("images", "labels", image_path.name, flags=re.I))
    raise UsageError(
        f"{image_path.with_name(wanted)} must exist, as the labels of {image_path.name}, got no "
        "file"
    )


def read_array(path: Path) -> np.ndarray:
    """Reads one idx file of uint8 or int32, gzipped or not.

    Args:
      path: the file.

    Returns:
      uint8 or int32 array with the dimensions the file names.

    Raises:
      UsageError: the file is missing, broken, of another type or not as long as it says.
    """
    with checks.reading(path), _opened(path) as (file, stored, packed):
        start = file.read(4)
        if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _TYPES:
            raise UsageError(
                f"{path} must be an idx file of uint8 (first bytes 00 00 08), "
                f"got first bytes {start[:3].hex(' ') or 'of an empty file'}"
            )
        dtype, num_dimensions = _TYPES[start[2]], start[3]
        begin = 4 + 4 * num_dimensions
        rest = file.read(begin - 4)
        if len(rest) < begin - 4:
            raise UsageError(f"{path} must be at least {begin} bytes long, got {4 + len(rest)}")
        shape = struct.unpack(f">{num_dimensions}I", rest)
        size = limits.num_bytes(path, shape, dtype.itemsize)
        said = f"{path} must be {begin + size} bytes long as its header {list(shape)} says, got"
        if not packed and stored != begin + size:
            raise UsageError(f"{said} {stored}")
        limits.check_unpacked(path, size, stored)
        array = np.empty(shape, dtype)
        read = limits.read_into(file, array)
        if read < size or file.read(1):
            raise UsageError(f"{said} {begin + read if read < size else 'more'}")
    return array.astype(dtype.newbyteorder("="), copy=False)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int, bool]]:
    """The file's content, how long the file is, and whether it is packed."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        size = file.seek(0, 2)
        file.seek(0)
        if packed:
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield unpacked, size, True  # type: ignore[misc]
        else:
            yield file, size, False
