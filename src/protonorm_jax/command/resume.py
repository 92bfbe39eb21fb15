"""The command `protonorm resume`: on from where a run or sweep was stopped or killed."""

import argparse
from pathlib import Path

from protonorm_jax.command import flags, progress, run, start, values
from protonorm_jax.command import sweep as sweeping
from protonorm_jax.errors import UsageError
from protonorm_jax.running import directory as places
from protonorm_jax.running import job, lock, stopping, sweep, tuning


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command but for `--debug`."""
    parser.add_argument(
        "--rounds",
        type=values.natural,
        metavar="INT",
        help="rounds in all, for a run that is to be longer than it was made for; without its "
        "state (--keep-state) it is run again from the start (as recorded)",
    )
    flags.add_time_limit(parser)
    flags.add_log(parser, "as recorded")
    flags.add_directory(parser)


def command(parsed: argparse.Namespace) -> int:
    """Goes on with a run, a sweep or a tuned experiment; returns the exit code.

    Raises:
      UsageError: there is nothing to go on with, or it cannot be.
    """
    directory = Path(parsed.directory)
    start.start_up(parsed, parsed.devices)
    if parsed.rounds is None and job.is_done(directory):
        return _say_done(directory)
    with (
        stopping.StopRequest(parsed.time_limit),
        lock.holding(directory, create=False, check=job.recover),
    ):
        tuned = (directory / places.TUNING).exists()
        if tuned or (directory / places.SWEEP).exists():
            if parsed.rounds is not None:
                raise UsageError(f"--rounds must be left out for a sweep, got {parsed.rounds}")
            if tuned:
                with progress.LoadDisplay(start.console()):
                    experiment = tuning.resume(directory, num_devices=parsed.devices)
                return sweeping.train_tuned(experiment, directory, resumed=True, log=parsed.log)
            with progress.LoadDisplay(start.console()):
                planned = sweep.resume(directory, num_devices=parsed.devices)
            return sweeping.train(planned, directory, resumed=True, log=parsed.log)
        chosen = job.settings_to_resume(directory, parsed.devices, parsed.rounds)
        given = {"num_devices": parsed.devices, "log": parsed.log}
        display = progress.RunDisplay(chosen, start.console())
        if parsed.rounds is None and job.is_done(directory, leftovers=True):
            job.resume(directory, display=display)
            return _say_done(directory)
        with display:
            if parsed.rounds is None:
                summary = job.resume(directory, display=display, **given)
            else:
                summary = job.extend(
                    directory, parsed.rounds, display=display, say=display.say, **given
                )
        return run.end(summary, directory)


def _say_done(directory: Path) -> int:
    start.console().say(f"{directory} holds a finished run; nothing is left to do")
    return 0
