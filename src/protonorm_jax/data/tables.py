"""Small tables that users write, with one value for each number: CSV, text, JSON or numpy."""

import csv
import io
import json
import re
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from protonorm_jax.data import checks
from protonorm_jax.errors import UsageError

MOST_BYTES = 64
"""Bytes that a file may have for each sample or class, beyond `FREE_BYTES`."""

FREE_BYTES = 2**20
"""Bytes that a file may have in any case."""

_NUMBERS = ("", "index", "idx", "id", "number", "no", "row", "sample", "sample_id")


def check_size(path: Path, count: int) -> None:
    """Refuses a file that is far longer than what it should hold, before it is read.

    Args:
      path: of the file.
      count: how many samples or classes it speaks of.

    Raises:
      UsageError: it is too long, or no file.
    """
    with checks.reading(path):
        if not path.is_file():
            found = "something else" if path.exists() else "no such file"
            raise UsageError(f"{path} must be a file, got {found}")
        size, most = path.stat().st_size, FREE_BYTES + MOST_BYTES * count
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = max(size, sum(member.file_size for member in archive.infolist()))
    if size > most:
        raise UsageError(
            f"{path} must have at most {most} bytes, unpacked, for {count} numbers, got {size}"
        )


def read(
    path: Path, count: int, *, what: str, numbers: Sequence[str] = (), values: Sequence[str]
) -> dict[int, str]:
    """Reads a value for each of some numbers.

    A CSV or text file (commas, semicolons or tabs, UTF-8, with or without a first line of names)
    has one column with the values in order, or two with number and value, in any order; of more
    columns those are taken that are named so. A JSON file has a list of values in order, or an
    object of values by number; a `.npy` or `.npz` file one array of values in order.

    Args:
      path: of the file.
      count: numbers are from 0 to one less.
      what: what a number stands for, in messages.
      numbers: names of the column with the numbers, beside the usual ones.
      values: names of the column with the values.

    Returns:
      The values by number, as text.

    Raises:
      UsageError: the file is unreadable, holds something else, a number that is out of range or
        there twice, or an empty value.
    """
    check_size(path, count)
    with checks.reading(path):
        if path.suffix.lower() in (".npy", ".npz"):
            pairs = list(enumerate(_array(path, values)))
        elif path.suffix.lower() == ".json":
            pairs = _json_pairs(path)
        else:
            rows = _rows(path)
            pairs = _pairs(path, rows, count, (*_NUMBERS, *numbers), values)
    result: dict[int, str] = {}
    for number, value in pairs:
        index = _index(number)
        if index is None or not 0 <= index < count:
            raise UsageError(f"{path}: {what} must be in [0, {count}), got {number!r}")
        if index in result:
            raise UsageError(f"{path}: {what} must be there once, got {index} twice")
        if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).strip():
            raise UsageError(
                f"{path}: the value of {what} {index} must be a name or an integer, got {value!r}"
            )
        result[index] = str(value).strip()
    return result


def natural(name: str) -> list[Any]:
    """The key by which names are sorted as people do: `client_2` before `client_10`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def ordered(names: Collection[str]) -> list[str]:
    """Names without repetition, as people sort them."""
    return sorted(set(names), key=lambda name: (natural(name), name))


def parse_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
      ValueError: it is no JSON, or an object in it has a name twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the name {twice!r} twice in an object")
        return dict(pairs)

    return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=once)


def arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a numpy file by name; one without a name is called `array`."""
    with open(path, "rb") as file:  # numpy leaves a path that it cannot read open.
        loaded = np.load(file, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            return {"array": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}


def _array(path: Path, values: Sequence[str]) -> list[Any]:
    found = arrays(path)
    named = [name for name in values if name in found] or list(found)
    if len(named) != 1:
        raise UsageError(
            f"{path} must hold one array, or one called {values[0]}, got {sorted(found)[:8]}"
        )
    array = found[named[0]]
    if array.ndim != 1 or array.dtype.kind not in "iuU":
        raise UsageError(
            f"{path}: {named[0]} must be [N] integers or text, got {array.dtype} of shape "
            f"{list(array.shape)}"
        )
    return array.tolist()


def _json_pairs(path: Path) -> list[tuple[Any, Any]]:
    value = parse_json(path)
    if isinstance(value, list):
        return list(enumerate(value))
    if isinstance(value, dict):
        return list(value.items())
    raise UsageError(f"{path} must hold a list or an object, got {type(value).__name__}")


def _rows(path: Path) -> list[list[str]]:
    """The cells of all lines that are not empty."""
    text = path.read_text(encoding="utf-8-sig")
    first = text.partition("\n")[0]
    delimiter = next((one for one in "\t;" if one in first and "," not in first), ",")
    lines = csv.reader(io.StringIO(text), delimiter=delimiter)
    rows = [[cell.strip() for cell in row] for row in lines if any(cell.strip() for cell in row)]
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise UsageError(
                f"{path} must have equally many columns in all lines, got {len(rows[0])} in the "
                f"first and {len(row)} in line {number + 1}"
            )
    return rows


def _pairs(
    path: Path, rows: list[list[str]], count: int, numbers: Sequence[str], values: Sequence[str]
) -> list[tuple[Any, Any]]:
    """Numbers and values of a table."""
    if not rows:
        raise UsageError(f"{path} must hold a line for each number, got none")
    if len(rows[0]) == 1:
        named = len(rows) == count + 1
        return list(enumerate(row[0] for row in rows[named:]))
    names: list[str] = []
    if all(_index(cell) is None for cell in rows[0]):
        names = [cell.lower() for cell in rows[0]]
        rows = rows[1:]
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    index = next((place for place, name in enumerate(names) if name in numbers), None)
    if index is None and (len(columns) == 2 or not names):
        index = next((place for place, column in enumerate(columns) if _are_numbers(column)), None)
    rest = [place for place in range(len(columns)) if place != index]
    chosen = [place for place in rest if names and names[place] in values]
    if len(chosen) != 1 and index is not None and len(rest) == 1:
        chosen = rest
    if len(chosen) != 1:
        raise UsageError(
            f"{path} must hold one column, a number and a value, or a column called "
            f"{' or '.join(values[:3])}, got {len(columns)} columns"
            f"{': ' + ', '.join(names[:8]) if names else ''}"
        )
    found = columns[chosen[0]]
    return list(zip(range(len(found)) if index is None else columns[index], found, strict=True))


def _are_numbers(column: Sequence[str]) -> bool:
    return len(set(column)) == len(column) and all(_index(cell) is not None for cell in column)


def _index(cell: Any) -> int | None:
    if isinstance(cell, int) and not isinstance(cell, bool):
        return cell
    return int(cell) if isinstance(cell, str) and cell.isdecimal() and len(cell) < 19 else None
