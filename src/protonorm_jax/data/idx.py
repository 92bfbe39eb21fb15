"""Source `idx:PATH`: the files of the MNIST family (MNIST, Fashion-MNIST, KMNIST, EMNIST, QMNIST).

An idx file is: two zero bytes, the element type (8: uint8), the number of dimensions, each
dimension as a big-endian 32-bit integer, the elements. Gzip is seen from the first bytes, not from
the name.
"""

import gzip
import math
import re
import struct
from pathlib import Path

import numpy as np

from protonorm_jax.data import checks
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Dataset


def load(argument: str, **_: object) -> Dataset:
    """Reads pairs of idx files, training files first, and joins them.

    Args:
      argument: a folder (`FOLDER`), or a folder and how the names of the wanted files begin, for
        folders that hold several sets (`FOLDER/emnist-balanced`). Image files are those with
        `images` and `idx` in their name (`train-images-idx3-ubyte.gz`); the labels lie next to
        them under the same name with `labels` and `idx1`.

    Returns:
      The set; `num_classes` is the highest label plus one.

    Raises:
      UsageError: a file is missing, broken or of another type, or the folder holds several sets.
    """
    path = Path(argument).expanduser()
    folder, prefix = (path, "") if path.is_dir() else (path.parent, path.name)
    with checks.reading(folder):
        names = {entry.name for entry in folder.iterdir() if entry.name.startswith(prefix)}
    # Where both an unpacked file and its archive lie, one of them is enough.
    image_names = [
        name
        for name in names
        if "images" in name and "idx" in name and name.removesuffix(".gz") not in names - {name}
    ]
    image_names.sort(key=lambda name: ("train" not in name, name))
    if not image_names:
        raise UsageError(f"{path} must hold idx files such as train-images-idx3-ubyte.gz, got none")
    sets = sorted({re.sub("(train|t10k|test)-images.*", "", name) for name in image_names})
    if len(sets) > 1:
        raise UsageError(
            f"{path} must hold one set, got several: {', '.join(sets)}; "
            f"name one as idx:{folder / sets[0]}"
        )
    images = [read_array(folder / name) for name in image_names]
    labels = [read_array(_labels_path(folder, name)) for name in image_names]
    for name, part, part_labels in zip(image_names, images, labels, strict=True):
        if part.shape[1:] != images[0].shape[1:]:
            raise UsageError(
                f"{folder / name}: images must be sized as in {image_names[0]}, "
                f"got {list(part.shape[1:])} and {list(images[0].shape[1:])}"
            )
        if part_labels.ndim != 1 or len(part_labels) != len(part):
            raise UsageError(
                f"{folder / name}: images and labels must be equally many, "
                f"got shapes {list(part.shape)} and {list(part_labels.shape)}"
            )
    return checks.dataset(
        np.concatenate(images),
        np.concatenate(labels),
        origin=str(path),
        name=prefix.removesuffix(".gz") or folder.resolve().name,
    )


def read_array(path: Path) -> np.ndarray:
    """Reads one idx file of uint8, gzipped or not.

    Args:
      path: the file.

    Returns:
      uint8 array with the dimensions the file names.

    Raises:
      UsageError: the file is missing, broken, of another type or not as long as it says.
    """
    with checks.reading(path):
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise UsageError(
            f"{path} must be an idx file of uint8 (first bytes 00 00 08), "
            f"got first bytes {content[:3].hex(' ') or 'of an empty file'}"
        )
    num_dimensions = content[3]
    start = 4 + 4 * num_dimensions
    if len(content) < start:
        raise UsageError(f"{path} must be at least {start} bytes long, got {len(content)}")
    shape = struct.unpack(f">{num_dimensions}I", content[4:start])
    if len(content) != start + math.prod(shape):
        raise UsageError(
            f"{path} must be {start + math.prod(shape)} bytes long as its header "
            f"{list(shape)} says, got {len(content)}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _labels_path(folder: Path, image_name: str) -> Path:
    """The labels of an images file, gzipped or not."""
    name = re.sub(r"idx\d", "idx1", image_name.replace("images", "labels"))
    plain = folder / name.removesuffix(".gz")
    archive = folder / (plain.name + ".gz")
    found = [path for path in (folder / name, plain, archive) if path.is_file()]
    if not found:
        raise UsageError(f"{folder / name} must exist, as the labels of {image_name}, got no file")
    return found[0]
