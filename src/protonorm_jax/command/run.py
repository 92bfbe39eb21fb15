"""The command `protonorm run`: one federation, trained and recorded."""

import argparse
from pathlib import Path
from typing import Any

from protonorm_jax import config, report
from protonorm_jax.command import flags, outputs, progress, start
from protonorm_jax.planning import devices, plan
from protonorm_jax.running import job, lock, stopping


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command but for `--debug`."""
    parser.add_argument(
        "--print-config",
        nargs="?",
        const=config.FORMS[0],
        choices=config.FORMS,
        metavar="{" + ",".join(config.FORMS) + "}",
        help="only print a file for --config, of these flags, with every setting, its default and "
        f"its help ({config.FORMS[0]})",
    )
    flags.add_training(parser)


def command(parsed: argparse.Namespace) -> int:
    """Trains a federation and records it; returns the exit code.

    Raises:
      UsageError: settings or a directory that cannot be used.
    """
    chosen = flags.chosen(parsed)
    if parsed.print_config:
        print(config.text_of(chosen, parsed.print_config), end="")
        return 0
    directory = Path(parsed.out or outputs.default_directory(chosen))
    check = outputs.check_of(parsed, directory)
    start.start_up(parsed, chosen.devices)
    if parsed.dry_run:
        with progress.LoadDisplay(start.console()):
            planned = plan.make([chosen])
        for line in progress.plan_lines(planned):
            start.console().say(line)
        return 0
    with (
        stopping.StopRequest(parsed.time_limit),
        lock.holding(directory, fresh=not parsed.out, check=check) as directory,
    ):
        with progress.RunDisplay(chosen, start.console()) as display:
            summary = job.run(
                *(chosen, directory),
                display=display,
                overwrite=parsed.overwrite,
                log=parsed.log or (),
            )
        return end(summary, directory)


def end(summary: dict[str, Any], directory: Path) -> int:
    """Says how a run has ended; returns the exit code."""
    out = start.console()
    if devices.is_first():
        out.print(report.comparison_table([summary]))
    if summary["status"] == "stopped":
        done = summary.get("rounds", 0)
        out.say(f"stopped after round {done}; protonorm resume {directory} goes on")
        return stopping.EXIT_CODE
    out.say(f"Results are in {directory}")
    return 0
