"""Writes a trace of a few rounds that can be opened in a browser, and says where the time went.

    make profile
    python -m experiments.bench.profile --family resnet8 --num-clients 4 --rounds 1 --devices 2

Trains on random 32 x 32 images, 128 to train on and 64 to test on for each client, with the
settings of `make bench`. Compilation and a first round are not in the trace. The table counts the
time of an operation without that of the operations within it (a loop has little of its own), adds
up all threads or streams, and puts operations together whose names differ only in their number. An
operation that waits for another device, as `all-gather` does, counts its waiting.
"""

import argparse
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console
from rich.table import Table

from experiments.bench import harness
from protonorm_jax.planning import devices

OUT = Path("bench/profile")


class Total(NamedTuple):
    """What all operations of one kind took.

    Attributes:
      kind: their name without its number.
      calls: how many ran.
      milliseconds: of their own, together.
    """

    kind: str
    calls: int
    milliseconds: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parsed = _parser().parse_args(arguments)
    devices.prepare_cpu(parsed.devices)
    devices.cache_programs()
    console = Console(width=None if Console().is_terminal else 100, highlight=False)
    console.print(f"compiling {parsed.family} for {parsed.num_clients} clients ...")
    folder, seconds = record(
        parsed.family, parsed.num_clients, parsed.rounds, parsed.devices, parsed.out
    )
    totals = read(folder)
    title = f"{parsed.rounds} rounds, {parsed.devices} devices, {seconds:.2f} s with tracing"
    console.print(table(totals[: parsed.most], sum(total.milliseconds for total in totals), title))
    console.print(
        f"trace: {folder / 'perfetto_trace.json.gz'}\n"
        "  drop it on https://ui.perfetto.dev, which keeps it in the browser;\n"
        f"  or: pip install xprof && xprof --logdir {parsed.out}",
        soft_wrap=True,
    )


def record(
    family: str, num_clients: int, num_rounds: int, num_devices: int, out: Path
) -> tuple[Path, float]:
    """Compiles a simulation, runs a round, and records the rounds that follow.

    Args:
      family: of models.
      num_clients: how many clients.
      num_rounds: to record.
      num_devices: to use.
      out: for traces; each has a folder of its own in it.

    Returns:
      The folder of the trace, and the seconds that the recorded rounds took.
    """
    running = harness.Running(harness.compiled(harness.paper(family, num_clients, num_devices)))
    running.advance()
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # Python has nothing to do in a round.
    with jax.profiler.trace(out, create_perfetto_trace=True, profiler_options=options):
        start = time.perf_counter()
        running.advance(num_rounds)
        seconds = time.perf_counter() - start
    folders = (out / "plugins" / "profile").iterdir()
    return max(folders, key=lambda folder: folder.stat().st_mtime), seconds


def read(folder: Path) -> list[Total]:
    """The totals of all kinds of operations in a trace, the longest first."""
    calls: dict[str, int] = {}
    nanoseconds: dict[str, float] = {}
    for file in folder.glob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            for line in plane.lines:
                events = [
                    (event.start_ns, event.duration_ns, event.name)
                    for event in line.events
                    if any(name == "hlo_op" for name, _ in event.stats)
                ]
                for name, own in own_times(events):
                    kind = re.sub(r"(\.(\d+|clone|remat\d*))+$", "", name)
                    calls[kind] = calls.get(kind, 0) + 1
                    nanoseconds[kind] = nanoseconds.get(kind, 0.0) + own
    totals = [Total(kind, calls[kind], nanoseconds[kind] / 1e6) for kind in calls]
    return sorted(totals, key=lambda total: -total.milliseconds)


def own_times(events: Iterable[tuple[float, float, str]]) -> list[tuple[str, float]]:
    """Names and durations of the events of one thread, less what other events within them took.

    Args:
      events: start, duration and name; any two are apart or one within the other.
    """
    names: list[str] = []
    own: list[float] = []
    open_events: list[tuple[int, float]] = []  # Index and end, outermost first.
    for start, duration, name in sorted(events, key=lambda event: (event[0], -event[1])):
        while open_events and open_events[-1][1] <= start:
            open_events.pop()
        if open_events:
            own[open_events[-1][0]] -= duration
        open_events.append((len(names), start + duration))
        names.append(name)
        own.append(duration)
    return list(zip(names, own, strict=True))


def table(totals: Sequence[Total], all_milliseconds: float, title: str) -> Table:
    """What to print of `read`.

    Args:
      totals: those to show.
      all_milliseconds: of all kinds together.
      title: of the table.
    """
    result = Table(title=title)
    result.add_column("operations", overflow="fold")
    for column in ("ms", "%", "calls", "us a call"):
        result.add_column(column, justify="right")
    for total in totals:
        result.add_row(
            total.kind,
            f"{total.milliseconds:.1f}",
            f"{100 * total.milliseconds / all_milliseconds:.1f}",
            str(total.calls),
            f"{1e3 * total.milliseconds / total.calls:.1f}",
        )
    result.caption = f"all operations: {all_milliseconds:.1f} ms"
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench.profile", description="Traces a few rounds."
    )

    def add(flag: str, default: Any, text: str) -> None:
        parser.add_argument(
            flag, type=type(default), default=default, help=f"{text} (default {default})"
        )

    add("--family", "ht0", "ht0, tiny, or model names with commas")
    add("--num-clients", 4, "number of clients")
    add("--rounds", 1, "rounds to record")
    add("--devices", 1, "devices to use")
    add("--most", 15, "kinds of operations to show")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder for traces (default {OUT})")
    return parser


if __name__ == "__main__":
    main()
