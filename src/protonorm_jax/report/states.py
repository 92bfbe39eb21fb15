"""Where runs and sweeps are, as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table


def states_table(entries: Sequence[Mapping[str, Any]]) -> Table:
    """What has become of runs, sweeps and tuned experiments, a row each.

    Args:
      entries: of each `directory`, `kind`, `status`, `rounds_done`, `rounds`, `rounds_per_second`,
        `seconds_left`, `host`, `process` and `error`; of a run `method` and `seed`, of a sweep
        `counts` by status, of a tuned experiment `tried` and `final` in their place; and where
        they are to be shown, `runs`, entries themselves.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column("directory", overflow="fold")
    table.add_column("status", no_wrap=True)
    for head in ("rounds", "rounds/s", "left"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("what")
    for entry in entries:
        table.add_row(*_cells(entry))
        for run in entry.get("runs", ()):
            table.add_row(*_cells(run))
    return table


def _cells(entry: Mapping[str, Any]) -> tuple[str, ...]:
    speed = entry["rounds_per_second"]
    return (
        entry["directory"],
        entry["status"],
        f"{entry['rounds_done']:,}/{entry['rounds']:,}",
        "" if speed is None else f"{speed:.3g}",
        "" if entry["seconds_left"] is None else duration(entry["seconds_left"]),
        "; ".join(filter(None, (_words(entry), _where(entry), entry["error"]))),
    )


def _words(entry: Mapping[str, Any]) -> str:
    """What it is, and how many of its runs are where."""
    if entry["kind"] == "run":
        return ", seed ".join(str(entry[name]) for name in ("method", "seed") if entry[name] != "")
    if entry["kind"] == "sweep":
        return f"sweep: {_counted(entry['counts'])}"
    return f"tuning: {_counted(entry['tried'])}; final runs: {_counted(entry['final'])}"


def _counted(counts: Mapping[str, int]) -> str:
    """As `12 of 40 finished, 4 running, 24 waiting`."""
    total = sum(counts.values())
    done = f"{counts.get('finished', 0)} of {total} finished"
    others = [f"{count} {status}" for status, count in counts.items() if status != "finished"]
    return ", ".join([done, *others])


def _where(entry: Mapping[str, Any]) -> str:
    return f"process {entry['process']} on {entry['host']}" if entry["host"] else ""


def duration(seconds: float) -> str:
    """A time in the two largest units that it has, as `2 h 05 min`."""
    whole = round(seconds)
    for unit, size, part, fraction in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // fraction:02d} {part}"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
