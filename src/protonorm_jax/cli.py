"""The command line: `protonorm run`, `protonorm compare` and `protonorm thomson`."""

import argparse
import dataclasses
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

import protonorm_jax
from protonorm_jax import config, devices, driver, progress, record, report, sphere
from protonorm_jax.errors import UsageError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0, 2 for a mistake of the user, or 1."""
    parsed = _parser().parse_args(arguments)
    try:
        return parsed.command(parsed)
    except UsageError as error:
        if parsed.debug:
            raise
        return _complain(str(error), 2)
    except KeyboardInterrupt:
        _complain("interrupted", 130)
        # An ordinary exit would wait for the rounds that are still under way on the devices.
        sys.stdout.flush()
        os._exit(130)
    except Exception as error:
        if parsed.debug:
            raise
        if "RESOURCE_EXHAUSTED" in str(error) or isinstance(error, MemoryError):
            return _complain(f"memory must be enough, got {_first_line(error)}", 2)
        return _complain(f"{_first_line(error)} (a bug; --debug shows where)", 1)


def _run(parsed: argparse.Namespace) -> int:
    settings = config.load(parsed.config).to_dict() if parsed.config else {}
    names = [field.name for field in dataclasses.fields(config.Config)]
    settings |= {name: getattr(parsed, name) for name in names if hasattr(parsed, name)}
    chosen = config.from_dict(settings)

    directory = Path(parsed.out or _default_directory(chosen))
    record.check_free(directory, overwrite=parsed.overwrite)
    devices.cache_programs()

    with record.Recorder(directory, chosen) as recorder, progress.Display(chosen) as display:

        def start(simulation: driver.Simulation) -> None:
            recorder.start(simulation)
            display.start(simulation)

        def add(evaluation: driver.Evaluation) -> None:
            recorder.add(evaluation)
            display.add(evaluation)

        driver.run(chosen, on_start=start, on_evaluation=add)
    console = Console()
    console.print(report.comparison_table([record.read_summary(directory)]))
    console.print(f"Results are in {directory}", soft_wrap=True)
    return 0


def _compare(parsed: argparse.Namespace) -> int:
    directories = [Path(name) for name in parsed.directories]
    runs = [(record.read_summary(path), record.read_rows(path)) for path in directories]
    Console().print(report.comparison_table([summary for summary, _ in runs]))
    if parsed.out:
        with record.replacing(Path(parsed.out)) as file:
            report.draw_comparison(runs, file)
    return 0


def _default_directory(chosen: config.Config) -> str:
    source = re.sub(r"\W+", "-", Path(chosen.data).stem).strip("-")
    return f"runs/{source}-{chosen.method}-{time.strftime('%Y%m%d-%H%M%S')}"


def _complain(message: str, code: int) -> int:
    print(f"protonorm: {message}", file=sys.stderr, flush=True)
    return code


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        """Prints the complaint and exits with 2."""
        sys.exit(_complain(f"{message} ({self.prog} --help lists the flags)", 2))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="protonorm", description=protonorm_jax.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=protonorm_jax.__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="train one federation and record it",
        description="Trains one federation and records it in a directory.",
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
    )
    run.set_defaults(command=_run)
    output = run.add_argument_group("output")
    output.add_argument("--out", metavar="DIR", help="new directory for the results (runs/...)")
    output.add_argument("--overwrite", action="store_true", help="replace the results in --out")
    output.add_argument(
        "--config", metavar="FILE", help="start from the settings in a run's config.json"
    )
    _add_debug(output)
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(config.Config):
        section = field.metadata["section"]
        if section not in groups:
            groups[section] = run.add_argument_group(section)
        _add_setting(groups[section], field)

    compare = commands.add_parser(
        "compare",
        help="print one table of recorded runs",
        description="Prints one table of recorded runs.",
        allow_abbrev=False,
    )
    compare.set_defaults(command=_compare)
    compare.add_argument("directories", metavar="DIR", nargs="+", help="of a recorded run")
    compare.add_argument("--out", metavar="FILE.png", help="also draw their accuracies here")
    _add_debug(compare)

    thomson = commands.add_parser(
        "thomson",
        help="spread points over the unit sphere",
        description="Searches for the points on the unit sphere that have the least energy.",
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
    )
    thomson.set_defaults(command=sphere.command)
    sphere.add_flags(thomson)
    _add_debug(thomson)
    return parser


class _HelpFormatter(argparse.HelpFormatter):
    """Wide enough for a flag and its help on one line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)


def _add_debug(parser: Any) -> None:
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _add_setting(group: Any, field: dataclasses.Field) -> None:
    """Adds the flag of one config field; without it on the command line nothing is stored."""
    flag = "--" + field.name.replace("_", "-")
    plain, optional = config.field_type(field)
    default = "the method's own" if optional else field.default
    text = field.metadata["help"].replace("%", "%%")
    if plain is bool:
        group.add_argument(
            flag,
            action=argparse.BooleanOptionalAction,
            default=argparse.SUPPRESS,
            help=f"{text} ({'yes' if default else 'no'})",
        )
        return
    choices = field.metadata.get("choices")
    group.add_argument(
        flag,
        type=lambda value: _parsed(plain, value),
        default=argparse.SUPPRESS,
        metavar="{" + ",".join(choices) + "}" if choices else plain.__name__.upper(),
        help=f"{text} ({default})",
    )


def _parsed(plain: type, value: str) -> Any:
    """The value in its own type, or as it is: the config then says what is wrong with it."""
    try:
        return plain(value)
    except ValueError:
        return value
