"""The command `protonorm sweep`: many federations, and tuned experiments."""

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from protonorm_jax import report
from protonorm_jax.command import asked as asking
from protonorm_jax.command import flags, outputs, progress, start, tuned
from protonorm_jax.planning import devices, samples
from protonorm_jax.running import (
    lock,
    logs,
    reading,
    shards,
    stopping,
    sweep,
    sweep_plan,
    tuning,
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command but for `--debug`."""
    flags.add_sweep(parser)
    flags.add_training(parser)


def command(parsed: argparse.Namespace) -> int:
    """Trains the runs of a sweep or of a tuned experiment; returns the exit code.

    Raises:
      UsageError: settings, a grid or a directory that cannot be used.
    """
    asked = asking.read(parsed)
    if asked.shard:
        return _share(parsed, asked, asked.shard)
    if asked.budget:
        return _tune(parsed, asked)
    directory = Path(parsed.out or outputs.default_directory(asked.base, "sweep"))
    check = outputs.check_of(parsed, directory)
    start.start_up(parsed, asked.base.devices)

    def planned() -> sweep.Sweep:
        return _plan(asked)

    return _plan_and_train(parsed, directory, check, planned, train)


def _plan(asked: asking.Asked, sets: samples.DataSets | None = None) -> sweep.Sweep:
    """Plans a sweep, and shows the plan."""
    out = start.console()
    with progress.LoadDisplay(out):
        result = asking.plan_sweep(asked, sets=sets)
    out.print(report.plan_table(sweep_plan.description(result)))
    for note in sweep_plan.notes(result):
        out.say(note)
    return result


def _plan_and_train(
    parsed: argparse.Namespace,
    directory: Path,
    check: Callable[[Path], None],
    planned: Callable[[], Any],
    train: Callable[..., int],
) -> int:
    """Plans what is shown, and unless that is all that is wanted, trains it in its directory."""
    if parsed.dry_run:
        planned()
        return 0
    with (
        stopping.StopRequest(parsed.time_limit),
        lock.holding(directory, fresh=not parsed.out, check=check) as directory,
    ):
        return train(planned(), directory, resumed=False, log=parsed.log)


def train(
    planned: sweep.Sweep, directory: Path, *, resumed: bool, log: Sequence[str] | None
) -> int:
    """Trains a sweep that is planned, and shows its results; returns the exit code."""
    configs = [run.config for plan in planned.plans for run in plan.runs]
    with progress.SweepDisplay(configs, start.console()) as display:
        rows = sweep.train(planned, directory, display=display, resumed=resumed, log=log)
    out = start.console()
    out.print(report.sweep_table(rows, reading.swept(planned.changes)))
    if len(rows) < len(configs):
        out.say(
            f"stopped with {len(rows)} of {len(configs)} runs finished; "
            f"protonorm resume {directory} goes on"
        )
        return stopping.EXIT_CODE
    out.say(f"Results are in {directory}")
    return 0


def _share(parsed: argparse.Namespace, asked: asking.Asked, shard: shards.Shard) -> int:
    """A sweep with --shard."""
    directory, out = Path(parsed.out), start.console()
    start.start_up(parsed, asked.base.devices)
    with stopping.StopRequest(parsed.time_limit):
        sets = samples.DataSets()
        planned = _plan(asked, sets)
        if parsed.dry_run:
            return 0
        with progress.SweepDisplay(shards.configs(planned, shard), out) as display:
            found = shards.train(
                *(planned, directory, shard), display=display, dataset=sets, log=parsed.log
            )
    total, own = len(planned.changes), len(found.own)
    if len(found.rows) == total:
        out.print(report.sweep_table(found.rows, reading.swept(planned.changes)))
    if not found.own:
        out.say(f"there is nothing for job {shard}: more jobs than calls of programs")
    out.say(
        f"job {shard}: {own - found.missing()} of its {own} runs are finished; of all, "
        f"{len(found.rows)} of {total} are in {directory}"
    )
    if found.missing():
        out.say("stopped; the same command goes on")
        return stopping.EXIT_CODE
    return 0


def _tune(parsed: argparse.Namespace, asked: asking.Asked) -> int:
    """A sweep with --tune."""
    directory = Path(parsed.out or outputs.default_directory(asked.base, "tuned"))
    check = functools.partial(tuning.check_free, overwrite=parsed.overwrite)
    if parsed.out:
        check(directory)
        logs.check(directory, parsed.log or ())
    start.start_up(parsed, asked.base.devices)

    def planned() -> tuning.Experiment:
        out = start.console()
        with progress.LoadDisplay(out):
            result = asking.plan_tuned(asked)
        assert result.tuning is not None
        out.print(report.trials_table(result.description))
        for name, one in (("tuning", result.tuning), ("final runs", result.final)):
            out.print(report.plan_table(sweep_plan.description(one), name))
        for note in sweep_plan.notes(result.tuning):
            out.say(note)
        return result

    return _plan_and_train(parsed, directory, check, planned, train_tuned)


def train_tuned(
    planned: tuning.Experiment, directory: Path, *, resumed: bool, log: Sequence[str] | None
) -> int:
    """As `train`, of a tuned experiment."""
    out = start.console()
    display = progress.TuningDisplay(out)
    found = tuning.train(planned, directory, display=display, resumed=resumed, log=log)
    if devices.is_first():
        tuned.show(out, found.choices, found.rows, reading.swept(planned.final.changes))
    if found.missing:
        out.say(f"stopped with {found.missing} runs to do; protonorm resume {directory} goes on")
        return stopping.EXIT_CODE
    out.say(f"Results are in {directory}")
    return 0
