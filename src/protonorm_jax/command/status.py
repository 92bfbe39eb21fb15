"""The command `protonorm status`: where runs, sweeps and tuned experiments are."""

import argparse
import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

from protonorm_jax import report
from protonorm_jax.command import values
from protonorm_jax.command.console import Console, unfolded
from protonorm_jax.command.paths import add_directories
from protonorm_jax.running import files, holders, states

_SECONDS_BETWEEN = 2.0
_SECONDS_A_LOOK = 0.25


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command but for `--debug`."""
    add_directories(parser, "of a run, a sweep or a tuned experiment, or above some")
    parser.add_argument("--runs", action="store_true", help="show each run of sweeps too")
    parser.add_argument(
        "--watch",
        type=values.seconds,
        nargs="?",
        const=_SECONDS_BETWEEN,
        metavar="SECONDS",
        help=f"look again every so many seconds ({_SECONDS_BETWEEN:g}) until all runs have ended",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object alone, with every run; with --watch one a line",
    )


def command(parsed: argparse.Namespace) -> int:
    """Says what has become of everything in the directories; returns the exit code.

    Raises:
      UsageError: a directory that there is not, or that has nothing of ours.
    """
    pulse = holders.Pulse()
    if parsed.watch is None:
        entries = states.read(parsed.directories, pulse)
        while not pulse.is_certain():  # A process of another host is at work, or was.
            time.sleep(_SECONDS_A_LOOK)
            entries = states.read(parsed.directories, pulse)
        _show(entries, unfolded(), parsed)
        return 0
    looks = _looks(parsed.directories, pulse, parsed.watch)
    with contextlib.suppress(KeyboardInterrupt):  # That is how one stops to watch.
        _watch(looks, parsed)
    return 0


def _looks(
    directories: Sequence[str], pulse: holders.Pulse, seconds: float
) -> Iterator[list[states.Entry]]:
    """What there is to see, again and again until all runs have ended."""
    while True:
        entries = states.read(directories, pulse)
        yield entries
        if all(run.status in states.ENDED for entry in entries for run in entry.runs):
            return
        time.sleep(seconds)


def _watch(looks: Iterator[list[states.Entry]], parsed: argparse.Namespace) -> None:
    """Shows each look in the place of the one before; one below the other but in a terminal."""
    console = unfolded()
    if parsed.json or not console.is_terminal:
        for entries in looks:
            _show(entries, console, parsed)
        return
    from rich.live import Live

    with Live(console=console, auto_refresh=False) as live:
        for entries in looks:
            live.update(report.states_table(_described(entries, parsed.runs)), refresh=True)


def _show(entries: Sequence[states.Entry], console: Console, parsed: argparse.Namespace) -> None:
    if parsed.json:
        found = {"entries": _described(entries, runs=True)}
        print(json.dumps(files.finite(found), allow_nan=False), flush=True)
    else:
        console.print(report.states_table(_described(entries, parsed.runs)))


def _described(entries: Sequence[states.Entry], runs: bool) -> list[dict[str, Any]]:
    """JSON-ready, as `report.states_table` takes it."""
    return [_entry(one, runs) for one in entries]


def _entry(entry: states.Entry, runs: bool) -> dict[str, Any]:
    if entry.kind == "run":
        return _run(entry.runs[0])
    result = {
        "directory": str(entry.directory),
        "kind": entry.kind,
        "status": entry.status,
        "rounds_done": sum(run.done for run in entry.runs),
        "rounds": sum(run.rounds for run in entry.runs),
        "rounds_per_second": entry.speed,
        "seconds_left": entry.seconds_left,
        **_holder(entry.holder),
        "error": entry.error,
        "counts": states.counts(entry.runs),
    }
    if entry.kind == "tuned":
        result["tried"] = states.counts(entry.runs[: entry.num_tried])
        result["final"] = states.counts(entry.runs[entry.num_tried :])
    return result | ({"runs": [_run(run) for run in entry.runs]} if runs else {})


def _run(run: states.Run) -> dict[str, Any]:
    return {
        "directory": str(run.directory),
        "kind": "run",
        "status": run.status,
        "method": run.method,
        "seed": run.seed,
        "rounds_done": run.done,
        "rounds": run.rounds,
        "rounds_per_second": run.speed,
        "seconds_left": run.seconds_left,
        **_holder(run.holder),
        "error": run.error,
    }


def _holder(holder: holders.Holder | None) -> dict[str, Any]:
    if holder is None:
        return {"host": None, "process": None, "since": None}
    return {"host": holder.place.host, "process": holder.process, "since": holder.since}
