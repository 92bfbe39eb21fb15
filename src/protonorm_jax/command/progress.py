"""Live progress: a bar in a terminal, plain lines elsewhere."""

import contextlib
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from protonorm_jax import data, metrics
from protonorm_jax.command.console import Console
from protonorm_jax.config import Config
from protonorm_jax.planning.plan import Plan
from protonorm_jax.running.driver import Evaluation, Simulation, Step, majority_accuracy
from protonorm_jax.running.sweep import Sweep

MIB = 2**20
_SECONDS_BETWEEN_LINES = 5.0
_UNEVEN = 1.1  # Times its share that the busiest device has where that is worth a word.
_QUIET_SECONDS = 2.0  # What is read within them is read without a word.


class LoadDisplay:
    """Shows how data sets are read that take long: a context manager.

    A bar in a terminal, also among the bars of another display; elsewhere a line now and then.
    """

    def __init__(self, console: Console, among: Progress | None = None) -> None:
        self._console = console
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._progress = among or Progress(*columns, console=console, transient=True)
        self._within = contextlib.ExitStack()
        self._what, self._task = "", TaskID(-1)
        self._began = self._last_line = 0.0

    def __enter__(self) -> Self:
        self._within.enter_context(data.watched(self.show))
        if self._console.is_terminal:  # Elsewhere it would print an empty line.
            self._within.callback(self._progress.stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._within.close()

    def show(self, what: str, done: int, total: int) -> None:
        """Says how far it has come."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._began = what, now
            self._last_line = now - _SECONDS_BETWEEN_LINES
            if self._console.is_terminal:
                self._task = self._progress.add_task(what, total=total, figures="", visible=False)
        if now - self._began >= _QUIET_SECONDS:
            if self._console.is_terminal:
                self._progress.start()
                self._progress.update(self._task, completed=done, visible=True)
            elif now - self._last_line >= _SECONDS_BETWEEN_LINES:
                self._last_line = now
                self._console.print(f"{what}: {done:,}/{total:,}", highlight=False)
        if done >= total:
            self._what = ""
            if self._console.is_terminal:
                self._progress.remove_task(self._task)


class _Bar:
    """A bar over rounds in a terminal; elsewhere a line now and then. A context manager."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        self._total = total
        self._console = console or Console()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task = self._progress.add_task("compiling", total=total, figures="")
        self._loading = LoadDisplay(self._console, self._progress)
        self._last_line = -_SECONDS_BETWEEN_LINES
        # Rounds are timed from here, as those before a checkpoint were not run now.
        self._first = 0
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        self._loading.__enter__()
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loading.__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """Prints a line."""
        self._console.say(text)

    def begin(self, done: int) -> None:
        """Starts to count rounds, of which some were done in an earlier process."""
        self._first, self._began = done, time.monotonic()
        self._progress.reset(self._task, completed=done, description="rounds", figures="")

    def show(self, done: int, figures: str, *, unit: str = "rounds") -> None:
        """Says how far it has come, and how fast."""
        now = time.monotonic()
        speed = (done - self._first) / max(now - self._began, 1e-9)
        if self._console.is_terminal:
            self._progress.update(
                self._task, completed=done, figures=f"{figures}  {speed:.3g} {unit}/s"
            )
        elif done == self._total or now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = (self._total - done) / max(speed, 1e-9)
            self.say(
                f"{unit.removesuffix('s')} {done}/{self._total}  {figures}  "
                f"{speed:.3g} {unit}/s  {left:.0f} s left"
            )


class RunDisplay(_Bar):
    """Shows one run while it goes on."""

    def __init__(self, config: Config, console: Console | None = None) -> None:
        super().__init__(config.rounds, console)
        self._config = config
        self._figures = ""

    def plan(self, planned: Plan) -> None:
        """Says what the method adds to local training."""
        for line in plan_lines(planned):
            self.say(line)
        if not self._console.is_terminal:
            self.say("compiling ...")

    def start(self, simulation: Simulation, round_index: int = 0) -> None:
        """Says what was compiled, where it runs, and from which round on."""
        plan = simulation.plan
        yardstick = majority_accuracy(plan, 0)
        self.say(
            f"{self._config.method} on {self._config.data}: {len(plan.architectures)} clients "
            f"({self._config.family}), {_devices(plan)}, "
            f"compiled in {simulation.compile_seconds:.1f} s, "
            f"{simulation.bytes_per_device / MIB:,.0f} MiB each; "
            f"majority-class yardstick {'-' if yardstick is None else f'{yardstick:.3f}'}"
        )
        if round_index:
            self.say(f"going on after round {round_index}")
        self.begin(round_index)

    def add(self, step: Step) -> None:
        """Shows how far the run has come."""
        for event in step.news.values():
            if isinstance(event, Evaluation):
                accuracies = " ".join(
                    f"{name} {event.row[f'{name}_accuracy']:.3f}"
                    for name in metrics.predictors(event.row)
                    if event.row.get(f"{name}_accuracy") is not None
                )
                loss = event.row.get("loss")
                self._figures = f"accuracy: {accuracies or '-'}  loss " + (
                    "-" if loss is None else f"{loss:.4g}"
                )
        self.show(step.round_index, self._figures)


class SweepDisplay(_Bar):
    """Shows all runs of a sweep while they go on."""

    def __init__(self, configs: Sequence[Config], console: Console | None = None) -> None:
        super().__init__(sum(config.rounds for config in configs), console)
        self._num_runs = len(configs)
        self._finished = 0
        self._before = 0  # Rounds of finished runs.
        self._together = 0  # Runs that train now.

    def start(self, simulation: Simulation, round_index: int = 0) -> None:
        """Says what was compiled and where it runs."""
        plan = simulation.plan
        self.say(
            f"{len(plan.runs)} runs, {plan.runs_per_program} at a time on {_devices(plan)}, "
            f"compiled in {simulation.compile_seconds:.1f} s, "
            f"{simulation.bytes_per_device / MIB:,.0f} MiB each"
        )

    def start_call(self, num_runs: int, round_index: int) -> None:
        """So many runs train together now, from this round on."""
        self._together = num_runs
        if round_index or not self._before:
            self.begin(self._before + num_runs * round_index)

    def add(self, step: Step) -> None:
        """Shows how far the runs have come."""
        done = self._before + self._together * step.round_index
        self.show(done, f"{self._finished}/{self._num_runs} runs finished")

    def finish_call(self, num_runs: int, rounds: int) -> None:
        """So many runs are finished, now or by an earlier process."""
        self._finished += num_runs
        self._before += num_runs * rounds
        if self._console.is_terminal:
            figures = f"{self._finished}/{self._num_runs} runs finished"
            self._progress.update(self._task, completed=self._before, figures=figures)


class TuningDisplay:
    """Shows the two sweeps of a tuned experiment, one after the other."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def tuning(self, planned: Sweep) -> SweepDisplay:
        """The tuning runs begin, or go on."""
        return self._of("tuning", planned)

    def final(self, planned: Sweep) -> SweepDisplay:
        """The final runs begin, or go on."""
        return self._of("final runs", planned)

    def _of(self, name: str, planned: Sweep) -> SweepDisplay:
        self._console.say(f"{name}: {len(planned.changes)} runs")
        configs = [run.config for plan in planned.plans for run in plan.runs]
        return SweepDisplay(configs, self._console)


def plan_lines(planned: Plan) -> list[str]:
    """What a method adds to local training, and what its settings come to."""
    config, added = planned.runs[0].config, planned.added
    parts = [
        f"at most {added.floats_up:,} floats up and {added.floats_down:,} down a client and round",
        f"{added.client_bytes / MIB:,.2f} MiB more a client",
        f"{added.server_bytes / MIB:,.2f} MiB on the server",
    ]
    if added.server_steps:
        parts.append(f"at most {added.server_steps:,} steps of the server a round")
    needed, imbalance = planned.memory, planned.efficiency.imbalance
    sharing, uneven = planned.spread.client_devices, []
    few = min(run.config.participation for run in planned.runs) < 1
    if sharing > 1 and few and imbalance >= _UNEVEN:
        uneven.append(
            f"those who train fall unevenly on {sharing} devices: the busiest is expected to have "
            f"{imbalance:.2f} times its share of a round"
        )
    return [
        *planned.runs[0].notes,
        f"{config.method} adds {', '.join(parts) if any(added) else 'nothing'}",
        *planned.notes,
        *uneven,
        f"expected memory of a device: {needed.total() / MIB:,.0f} MiB",
    ]


def _devices(plan: Plan) -> str:
    count = len(plan.devices)
    return f"{count} {plan.devices[0].platform} device{'s'[: count > 1]}"
