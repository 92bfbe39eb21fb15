"""The command `protonorm report`: one page of HTML from recorded runs."""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import protonorm_jax
from protonorm_jax.command.console import Console
from protonorm_jax.command.paths import add_directories, path
from protonorm_jax.errors import UsageError
from protonorm_jax.report import page
from protonorm_jax.running import experiments, reading, runs
from protonorm_jax.running.files import replacing, writing
from protonorm_jax.statistics import Run

_DEFAULT = "report.html"
_ENDINGS = (".html", ".htm")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command but for `--debug`."""
    add_directories(parser, "of a run, a sweep or a tuned experiment")
    parser.add_argument(
        "--out",
        type=path,
        metavar="PAGE.html",
        default=_DEFAULT,
        help="the page; without .html a folder, which gets index.html; an earlier page gives way "
        f"({_DEFAULT})",
    )
    parser.add_argument(
        "--against",
        metavar="METHOD",
        help="the method, or the label of an arm, that all others are held against: the primary "
        f"comparison ({page.DEFAULT_AGAINST}, or else the first)",
    )
    parser.add_argument(
        "--apart",
        action="store_true",
        help="compare the runs of a directory with no others: for directories that answer "
        "questions of their own; each has its own --against, Holm's correction and mean ranks",
    )
    parser.add_argument("--title", metavar="TEXT", help="of the page (what the data are)")


def command(parsed: argparse.Namespace) -> int:
    """Reads the directories and writes the page; returns the exit code.

    Raises:
      UsageError: a directory that cannot be read, an arm that there is not, or a place that holds
        something else or cannot be written.
    """
    out = _place(parsed.out)
    _check_replaceable(out)
    for name in parsed.directories:
        experiments.check_directory(name)
    found = [experiments.read_experiment(name) for name in parsed.directories]
    tuned = [one for one in found if one is not None]
    ready = [
        name
        for name, one in zip(parsed.directories, found, strict=True)
        if one is None or one.has_begun
    ]
    if parsed.apart:
        parts = {name: runs.read_runs([name]) for name in ready}
        content = page.analyse_apart(_shorter(parts), parsed.against)
    else:
        content = page.analyse(runs.read_runs(ready), parsed.against)
    html = page.make(
        content,
        title=parsed.title,
        version=protonorm_jax.__version__,
        arrays=_arrays,
        experiments=tuned,
        declared=parsed.against is not None,
    )
    with writing(out), replacing(out, parents=True) as file:
        file.write(html.encode())
    console = Console()
    for one in page.shortly(content):
        if isinstance(one, str):
            console.say(one)
        else:
            console.print(one)
    console.say(f"The page is {out}")
    return 0


def _shorter(parts: Mapping[str, list[Run]]) -> dict[str, list[Run]]:
    """The same by the last part of each path, if these are all different."""
    short = {name: Path(name).name for name in parts}
    if len(set(short.values())) < len(short):
        return dict(parts)
    return {short[name]: own for name, own in parts.items()}


def _arrays(run: Run, name: str) -> Mapping[str, np.ndarray]:
    """The arrays in a file of a run; none if it is not there."""
    return reading.read_arrays(Path(run.name), (name,)).get(name, {})


def _place(text: str) -> Path:
    """The file that `--out` stands for."""
    out = Path(text)
    return out if out.suffix.lower() in _ENDINGS else out / "index.html"


def _check_replaceable(out: Path) -> None:
    """Refuses a place that holds something else than a page of ours.

    Raises:
      UsageError: it does, or cannot be read.
    """
    try:
        with out.open("rb") as file:
            start = file.read(page.START)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(
            f"--out must be a file that can be written, got {str(out)!r}: {error}"
        ) from error
    if not page.is_page(start):
        raise UsageError(
            "--out must be a new file, or a page that protonorm report has made, got "
            f"{str(out)!r}, which is something else"
        )
