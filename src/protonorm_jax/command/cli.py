"""The command line: `protonorm run`, `sweep`, `resume`, `verify` and the others."""

import argparse
import functools
import inspect
import itertools
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from protonorm_jax import config, methods, report, settings
from protonorm_jax.command import asked as asking
from protonorm_jax.command import compile as compiling
from protonorm_jax.command import (
    console,
    export,
    flags,
    interruption,
    partition,
    progress,
    start,
    thomson,
)
from protonorm_jax.command import report as pages
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import devices, plan, targets
from protonorm_jax.running import directory as places
from protonorm_jax.running import (
    job,
    lock,
    logs,
    reading,
    record,
    sweep,
    tuning,
    verify,
    verify_sweeps,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0, 2 for a mistake of the user, or 1.

    A reader of the output that leaves ends the output alone: the exit code is as if it had stayed.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    with console.lenient() as output:
        code = _exit_code(given)
        output.flush()
        if output.error is not None:
            code = code or _complain(f"standard output must be writable, got {output.error}", 2)
    if code and jax.distributed.is_initialized():
        # An ordinary exit would wait for the other processes, and they for this one.
        sys.stdout.flush()
        os._exit(code)
    return code


def _exit_code(arguments: Sequence[str]) -> int:
    """Runs the command; mistakes, bugs and Ctrl-C become one line and a code."""
    debug = "--debug" in arguments
    targets.leave_out_absent()
    try:
        with interruption.certain():
            parsed = flags.parse(COMMANDS, arguments)
            return parsed.command(parsed)
    except UsageError as error:
        if debug:
            raise
        return _complain(str(error), 2)
    except OSError as error:
        if debug:
            raise
        path = (
            f"{str(error.filename)!r} must be a path that can be used"
            if error.filename
            else ("files must be readable and writable")
        )
        return _complain(f"{path}, got {error.strerror or _first_line(error)}", 2)
    except KeyboardInterrupt:
        _complain("interrupted", 130)
        # An ordinary exit would wait for the rounds that are still under way on the devices.
        sys.stdout.flush()
        os._exit(130)
    except Exception as error:
        if debug:
            raise
        if "RESOURCE_EXHAUSTED" in str(error) or isinstance(error, MemoryError):
            return _complain(f"memory must be enough, got {_first_line(error)}", 2)
        return _complain(f"{_first_line(error)} (a bug; --debug shows where)", 1)


def _run(parsed: argparse.Namespace) -> int:
    chosen = flags.chosen(parsed)
    directory = Path(parsed.out or _default_directory(chosen))
    check = _check_of(parsed, directory)
    start.start_up(parsed, chosen.devices)
    if parsed.dry_run:
        with progress.LoadDisplay(start.console()):
            planned = plan.make([chosen])
        for line in progress.plan_lines(planned):
            start.console().say(line)
        return 0
    with lock.holding(directory, fresh=not parsed.out, check=check) as directory:
        with progress.RunDisplay(chosen, start.console()) as display:
            summary = job.run(
                *(chosen, directory),
                display=display,
                overwrite=parsed.overwrite,
                log=parsed.log or (),
            )
        return _end(summary, directory)


def _check_of(parsed: argparse.Namespace, directory: Path) -> Callable[[Path], None]:
    """What a directory for results is asked once it is locked; the one given is asked at once."""
    check = functools.partial(record.check_free, overwrite=parsed.overwrite)
    if parsed.out:
        check(directory)
        logs.check(directory, parsed.log or ())
    return check


def _sweep(parsed: argparse.Namespace) -> int:
    asked = asking.read(parsed)
    if asked.budget:
        return _tune(parsed, asked)
    directory = Path(parsed.out or _default_directory(asked.base, "sweep"))
    check = _check_of(parsed, directory)
    start.start_up(parsed, asked.base.devices)

    def planned() -> sweep.Sweep:
        with progress.LoadDisplay(start.console()):
            result = asking.plan_sweep(asked)
        start.console().print(report.plan_table(sweep.description(result)))
        for note in sweep.notes(result):
            start.console().say(note)
        return result

    return _plan_and_train(parsed, directory, check, planned, _train_sweep)


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
        lock.holding(directory, fresh=not parsed.out, check=check) as directory,
        job.StopRequest(),
    ):
        return train(planned(), directory, resumed=False, log=parsed.log)


def _train_sweep(
    planned: sweep.Sweep, directory: Path, *, resumed: bool, log: Sequence[str] | None
) -> int:
    configs = [run.config for plan in planned.plans for run in plan.runs]
    with progress.SweepDisplay(configs, start.console()) as display:
        rows = sweep.train(planned, directory, display=display, resumed=resumed, log=log)
    out = start.console()
    out.print(report.sweep_table(rows, sweep.swept(planned.changes)))
    if len(rows) < len(configs):
        out.say(
            f"stopped with {len(rows)} of {len(configs)} runs finished; "
            f"protonorm resume {directory} goes on"
        )
    else:
        out.say(f"Results are in {directory}")
    return 0


def _tune(parsed: argparse.Namespace, asked: asking.Asked) -> int:
    """A sweep with --tune."""
    directory = Path(parsed.out or _default_directory(asked.base, "tuned"))
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
            out.print(report.plan_table(sweep.description(one), name))
        for note in sweep.notes(result.tuning):
            out.say(note)
        return result

    return _plan_and_train(parsed, directory, check, planned, _train_tuned)


def _train_tuned(
    planned: tuning.Experiment, directory: Path, *, resumed: bool, log: Sequence[str] | None
) -> int:
    out = start.console()
    display = progress.TuningDisplay(out)
    found = tuning.train(planned, directory, display=display, resumed=resumed, log=log)
    if devices.is_first():
        _show_tuned(found.choices, found.rows, sweep.swept(planned.final.changes))
    if found.missing:
        out.say(f"stopped with {found.missing} runs to do; protonorm resume {directory} goes on")
    else:
        out.say(f"Results are in {directory}")
    return 0


def _show_tuned(
    choices: list[dict[str, Any]] | None, rows: list[dict[str, Any]], names: list[str]
) -> None:
    """Prints what was chosen, and the results, as far as there are any."""
    out = start.console()
    if choices:
        out.print(report.choices_table(choices))
    if rows:
        # What was chosen is in the other table.
        tuned = {name for one in choices or () for name in one["point"]}
        out.print(report.sweep_table(rows, [name for name in names if name not in tuned]))


def _methods(parsed: argparse.Namespace) -> int:
    out = start.console()
    table = methods.METHODS
    if parsed.name is None:
        rows = [
            {"name": name, "up": row.up, "down": row.down, "source": row.source}
            | {"settings": list(settings.fields(row.settings))}
            for name, row in table.items()
        ]
        out.print(report.methods_table(rows))
        out.say("protonorm methods NAME shows one with its settings")
        return 0
    if parsed.name not in table:
        hint = settings.hint(parsed.name, table)
        raise UsageError(f"NAME must be one of {', '.join(table)}, got {parsed.name!r}{hint}")
    row = table[parsed.name]
    text = inspect.getdoc(row.factory) or "(its factory has no docstring)"
    out.print(f"{parsed.name}: {text}\n")
    for name, words in (("up", row.up), ("down", row.down), ("source", row.source)):
        if words:
            out.print(f"{name:<8}{words}")
    own = settings.fields(row.settings)
    if own:
        out.print(report.settings_table([_described(row.settings, name) for name in own]))
    else:
        out.say("It has no settings.")
    return 0


def _described(group: Any, name: str) -> dict[str, Any]:
    """What there is to say of a setting."""
    field = settings.fields(group)[name]
    rule = field.metadata
    bounds = [f"{sign} {rule[key]}" for key, sign in _BOUNDS.items() if key in rule]
    allowed = ", ".join(rule.get("choices", bounds)) or settings.field_type(group, name)[0].__name__
    return {
        "name": name,
        "default": flags.worded(field.default),
        "reference": "" if rule["reference"] is None else flags.worded(rule["reference"]),
        "allowed": allowed,
        "traced": rule["traced"],
        "tuned": report.range_words(rule["tune"]._asdict()) if rule["tune"] else "",
        "help": rule["help"],
    }


def _resume(parsed: argparse.Namespace) -> int:
    directory = Path(parsed.directory)
    start.start_up(parsed, parsed.devices)
    if parsed.rounds is None and job.is_done(directory):
        return _say_done(directory)
    with (
        lock.holding(directory, create=False, check=job.recover),
        job.StopRequest(),
    ):
        tuned = (directory / places.TUNING).exists()
        if tuned or (directory / record.SWEEP).exists():
            if parsed.rounds is not None:
                raise UsageError(f"--rounds must be left out for a sweep, got {parsed.rounds}")
            if tuned:
                with progress.LoadDisplay(start.console()):
                    experiment = tuning.resume(directory, num_devices=parsed.devices)
                return _train_tuned(experiment, directory, resumed=True, log=parsed.log)
            with progress.LoadDisplay(start.console()):
                planned = sweep.resume(directory, num_devices=parsed.devices)
            return _train_sweep(planned, directory, resumed=True, log=parsed.log)
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
        return _end(summary, directory)


def _say_done(directory: Path) -> int:
    start.console().say(f"{directory} holds a finished run; nothing is left to do")
    return 0


def _end(summary: dict[str, Any], directory: Path) -> int:
    """Says how a run has ended."""
    out = start.console()
    if devices.is_first():
        out.print(report.comparison_table([summary]))
    if summary["status"] == "stopped":
        done = summary.get("rounds", 0)
        text = f"stopped by SIGTERM after round {done}; protonorm resume {directory} goes on"
        out.say(text)
    else:
        out.say(f"Results are in {directory}")
    return 0


def _verify(parsed: argparse.Namespace) -> int:
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


def _compare(parsed: argparse.Namespace) -> int:
    directories = [Path(name) for name in parsed.directories]
    form = report.format_of(Path(parsed.out)) if parsed.out else ""
    tuned = [path for path in directories if (path / places.TUNING).exists()]
    sweeps = [*tuned, *(path for path in directories if (path / record.SWEEP).exists())]
    for path in dict.fromkeys(sweeps):
        begun = (path / record.SWEEP).exists()
        names, rows = sweep.read_results(path) if begun else ([], [])
        if path in tuned:
            _show_tuned(reading.read_choices(path), rows, names)
        else:
            start.console().print(report.sweep_table(rows, names))
    directories = [path for path in directories if path not in sweeps]
    runs = [reading.read_state(path) for path in directories]
    if runs:
        start.console().print(report.comparison_table([summary for summary, _ in runs]))
    for path, (summary, _) in zip(directories, runs, strict=True):
        status, done = summary.get("status"), summary.get("rounds", 0)
        if status != "finished":
            start.console().say(f"{path}: {status} after round {done}")
    if parsed.out:
        if not runs:
            raise UsageError("--out must be given with at least one run, got sweeps only")
        names = [str(path) for path in directories]
        path = Path(parsed.out)
        with record.writing(path), record.replacing(path, parents=True) as file:
            report.draw_comparison(runs, names, file, form)
    return 0


def _default_directory(chosen: config.Config, kind: str = "") -> str:
    source = re.sub(r"\W+", "-", Path(chosen.data).stem).strip("-")
    return f"runs/{source}-{kind or chosen.method}-{time.strftime('%Y%m%d-%H%M%S')}"


def _complain(message: str, code: int) -> int:
    message = re.sub(r"(\S{80})\S{120,}(\S{40})", r"\1...\2", console.one_line(message))
    print(f"protonorm: {message}", file=sys.stderr, flush=True)
    return code


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"


_BITS = "reproduced bit by bit"
_BOUNDS = {"above": ">", "least": ">=", "most": "<="}
COMMANDS = {
    "run": _run,
    "sweep": _sweep,
    "compile": compiling.command,
    "methods": _methods,
    "resume": _resume,
    "verify": _verify,
    "compare": _compare,
    "report": pages.command,
    "thomson": thomson.command,
    "export": lambda parsed: export.command(parsed, flags.chosen(parsed)),
    "partition": lambda parsed: partition.command(parsed, flags.chosen(parsed)),
}
