"""The command `protonorm list`: recorded runs by their settings and results."""

import argparse
import csv
import json
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from protonorm_jax import report
from protonorm_jax.command.console import Console, unfolded
from protonorm_jax.command.paths import add_directories
from protonorm_jax.errors import Caution
from protonorm_jax.running import files, records, selection, states
from protonorm_jax.running.records import Record

_EVERYTHING = "all"
_FORMATS = ("table", "json", "csv")
_RESULTS = ("accuracy_selected", "accuracy", "majority_accuracy")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command but for `--debug`."""
    add_directories(parser, "of a run, a sweep or a tuned experiment, or above some")
    parser.add_argument(
        "--where",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="only runs with this setting or result: with =, !=, and of numbers <, <=, > and >=; "
        "fedtgp.margin=100 is for runs of that method; several flags must all hold",
    )
    parser.add_argument(
        "--sort",
        metavar="NAME",
        help="by a setting or a result, runs without it last; --sort=-NAME is descending, too",
    )
    parser.add_argument("--descending", action="store_true", help="the greatest first")
    parser.add_argument(
        "--columns",
        metavar="NAMES",
        help=f"settings and results with commas, or {_EVERYTHING} (directory, method, seed, what "
        "varies, accuracies by the method's own predictor, the yardstick)",
    )
    parser.add_argument(
        "--format",
        choices=_FORMATS,
        default="table",
        metavar="{" + ",".join(_FORMATS) + "}",
        help="json and csv have all digits (table)",
    )
    parser.add_argument("--all", action="store_true", help="also runs that have not ended")


def command(parsed: argparse.Namespace) -> int:
    """Lists the runs that are asked for; returns the exit code.

    Raises:
      UsageError: a directory that cannot be read, or a name that means nothing.
    """
    conditions = [selection.parse(text) for text in parsed.where]
    by = None if parsed.sort is None else _name(parsed.sort.removeprefix("-"))
    columns = None if parsed.columns is None else [_name(one) for one in parsed.columns.split(",")]
    every = records.read(parsed.directories)
    selection.check_names(every, [one.name for one in conditions], "--where")
    selection.check_names(every, [] if by is None else [by], "--sort")
    wanted = selection.select(every, conditions)
    chosen = [one for one in wanted if parsed.all or one.status in states.ENDED]
    if by is not None:
        descending = parsed.descending or parsed.sort.startswith("-")
        chosen = selection.ordered(chosen, by, descending=descending)
    if columns == [_EVERYTHING]:
        columns = list(dict.fromkeys(name for one in chosen for name in one.flat()))
    elif columns is not None:
        selection.check_names(every, columns, "--columns")
    columns = _usual(chosen) if columns is None else columns
    rows = [{name: selection.value_of(one, name) for name in columns} for one in chosen]
    _print(rows, columns, parsed.format)
    _say_left_out([one for one in wanted if one not in chosen], parsed.format)
    return 0


def _say_left_out(left: Sequence[Record], form: str) -> None:
    """Says which runs are not listed, as they have not ended; of damaged ones in any format."""
    damaged = [one for one in left if one.status == states.DAMAGED]
    for one in damaged:
        text = f"{one.directory} is left out, as it is damaged: {one.results['error']}"
        warnings.warn(text, Caution, stacklevel=2)
    if form == "table" and len(left) > len(damaged):
        Console().say(f"{len(left) - len(damaged)} more that have not ended: --all lists them too")


def _name(text: str) -> str:
    return text.strip().replace("-", "_")


def _usual(chosen: Sequence[Record]) -> list[str]:
    """The columns where none are asked for."""
    statuses = {one.status for one in chosen} - {states.FINISHED}
    results = [name for name in _RESULTS if any(name in one.results for one in chosen)]
    return [
        *("directory", "method", "seed"),
        *(["status"] if statuses else []),
        *selection.varying(chosen),
        *results,
    ]


def _print(rows: Sequence[dict[str, Any]], columns: Sequence[str], form: str) -> None:
    if form == "table":
        unfolded().print(report.records_table(rows, columns))
    elif form == "json":
        print(json.dumps(files.finite(rows), indent=2, allow_nan=False))
    else:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_cell(row[name]) for name in columns])


def _cell(value: Any) -> Any:
    """As JSON has it; nothing where there is none."""
    return str(value).lower() if isinstance(value, bool) else value
