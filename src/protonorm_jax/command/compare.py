"""The command `protonorm compare`: one table of recorded runs."""

import argparse
from pathlib import Path

from protonorm_jax import report
from protonorm_jax.command import paths
from protonorm_jax.command import tuned as experiments
from protonorm_jax.command.console import Console
from protonorm_jax.errors import UsageError
from protonorm_jax.running import directory as places
from protonorm_jax.running import files, reading


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command but for `--debug`."""
    paths.add_directories(parser, "of a recorded run")
    parser.add_argument(
        "--out",
        type=paths.path,
        metavar="FILE.png",
        help="also draw their accuracies here (or .pdf, .svg, ...)",
    )


def command(parsed: argparse.Namespace) -> int:
    """Prints tables of recorded runs, and draws their accuracies; returns the exit code.

    Raises:
      UsageError: a directory that cannot be read, or a place that cannot be written.
    """
    console = Console()
    directories = [Path(name) for name in parsed.directories]
    form = report.format_of(Path(parsed.out)) if parsed.out else ""
    tuned = [path for path in directories if (path / places.TUNING).exists()]
    sweeps = [*tuned, *(path for path in directories if (path / places.SWEEP).exists())]
    for path in dict.fromkeys(sweeps):
        begun = (path / places.SWEEP).exists()
        names, rows = reading.read_sweep(path) if begun else ([], [])
        if path in tuned:
            experiments.show(console, reading.read_choices(path), rows, names)
        else:
            console.print(report.sweep_table(rows, names))
    directories = [path for path in directories if path not in sweeps]
    runs = [reading.read_state(path) for path in directories]
    if runs:
        console.print(report.comparison_table([summary for summary, _ in runs]))
    for path, (summary, _) in zip(directories, runs, strict=True):
        status, done = summary.get("status"), summary.get("rounds", 0)
        if status != "finished":
            console.say(f"{path}: {status} after round {done}")
    if parsed.out:
        if not runs:
            raise UsageError("--out must be given with at least one run, got sweeps only")
        names = [str(path) for path in directories]
        path = Path(parsed.out)
        with files.writing(path), files.replacing(path, parents=True) as file:
            report.draw_comparison(runs, names, file, form)
    return 0
