"""The command `protonorm verify`: a recorded run or sweep, run again and compared."""

import argparse
import itertools
from pathlib import Path

from protonorm_jax import report
from protonorm_jax.command import flags, progress, start
from protonorm_jax.running import directory as places
from protonorm_jax.running import job, verify, verify_sweeps

_BITS = "reproduced bit by bit"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command but for `--debug`."""
    flags.add_directory(parser)


def command(parsed: argparse.Namespace) -> int:
    """Runs what was recorded again and compares; returns 0 if it is the same, else 1.

    Raises:
      UsageError: what was recorded cannot be read or run again.
    """
    start.start_up(parsed, parsed.devices)
    directory = Path(parsed.directory)
    out, given = start.console(), {"num_devices": parsed.devices}
    found: verify.Verification | verify_sweeps.Sweep | verify_sweeps.Experiment
    if (directory / places.TUNING).exists():
        found = verify_sweeps.experiment(directory, show=progress.TuningDisplay(out), **given)
        for part in (found.tuning, found.final):
            _say_verified(part)
        for text in found.problems:
            out.say(f"DIFFERENT: {text}")
    elif (directory / places.SWEEP).exists():
        found = verify_sweeps.sweep(directory, show=progress.TuningDisplay(out).final, **given)
        _say_verified(found)
    else:
        chosen = job.settings_of(directory, parsed.devices)
        with progress.RunDisplay(chosen, out) as display:
            found = verify.run(directory, display=display, **given)
        for line in report.verification_lines(found.rounds, found.files, found.changes):
            out.say(line)
    out.say(f"{directory}: {_verdict(found)}")
    return 0 if found.reproduced else 1


def _say_verified(found: verify_sweeps.Sweep) -> None:
    """Says which runs of a sweep were reproduced, and what differs in the others."""
    out = start.console()
    if found.reason:
        out.say(f"{found.directory}: {_verdict(found)}")
    for verdict, several in itertools.groupby(found.runs, key=_verdict):
        group = list(several)
        which = f"{group[0].directory.name} to {group[-1].directory.name}"
        name = which if len(group) > 1 else group[0].directory.name
        out.say(f"{found.directory / places.RUNS}: {name}: {verdict}")
        for one in group if verdict != _BITS else ():
            lines = report.verification_lines(one.rounds, one.files, one.changes)
            for line in lines:
                out.say(f"  {one.directory.name}: {line}")


def _verdict(found: verify.Verification | verify_sweeps.Sweep | verify_sweeps.Experiment) -> str:
    if found.identical:
        return _BITS
    if found.reproduced:
        return "reproduced within tolerance"
    reason = getattr(found, "reason", "")
    return f"NOT reproduced{f': {reason}' if reason else ''}"
