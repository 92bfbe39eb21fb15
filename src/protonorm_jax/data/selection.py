"""Parts of a set and other views of it: fewer samples, fewer classes, labels in groups, two sets
as one. Arrays in, arrays out; the same for every seed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from protonorm_jax import partition
from protonorm_jax.data import tables
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Dataset, Part

_MOST_SHOWN = 6


class Selection(NamedTuple):
    """A view of a set, or of two.

    Attributes:
      dataset: its samples, classes and parts.
      rows: `[N]` of each sample its place in the set as it was read; of a second set, which is the
        test part, its place there and the length of the first.
      num_first: samples that the first set had.
    """

    dataset: Dataset
    rows: np.ndarray
    num_first: int


def whole(dataset: Dataset) -> Selection:
    """A set as it is."""
    return Selection(dataset, np.arange(len(dataset.labels)), len(dataset.labels))


def keep(selected: Selection, rows: np.ndarray) -> Selection:
    """The samples `rows` `[n]`, ascending; clients keep theirs of them."""
    dataset = selected.dataset
    if len(rows) == len(dataset.labels):
        return selected
    place = np.full(len(dataset.labels), -1)
    place[rows] = np.arange(len(rows))

    def kept(pieces: list[np.ndarray]) -> list[np.ndarray]:
        return [place[piece][place[piece] >= 0] for piece in pieces]

    dealt = dataset.dealt
    if dealt is not None:
        train, test = partition.unpack(dealt)
        dealt = partition.pack(kept(train), kept(test))
    dataset = dataset._replace(
        images=dataset.images[rows],
        labels=dataset.labels[rows],
        parts=None if dataset.parts is None else dataset.parts[rows],
        dealt=dealt,
    )
    return selected._replace(dataset=dataset, rows=selected.rows[rows])


def with_test(selected: Selection, test: Dataset) -> Selection:
    """Two sets as one, of which the second is the test part.

    Of a set that tells parts apart the test part is what counts: the first loses its own, and
    of the second nothing else is taken.

    Args:
      selected: what is trained on.
      test: what is tested on.

    Raises:
      UsageError: images or classes are not those of the first set.
    """
    dataset = selected.dataset
    shape, other = dataset.images.shape[1:], test.images.shape[1:]
    if other != shape:
        raise UsageError(
            f"Config.test_data must have images of shape {list(shape)}, as {dataset.name}, got "
            f"{list(other)}"
        )
    if test.num_classes != dataset.num_classes:
        raise UsageError(
            f"Config.test_data must have the {dataset.num_classes} classes of {dataset.name}, got "
            f"{test.num_classes} in {test.name}"
        )
    if dataset.parts is not None:
        selected = keep(selected, np.flatnonzero(dataset.parts != Part.TEST))
    first = selected.dataset
    if not len(first.labels):
        raise UsageError(
            f"Config.data must have samples beside its test part with test_data, got none in "
            f"{dataset.name}"
        )
    last = whole(test)
    if test.parts is not None and (test.parts == Part.TEST).any():
        last = keep(last, np.flatnonzero(test.parts == Part.TEST))
    parts = np.full(len(first.labels), Part.TRAIN) if first.parts is None else first.parts
    joined = first._replace(
        images=np.concatenate([first.images, last.dataset.images]),
        labels=np.concatenate([first.labels, last.dataset.labels]),
        parts=np.append(parts, np.full(len(last.rows), Part.TEST)).astype(np.uint8),
    )
    rows = np.append(selected.rows, selected.num_first + last.rows)
    return Selection(joined, rows, selected.num_first)


def grouped(selected: Selection, path: str | Path) -> Selection:
    """The set with groups of labels as its classes, numbered in the order of their names.

    Args:
      selected: the set.
      path: of a table, see `tables.read`, that names the group of each label; labels that no
        sample has may be left out.

    Raises:
      UsageError: the file cannot be read, leaves out a label, or has one group only.
    """
    dataset = selected.dataset
    path = Path(path).expanduser()
    named = ("group", "groups", "superclass", "coarse_label", "name")
    groups = tables.read(
        path,
        dataset.num_classes,
        what="label",
        numbers=("label", "class", "fine_label"),
        values=named,
    )
    present = np.unique(dataset.labels).tolist()
    missing = [label for label in present if label not in groups]
    if missing:
        raise UsageError(
            f"{path} must name a group for every label of {dataset.name}, got none for "
            f"{_ranges(missing)}"
        )
    names = tables.ordered([groups[label] for label in present])
    if len(names) < 2:
        raise UsageError(f"{path} must make at least 2 groups, got only {names[0]!r}")
    place = {name: number for number, name in enumerate(names)}
    number = np.zeros(dataset.num_classes, np.int32)
    number[present] = [place[groups[label]] for label in present]
    dataset = dataset._replace(labels=number[dataset.labels], num_classes=len(names))
    return selected._replace(dataset=dataset)


def classes_of(text: str, num_classes: int) -> list[int]:
    """The classes in a text such as `0-4,7`, ascending.

    Raises:
      UsageError: it is not of that form, or names a class that there is not, or one twice.
    """

    def refuse(rule: str, got: object) -> UsageError:
        return UsageError(f"Config.classes must {rule}, got {got!r}")

    found: list[int] = []
    for item in text.split(","):
        first, dash, last = (part.strip() for part in item.partition("-"))
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and max(len(first), len(last)) < 10):
            raise refuse("be classes and ranges such as 0-4,7", text)
        if int(first) > int(last):
            raise refuse("have ranges that ascend", item.strip())
        if int(last) >= num_classes:
            raise refuse(f"be in [0, {num_classes}), the classes of the data", text)
        found += range(int(first), int(last) + 1)
    if len(set(found)) < len(found):
        raise refuse("name each class once", text)
    return sorted(found)


def of_classes(selected: Selection, text: str) -> Selection:
    """The samples of some classes, which are numbered from 0 in their order.

    Args:
      selected: the set.
      text: see `classes_of`.

    Raises:
      UsageError: see `classes_of`; or fewer than two of them have samples.
    """
    dataset = selected.dataset
    chosen = classes_of(text, dataset.num_classes)
    selected = keep(selected, np.flatnonzero(np.isin(dataset.labels, chosen)))
    labels = selected.dataset.labels
    if len(np.unique(labels)) < 2:
        raise UsageError(
            f"Config.classes must keep at least 2 classes of which {dataset.name} has samples, got "
            f"{text!r}"
        )
    number = np.zeros(dataset.num_classes, np.int32)
    number[chosen] = np.arange(len(chosen))
    return selected._replace(
        dataset=selected.dataset._replace(labels=number[labels], num_classes=len(chosen))
    )


def subset(selected: Selection, num_samples: int) -> Selection:
    """A part of a set: of every class, part and client its share; the same for every seed.

    Of each class one sample at least is kept, and of each client that the set names at least one
    training sample.

    Args:
      selected: the set.
      num_samples: how many to keep.

    Raises:
      UsageError: there are not as many, or too few are asked for.
    """
    dataset = selected.dataset
    held = _cells(dataset)
    available = int((held >= 0).sum())
    if num_samples > available:
        raise UsageError(
            f"Config.num_samples must be <= {available}, the samples of {dataset.name}, got "
            f"{num_samples}"
        )
    order = np.random.default_rng(0).permutation(len(held))
    order = order[held[order] >= 0]
    _, first, cell, sizes = np.unique(
        held[order], return_index=True, return_inverse=True, return_counts=True
    )
    needed = _needed(dataset, held[order[first]])
    if num_samples < needed.sum():
        what = "classes" if dataset.dealt is None else "clients"
        raise UsageError(
            f"Config.num_samples must be >= {needed.sum()}, the {what} of {dataset.name}, got "
            f"{num_samples}"
        )
    shares = partition.apportion(sizes, num_samples, least=needed, most=sizes)
    labels = dataset.labels[order]
    if dataset.dealt is None:  # Cells are of one class each.
        chosen = [order[cell == number][:share] for number, share in enumerate(shares)]
    else:
        chosen = [
            _by_class(order[cell == number], labels[cell == number], int(share))
            for number, share in enumerate(shares)
        ]
        _complete(chosen, [order[cell == number] for number in range(len(shares))], dataset.labels)
    return keep(selected, np.sort(np.concatenate(chosen)))


def _cells(dataset: Dataset) -> np.ndarray:
    """`[N]` of each sample the number of the cell that must keep its share; -1 for none.

    Cells are classes, by part where there are parts; where clients are fixed, the training and the
    test samples of each.
    """
    if dataset.dealt is None:
        parts = np.zeros(len(dataset.labels), int) if dataset.parts is None else dataset.parts
        return dataset.labels.astype(np.int64) * len(Part) + parts
    result = np.full(len(dataset.labels), -1)
    for client, (train, test) in enumerate(zip(*partition.unpack(dataset.dealt), strict=True)):
        result[train], result[test] = 2 * client, 2 * client + 1
    return result


def _needed(dataset: Dataset, cells: np.ndarray) -> np.ndarray:
    """How many samples each of these cells, which ascend, must keep at least: 1 or 0."""
    if dataset.dealt is not None:
        return (cells % 2 == 0).astype(int)
    labels = cells // len(Part)
    return np.diff(labels, prepend=-1).astype(bool).astype(int)  # Of each class the first part.


def _by_class(rows: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """`count` of these samples, of each class its share, in the order of `rows` within a class."""
    present, sizes = np.unique(labels, return_counts=True)
    shares = partition.apportion(sizes, count, most=sizes)
    pieces = [rows[labels == one][:share] for one, share in zip(present, shares, strict=True)]
    return np.concatenate(pieces)


def _complete(chosen: list[np.ndarray], cells: list[np.ndarray], labels: np.ndarray) -> None:
    """Puts a sample of each class that was lost in the place of one of a class with several."""
    for lost in np.setdiff1d(
        np.unique(labels[np.concatenate(cells)]), labels[np.concatenate(chosen)]
    ):
        counts = np.bincount(labels[np.concatenate(chosen)])
        # Where most of it was, of the cells that can do without one of theirs.
        for number in np.argsort([-(labels[cell] == lost).sum() for cell in cells], kind="stable"):
            own = labels[chosen[number]]
            spare = np.flatnonzero(counts[own] > 1)
            found = cells[number][labels[cells[number]] == lost]
            if len(spare) and len(found):
                chosen[number] = np.append(np.delete(chosen[number], spare[-1]), found[0])
                break


def empty_classes(dataset: Dataset) -> str | None:
    """One line if most classes of a set have no sample, else None."""
    present = np.unique(dataset.labels).tolist()
    empty = dataset.num_classes - len(present)
    if 2 * empty <= dataset.num_classes:
        return None
    return (
        f"{dataset.name} has {dataset.num_classes} classes, of which {empty} have no sample; "
        f"--classes {_ranges(present, None)} keeps the others, and numbers them from 0"
    )


def _ranges(numbers: Sequence[int], limit: int | None = _MOST_SHOWN) -> str:
    """Ascending numbers as `0-4,7`."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    texts = [f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
    if limit is not None and len(texts) > limit:
        return ",".join(texts[:limit]) + ",..."
    return ",".join(texts)
