"""Files that say who holds which samples: indices by client, or of each sample its owner.

What `write` writes, in JSON:

    {
      "num_samples": 1797,
      "labels_digest": "9b1c...",
      "train": [[0, 5, 9], [1, 2]],
      "test": [[7], []]
    }

with one list a client, or as `.npz` the same one client after the other: `train` and `test` `[n]`
integers, and `train_count` and `test_count` `[M]`. `read` also takes objects by client's name in
place of the lists, a client's `train` and `test` together (`{"a": {"train": ..., "test": ...}}` or
a list of such), and in `.npz` rows that are padded (`train` `[M, n]`), or in place of counts of
each index its client (`train_client` and `test_client` `[n]`, from 0). `num_samples` and
`labels_digest` may be left out; where they are there they are checked.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from protonorm_jax import partition
from protonorm_jax.data import checks, tables, writing
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Partition

FORMS = (".json", ".npz")
OWNERS = ("owner", "client", "user", "group", "writer", "client_id", "user_id", "owners", "clients")
"""Names of the column or array that says who owns a sample."""


class Held(NamedTuple):
    """Who holds what, as a file has it.

    Attributes:
      names: of the `M` clients.
      partition: checked against the set.
    """

    names: tuple[str, ...]
    partition: Partition


def read(path: str | os.PathLike, labels: np.ndarray) -> Held:
    """Reads a partition.

    Args:
      path: of a file that ends in `.json` or `.npz`.
      labels: `[N]` integers of the set that it speaks of.

    Raises:
      UsageError: the file is unreadable, of another form or of another set; or what it says breaks
        a rule of `partition.check`.
    """
    path = Path(path).expanduser()
    check_form(path)
    tables.check_size(path, len(labels))
    with checks.reading(path):
        if path.suffix.lower() == ".json":
            about, names, train, test = _read_json(path)
        else:
            about, names, train, test = _read_npz(path)
    _check_set(path, about, labels)
    partition.check(train, test, len(labels), origin=str(path), names=names)
    return Held(names, partition.pack(train, test))


def write(path: str | os.PathLike, parts: Partition, labels: np.ndarray) -> Path:
    """Writes a partition that `read` reads; the file appears whole or not at all.

    Args:
      path: where to, ending in `.json` or `.npz`; missing folders are made, an older file is
        replaced.
      parts: who holds what.
      labels: `[N]` integers of the set.

    Returns:
      The path.

    Raises:
      UsageError: the name ends otherwise, or the place cannot be written.
    """
    path = Path(path).expanduser()
    check_form(path)
    with writing.replacing(path) as file:
        if path.suffix.lower() == ".json":
            file.write(_as_json(parts, labels).encode())
        else:
            np.savez_compressed(file, allow_pickle=False, **_as_arrays(parts, labels))
    return path


def read_owners(path: str | os.PathLike, num_samples: int) -> list[str]:
    """Reads who owns each sample, see `tables.read` for the forms of file.

    Args:
      path: of the file.
      num_samples: how many owners it must name.

    Returns:
      The owner's name of each sample.

    Raises:
      UsageError: the file is unreadable or of another form, or does not name one owner for each
        sample.
    """
    path = Path(path).expanduser()
    owners = tables.read(path, num_samples, what="sample", values=OWNERS)
    if len(owners) < num_samples:
        missing = next(number for number in range(num_samples) if number not in owners)
        raise UsageError(
            f"{path} must name the owner of each of the {num_samples} samples, got "
            f"{len(owners)}, and none for sample {missing}"
        )
    return [owners[number] for number in range(num_samples)]


def digest(labels: np.ndarray) -> str:
    """Sixteen hex digits that name the labels `[N]` of a set, in their order."""
    return hashlib.sha256(np.asarray(labels, "<i4").tobytes()).hexdigest()[:16]


def check_form(path: Path) -> None:
    """Refuses a name that says of no form that can be written.

    Raises:
      UsageError: it ends otherwise.
    """
    if path.suffix.lower() not in FORMS:
        raise UsageError(f"a partition file must end in {' or '.join(FORMS)}, got {str(path)!r}")


def _check_set(path: Path, about: Mapping[str, Any], labels: np.ndarray) -> None:
    """Refuses the partition of another set."""
    count = about.get("num_samples")
    if count is not None and (isinstance(count, bool) or count != len(labels)):
        raise UsageError(
            f"{path}: num_samples must be {len(labels)}, as the data have, got {count!r}"
        )
    wanted, found = about.get("labels_digest"), digest(labels)
    if wanted is not None and wanted != found:
        raise UsageError(
            f"{path}: labels_digest must be that of the data, {found}, got {wanted!r}; without it "
            "in the file labels are not compared"
        )


def _as_json(parts: Partition, labels: np.ndarray) -> str:
    def lists(pieces: Sequence[np.ndarray]) -> str:
        lines = ",\n".join(f"    {json.dumps(piece.tolist())}" for piece in pieces)
        return f"[\n{lines}\n  ]"

    train, test = partition.unpack(parts)
    about = f'  "num_samples": {len(labels)},\n  "labels_digest": "{digest(labels)}",\n'
    return f'{{\n{about}  "train": {lists(train)},\n  "test": {lists(test)}\n}}\n'


def _as_arrays(parts: Partition, labels: np.ndarray) -> dict[str, np.ndarray]:
    train, test = partition.unpack(parts)
    return {
        "num_samples": np.asarray(len(labels)),
        "labels_digest": np.asarray(digest(labels)),
        "train": np.concatenate(train),
        "train_count": parts.train_count,
        "test": np.concatenate(test),
        "test_count": parts.test_count,
    }


_Read = tuple[dict[str, Any], tuple[str, ...], list[np.ndarray], list[np.ndarray]]


def _read_json(path: Path) -> _Read:
    value = tables.parse_json(path)
    about = value if isinstance(value, dict) else {}
    if isinstance(value, dict) and {"train", "test"} <= value.keys():
        train, test = _by_name(value["train"]), _by_name(value["test"])
    else:
        clients = value.get("clients", value) if isinstance(value, dict) else value
        both = {
            name: one
            for name, one in (_by_name(clients) or {}).items()
            if name not in ("num_samples", "labels_digest")
        }
        whole = bool(both) and all(
            isinstance(one, dict) and {"train", "test"} <= one.keys() for one in both.values()
        )
        train = {name: one["train"] for name, one in both.items()} if whole else None
        test = {name: one["test"] for name, one in both.items()} if whole else None
    if train is None or test is None:
        raise UsageError(
            f"{path} must hold train and test, each a list of indices for every client, got "
            f"{_described(value)}"
        )
    if isinstance(
        about.get("train"), dict
    ):  # By name, a client without test samples may be left out.
        test = {name: [] for name in train} | test
    if train.keys() != test.keys():
        raise UsageError(
            f"{path}: train and test must hold the same clients, got {len(train)} and {len(test)}"
        )
    names = tables.ordered(train)

    def rows(part: str, name: str, value: Any) -> np.ndarray:
        wrong = value if not isinstance(value, list) else None
        for one in value if isinstance(value, list) else ():
            if type(one) is not int or abs(one) >= 2**63:
                wrong = one
                break
        if wrong is not None or not isinstance(value, list):
            raise UsageError(
                f"{path}: {part} of client {name} must be a list of integers, got {wrong!r:.100}"
            )
        return np.array(value, np.int64)

    return (
        about,
        tuple(names),
        [rows("train", name, train[name]) for name in names],
        [rows("test", name, test[name]) for name in names],
    )


def _by_name(value: Any) -> dict[str, Any] | None:
    """What each client has; None if that is no list and no object."""
    if isinstance(value, list):
        return {str(number): one for number, one in enumerate(value)}
    return value if isinstance(value, dict) else None


def _described(value: Any) -> str:
    if isinstance(value, dict):
        return f"an object with {sorted(value)[:8]}"
    return f"a {type(value).__name__}"


def _read_npz(path: Path) -> _Read:
    arrays = tables.arrays(path)
    for name in ("train", "test"):
        if name not in arrays:
            raise UsageError(f"{path} must hold train and test, got {sorted(arrays)[:8]}")
    for name, array in arrays.items():
        if name != "labels_digest" and array.dtype.kind not in "iu" and array.size:
            raise UsageError(f"{path}: {name} must be integers, got dtype {array.dtype}")
    about: dict[str, Any] = {}
    for name in ("num_samples", "labels_digest"):
        if name in arrays and arrays[name].ndim == 0:
            about[name] = arrays[name].item()
    train, test = (_cut(path, arrays, name) for name in ("train", "test"))
    if "test_client" in arrays:  # The last ones may have no test samples.
        test += [arrays["test"][:0].astype(np.int64)] * (len(train) - len(test))
    return about, tuple(map(str, range(len(train)))), train, test


def _cut(path: Path, arrays: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    """One array a client."""
    indices = arrays[name].astype(np.int64)
    count, client = arrays.get(f"{name}_count"), arrays.get(f"{name}_client")
    if client is not None:
        if indices.ndim != 1 or client.shape != indices.shape:
            raise UsageError(
                f"{path}: {name}_client must name the client of each of {name}, got shapes "
                f"{list(client.shape)} and {list(indices.shape)}"
            )
        client = client.astype(np.int64)
        numbers = np.unique(client)
        if len(numbers) and not 0 <= numbers[0] <= numbers[-1] < len(arrays["train"]):
            raise UsageError(
                f"{path}: {name}_client must count clients from 0, at most as many as training "
                f"samples, got {numbers[0]}..{numbers[-1]}"
            )
        held = partition.owned(client, int(numbers.max(initial=-1)) + 1)
        return [indices[rows] for rows in held]
    if count is None or count.ndim != 1 or indices.ndim not in (1, 2):
        raise UsageError(
            f"{path}: {name} must have shape [n] or [M, n], and {name}_count shape [M], got "
            f"{list(indices.shape)} and {None if count is None else list(count.shape)}"
        )
    most = len(indices) if indices.ndim == 1 else indices.shape[1]
    if not ((count >= 0) & (count <= most)).all():
        raise UsageError(
            f"{path}: {name}_count must be in [0, {most}], got {count.min()}..{count.max()}"
        )
    if indices.ndim == 2 and len(count) == len(indices):
        return [row[:n] for row, n in zip(indices, count.tolist(), strict=True)]
    if indices.ndim == 2 or count.sum() != len(indices):
        raise UsageError(
            f"{path}: {name}_count must cut {name} into clients, got shapes {list(count.shape)} "
            f"and {list(indices.shape)}, and a sum of {count.sum()}"
        )
    return np.split(indices, np.cumsum(count)[:-1]) if len(count) else []
