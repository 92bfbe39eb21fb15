"""Source `npz:PATH`: arrays in one numpy archive; and the writer of such files.

The archive holds `images` and `labels`, or `x` and `y`, or the parts of Keras' `mnist.npz`
(`x_train`, `y_train`, `x_test`, `y_test`) or MedMNIST (`train_images`, `train_labels`, ...), whose
parts are joined. `num_classes` (an integer) and `name` (a string) may stand next to them, and next
to a single pair `parts` (`[N]` integers: 0 training, 1 validation, 2 test).
"""

import os
from pathlib import Path

import numpy as np

from protonorm_jax.data import arrays, checks, writing
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Dataset, Part

LAYOUTS = (
    (("images", "labels"),),
    (("x", "y"),),
    (("x_train", "y_train"), ("x_val", "y_val"), ("x_test", "y_test")),
    (
        ("train_images", "train_labels"),
        ("val_images", "val_labels"),
        ("test_images", "test_labels"),
    ),
)
"""The pairs of array names that are understood; the first layout found is read, whole."""

PARTS = {
    pair: part
    for layout in LAYOUTS[2:]
    for pair, part in zip(layout, (Part.TRAIN, Part.VALIDATION, Part.TEST), strict=True)
}
"""Of which part the arrays are whose names say so."""


def load(argument: str, **_: object) -> Dataset:
    """Reads an archive.

    Args:
      argument: path of the archive.

    Returns:
      The set, named as the archive says or else as the file, with `parts` if it tells them apart.

    Raises:
      UsageError: the file is unreadable, holds pickled objects or breaks a rule of `checks`.
    """
    path = Path(argument).expanduser()
    with arrays.Archive(path) as archive:
        pairs = _pairs(path, archive.names)
        archive.check([name for pair in pairs for name in pair])
        images = [archive.read(image_name) for image_name, _ in pairs]
        labels = [archive.read(label_name) for _, label_name in pairs]
        num_classes = _scalar(archive, "num_classes", "iu", "an integer")
        name = _scalar(archive, "name", "U", "a string")
        parts = archive.read("parts") if "parts" in archive.names and len(pairs) == 1 else None
    for part, (image_name, label_name) in enumerate(pairs):
        if images[part].shape[1:] != images[0].shape[1:]:
            raise UsageError(
                f"{path}: {image_name} must have images shaped as in {pairs[0][0]}, "
                f"got {list(images[part].shape[1:])} and {list(images[0].shape[1:])}"
            )
        if not labels[part].ndim or labels[part].shape[:1] != images[part].shape[:1]:
            raise UsageError(
                f"{path}: {image_name} and {label_name} must be equally many, "
                f"got shapes {list(images[part].shape)} and {list(labels[part].shape)}"
            )
        if labels[part].shape[1:] != labels[0].shape[1:]:
            raise UsageError(
                f"{path}: {label_name} must be shaped as {pairs[0][1]}, "
                f"got shapes {list(labels[part].shape)} and {list(labels[0].shape)}"
            )
    if parts is None and pairs[0] in PARTS:
        parts = np.repeat([PARTS[pair] for pair in pairs], [len(part) for part in labels])
    return checks.dataset(
        np.concatenate(images) if len(images) > 1 else images[0],
        np.concatenate(labels) if len(labels) > 1 else labels[0],
        origin=str(path),
        name=path.stem if name is None else str(name),
        num_classes=None if num_classes is None else int(num_classes),
        parts=parts,
    )


def save(dataset: Dataset, path: str | os.PathLike) -> Path:
    """Writes a set as an archive that `load` reads; the file appears whole or not at all.

    Args:
      dataset: the set.
      path: where to; missing folders are made, an older file is replaced.

    Returns:
      The path.

    Raises:
      UsageError: the place cannot be written, or the set says who holds what, for which there is
        no place in an archive (`pfllib.save` has one).
    """
    path = Path(path).expanduser()
    if dataset.dealt is not None:
        raise UsageError(f"{path} must be a pfllib folder to keep who holds what, got an archive")
    with writing.replacing(path) as file:
        np.savez(
            file,
            allow_pickle=False,
            images=dataset.images,
            labels=dataset.labels,
            num_classes=np.asarray(dataset.num_classes),
            name=np.asarray(dataset.name),
            **({} if dataset.parts is None else {"parts": dataset.parts}),
        )
    return path


def _pairs(path: Path, names: list[str]) -> list[tuple[str, str]]:
    """The pairs of array names to read."""
    for layout in LAYOUTS:
        pairs = [pair for pair in layout if set(pair) & set(names)]
        for pair in pairs:
            missing = sorted(set(pair) - set(names))
            if missing:
                raise UsageError(f"{path} must hold {' and '.join(pair)}, got no {missing[0]}")
        if pairs:
            return pairs
    raise UsageError(f"{path} must hold images and labels, got {sorted(names)[:8]}")


def _scalar(archive: arrays.Archive, name: str, kinds: str, rule: str) -> np.ndarray | None:
    """The optional scalar `name` of the archive."""
    if name not in archive.names:
        return None
    value = archive.read(name)
    if value.ndim or value.dtype.kind not in kinds:
        raise UsageError(
            f"{archive.path}: {name} must be {rule}, got {value.dtype} of shape {list(value.shape)}"
        )
    return value
