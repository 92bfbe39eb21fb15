"""Source `folder:PATH`: one sub-folder a class, image files in it.

Either the classes' folders lie in `PATH` itself, or in the folders of its parts: `train`, and
`val` (`valid`, `validation`) or `test`, as `torchvision.datasets.ImageFolder` wants them. A part
may lack classes of the training part, but has no others. The layout of Tiny-ImageNet is one of
these: images may lie deeper (`train/n01443537/images/x.JPEG`), and a part may have all its images
in one folder and their classes in a table (`val/images`, `val/val_annotations.txt`); a part whose
only folder is `images` is without labels, and left out.

The formats are those of `pictures.FORMATS`. The classes are in alphabetical order. Left out are
hidden files, what systems leave behind (`files.JUNK`), texts, and all files next to the classes'
folders. Links are followed. Of a set with only grey images the images have one channel, else three.

Sets of at least `CACHED_BYTES` or `CACHED_IMAGES` are kept decoded in the cache.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from protonorm_jax.data import cache, checks, files, parts, pictures, threads
from protonorm_jax.errors import Caution, UsageError
from protonorm_jax.types import Dataset, Part

UNSORTED = "images"
"""The folder of a part whose images are not sorted by class."""

CACHED_BYTES = 16 * 2**20
CACHED_IMAGES = 10_000
"""Smaller sets are decoded within a second or two."""


class Sample(NamedTuple):
    """One image file and what is known of it."""

    file: files.Entry
    label: int
    part: Part


class Found(NamedTuple):
    """What lies in a folder, before any image is opened.

    Attributes:
      classes: their names.
      samples: all images, by part, by class, by name.
    """

    classes: tuple[str, ...]
    samples: tuple[Sample, ...]


def load(
    argument: str,
    *,
    image_size: int = 0,
    cache_dir: str | os.PathLike | None = None,
    on_progress: threads.Progress | None = None,
    **_: object,
) -> Dataset:
    """Reads a folder of images; see `pictures` for what becomes of transparency and the like.

    Args:
      argument: the folder of the classes' folders, or of the parts.
      image_size: side of the square that images are resized to; 0 leaves them as they are.
      cache_dir: folder of the cache.
      on_progress: told of the progress.

    Returns:
      The set, training part first, then validation and test; classes in alphabetical order, files
      in alphabetical order within a class. `parts` is None where there is one part only.

    Raises:
      UsageError: there are fewer than two classes, a class has no images, a file is no image,
        something is no file, links lead nowhere or in a circle, or the images are not all of one
        size and `image_size` is 0.
    """
    root = files.path_of(argument)
    found = find(root)
    entries = [sample.file for sample in found.samples]

    def make() -> Dataset:
        images = pictures.stack(
            map(_picture, entries),
            len(entries),
            origin=files.shown(root),
            image_size=image_size,
            on_progress=on_progress,
        )
        return checks.dataset(
            images,
            np.array([sample.label for sample in found.samples]),
            origin=files.shown(root),
            name=files.name_of(root),
            num_classes=len(found.classes),
            parts=parts.numbers([sample.part for sample in found.samples]),
        )

    def digest() -> str:
        digests = files.digests(entries, on_progress)
        names = [files.below(entry.path, root) for entry in entries]
        known = [(sample.part.name, sample.label) for sample in found.samples]
        return cache.key(image_size, found.classes, names, known, digests)

    large = sum(entry.size for entry in entries) >= CACHED_BYTES or len(entries) >= CACHED_IMAGES
    dataset = cache.load_or_make("folder", digest, make, cache_dir) if large else make()
    return dataset._replace(name=files.name_of(root))


def find(root: Path) -> Found:
    """Looks for classes and images, and opens none.

    Raises:
      UsageError: see `load`.
    """
    top = _folder(root)
    folders = [entry for entry in files.entries(root) if entry.is_folder]
    found = _parts(root, folders)
    if found is None:
        classes = tuple(entry.path.name for entry in folders)
        _check_classes(root, classes)
        samples = [
            Sample(file, label, Part.TRAIN)
            for label, folder in enumerate(folders)
            for file in _images(folder, (top,), needed=True)
        ]
        return Found(classes, tuple(samples))
    train = found[Part.TRAIN]
    classes = tuple(one.path.name for one in files.entries(train.path) if one.is_folder)
    _check_classes(train.path, classes)
    labels = {name: label for label, name in enumerate(classes)}
    samples = [
        Sample(file, label, part)
        for part in sorted(found)
        for file, label in _labelled(found[part], part, labels, (top, found[part]))
    ]
    return Found(classes, tuple(samples))


def _folder(path: Path) -> files.Entry:
    """The entry of a folder."""
    found = files.entry(path)
    if not found.is_folder:
        with checks.reading(files.shown(path)):
            raise NotADirectoryError(f"{files.shown(path)} is a file")
    return found


def _parts(root: Path, folders: Sequence[files.Entry]) -> dict[Part, files.Entry] | None:
    """The folders of the parts, or None where the folders are classes.

    A set may have a class called `test`, or `train` among vehicles: a training part has folders
    in it, and only parts lie beside it.
    """
    named = [one for one in folders if one.path.name.lower() in parts.NAMES]
    found: dict[Part, files.Entry] = {}
    for one in named:
        part = parts.NAMES[one.path.name.lower()]
        if part in found:
            raise UsageError(
                f"{files.shown(root)} must hold one folder for each part, got "
                f"{found[part].path.name} and {one.path.name}"
            )
        found[part] = one
    if Part.TRAIN not in found:
        return None
    if not any(one.is_folder for one in files.entries(found[Part.TRAIN].path)):
        return None
    others = [files.shown(one.path.name) for one in folders if one not in named]
    if others:
        raise UsageError(
            f"{files.shown(root)} must hold the folders of parts "
            f"({', '.join(one.path.name for one in named)}) or of classes, got also {others[0]}"
        )
    return found


def _labelled(
    folder: files.Entry, part: Part, labels: Mapping[str, int], above: Sequence[files.Entry]
) -> list[tuple[files.Entry, int]]:
    """The images of a part with their labels."""
    inside = files.entries(folder.path)
    folders = [one for one in inside if one.is_folder]
    unsorted = UNSORTED not in labels and [one.path.name for one in folders] == [UNSORTED]
    if part is not Part.TRAIN and (unsorted or not folders):
        images = list(files.walk(folders[0], above)) if folders else inside
        table = folder.path / f"{folder.path.name}_annotations.txt"
        if table.exists():
            return _annotated(images, table, labels)
        warnings.warn(
            f"{files.shown(folder.path)} is left out: its {len(images):,} images have no labels",
            Caution,
            stacklevel=2,
        )
        return []
    made: list[tuple[files.Entry, int]] = []
    for one in folders:
        if one.path.name not in labels:
            raise UsageError(
                f"{files.shown(one.path)} must be a class of the training part, which has "
                f"{len(labels)}, got {files.shown(one.path.name)!r}"
            )
        label = labels[one.path.name]
        images = _images(one, above, needed=part is Part.TRAIN)
        made.extend((image, label) for image in images)
    return made


def _annotated(
    images: Sequence[files.Entry], table: Path, labels: Mapping[str, int]
) -> list[tuple[files.Entry, int]]:
    """Images with the labels that a table gives them: file name, class and more, by tabs."""
    with checks.reading(files.shown(table)):
        files.entry(table)
        lines = table.read_text(encoding="utf-8").splitlines()
    given: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        name, class_name, *_ = [*line.split("\t"), "", ""]
        if not line.strip():
            continue
        if class_name not in labels:
            raise UsageError(
                f"{files.shown(table)}: line {number} must name an image and a class of the "
                f"training part, got {line[:80]!r}"
            )
        given[name] = labels[class_name]
    for image in images:
        if image.path.name not in given:
            raise UsageError(
                f"{files.shown(table)} must give each image a class, got none for "
                f"{files.shown(image.path.name)}"
            )
    missing = given.keys() - {image.path.name for image in images}
    if missing:
        raise UsageError(
            f"{files.shown(table)} must name images that are there, got no "
            f"{files.shown(min(missing))}"
        )
    return [(image, given[image.path.name]) for image in images]


def _images(
    folder: files.Entry, above: Sequence[files.Entry], *, needed: bool
) -> list[files.Entry]:
    """The image files of a class."""
    found = list(files.walk(folder, above))
    if needed and not found:
        raise UsageError(f"{files.shown(folder.path)} must hold at least one image, got none")
    return found


def _check_classes(folder: Path, classes: Sequence[str]) -> None:
    if len(classes) < 2:
        raise UsageError(
            f"{files.shown(folder)} must hold at least 2 folders, one for each class, got "
            f"{len(classes)}"
        )


def _picture(entry: files.Entry) -> pictures.Picture:
    return pictures.Picture(files.shown(entry.path), entry.path.read_bytes, entry.size)
