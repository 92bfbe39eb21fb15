"""The one way in which figures are printed."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

_UNITS = {"K": 2**10, "M": 2**20}


def table(title: str, columns: str, rows: Iterable[Sequence[Any]], caption: str = "") -> Table:
    """A table in which numbers stand to the right and words to the left.

    Args:
      title: above it.
      columns: `name` or `name:format` of each, with ` | ` between them; a format as in f-strings,
        such as `.1f`, and `K` or `M` after it to print bytes as KiB or MiB.
      rows: of as many values; None shows as `-`. An empty row draws a line.
      caption: below it.
    """
    result = Table(title=title, caption=caption or None)
    specs = [column.partition(":")[::2] for column in columns.split(" | ")]
    lines = [
        [_cell(value, form) for value, (_, form) in zip(row, specs, strict=True)] if row else []
        for row in rows
    ]
    for index, (name, _) in enumerate(specs):
        words = any(line[index][:1].isalpha() for line in lines if line)
        whole = words and not any(" " in line[index] for line in lines if line)
        result.add_column(name, justify="left" if words else "right", no_wrap=whole)
    for line in lines:
        result.add_row(*line) if line else result.add_section()
    return result


def values(row: Any, names: str) -> list[Any]:
    """The entries of those names in nested dicts; `a.b` is `row["a"]["b"]`, None if `a` is."""
    return [
        functools.reduce(lambda value, key: value and value[key], name.split("."), row)
        for name in names.split()
    ]


def _cell(value: Any, form: str) -> str:
    if value is None:
        return "-"
    if form[-1:] in _UNITS:
        value, form = value / _UNITS[form[-1]], form[:-1]
    return format(value, form)
