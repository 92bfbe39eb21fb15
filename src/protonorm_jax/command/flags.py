"""The flags of the command line; those of settings are made from `config`."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import protonorm_jax
from protonorm_jax import config
from protonorm_jax.command import thomson as points
from protonorm_jax.errors import UsageError


def settings(parsed: argparse.Namespace) -> config.Config:
    """The settings of the config file, and over them those of the command line.

    Raises:
      UsageError: one of them cannot be used.
    """
    values = config.load(parsed.config).to_dict() if parsed.config else {}
    names = [field.name for field in dataclasses.fields(config.Config)]
    values |= {name: getattr(parsed, name) for name in names if hasattr(parsed, name)}
    return config.from_dict(values)


def grid_axis(text: str) -> tuple[str, list[Any]]:
    """The name and the values in `name=value,value`.

    Raises:
      UsageError: it is not of that form, or there is no such setting.
    """
    flag, _, values = text.partition("=")
    name = flag.replace("-", "_")
    fields = {field.name: field for field in dataclasses.fields(config.Config)}
    if name not in fields:
        raise UsageError(f"--grid must be a setting = values, got {text!r}")
    plain, _ = config.field_type(fields[name])
    if plain is bool:
        known = {"true": True, "yes": True, "false": False, "no": False}
        return name, [known.get(value, value) for value in values.split(",")]
    return name, [_parsed(plain, value) for value in values.split(",")]


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        """Prints the complaint and exits with 2."""
        print(f"protonorm: {message} ({self.prog} --help lists the flags)", file=sys.stderr)
        sys.exit(2)


def parser(commands: Mapping[str, Callable[[argparse.Namespace], int]]) -> argparse.ArgumentParser:
    """The parser of the command line; what it returns has the chosen function as `command`.

    Args:
      commands: by name, the functions that run them.
    """
    result = _Parser(prog="protonorm", description=protonorm_jax.__doc__, allow_abbrev=False)
    result.add_argument("--version", action="version", version=protonorm_jax.__version__)
    places = result.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = places.add_parser(
        "run",
        help="train one federation and record it",
        description="Trains one federation and records it in a directory.",
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
    )
    run.set_defaults(command=commands["run"])
    _add_output(run)
    _add_settings(run)
    _add_processes(run)

    many = places.add_parser(
        "sweep",
        help="train many federations, several at once",
        description="Trains all points of a grid of settings, each with several seeds. Runs that "
        "differ in what is not compiled (seed, partition, proximity, scale, learning rate, "
        "participation, dropout) share one program.",
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
    )
    many.set_defaults(command=commands["sweep"])
    group = many.add_argument_group("sweep")
    group.add_argument(
        "--grid",
        metavar="SETTING=VALUES",
        action="append",
        default=[],
        help="values with commas, such as scale=1,20,80; several flags make a product",
    )
    group.add_argument(
        "--grid-file", metavar="FILE", help="JSON: values by setting, or a list of such grids"
    )
    group.add_argument(
        "--seeds", type=_natural, default=1, metavar="N", help="seeds from --seed on (1)"
    )
    group.add_argument(
        "--runs-per-program",
        type=_natural,
        default=0,
        metavar="N",
        help="runs that train side by side; 0 chooses: on CPU as many as there are devices, on "
        "GPU and TPU all that fit into memory (0)",
    )
    group.add_argument(
        "--vmap-runs",
        type=_natural,
        default=0,
        metavar="N",
        help="of these, runs of a device in one vmapped step; 0 chooses: 1 on CPU, all of a "
        "device's on GPU and TPU (0)",
    )
    group.add_argument("--dry-run", action="store_true", help="only plan")
    _add_output(many)
    _add_settings(many)
    _add_processes(many)

    resume = places.add_parser(
        "resume",
        help="go on with a run or sweep that was stopped or killed",
        description="Goes on with a run or a sweep from its last checkpoint, or where there is "
        "none from the start; the results are those of an uninterrupted one.",
        allow_abbrev=False,
    )
    resume.set_defaults(command=commands["resume"])
    _add_directory(resume)

    check = places.add_parser(
        "verify",
        help="run a recorded run again and compare",
        description="Runs a finished run again and compares its metrics row by row: bit by bit "
        "with the same versions, kind of device and vmapped batches, else within a tolerance. "
        "Exits with 1 if they differ.",
        allow_abbrev=False,
    )
    check.set_defaults(command=commands["verify"])
    _add_directory(check)

    compare = places.add_parser(
        "compare",
        help="print one table of recorded runs",
        description="Prints one table of recorded runs.",
        allow_abbrev=False,
    )
    compare.set_defaults(command=commands["compare"])
    compare.add_argument("directories", metavar="DIR", nargs="+", help="of a recorded run")
    compare.add_argument("--out", metavar="FILE.png", help="also draw their accuracies here")
    _add_debug(compare)

    thomson = places.add_parser(
        "thomson",
        help="spread points over the unit sphere",
        description="Searches for the points on the unit sphere that have the least energy.",
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
    )
    thomson.set_defaults(command=commands["thomson"])
    points.add_flags(thomson)
    _add_debug(thomson)
    return result


class _HelpFormatter(argparse.HelpFormatter):
    """Wide enough for a flag and its help on one line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)


def _add_output(parser: argparse.ArgumentParser) -> None:
    output = parser.add_argument_group("output")
    output.add_argument("--out", metavar="DIR", help="new directory for the results (runs/...)")
    output.add_argument("--overwrite", action="store_true", help="replace the results in --out")
    output.add_argument(
        "--config", metavar="FILE", help="start from the settings in a run's config.json"
    )
    _add_debug(output)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(config.Config):
        section = field.metadata["section"]
        if section not in groups:
            groups[section] = parser.add_argument_group(section)
        _add_setting(groups[section], field)


def _add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="where the results are")
    parser.add_argument(
        "--devices", type=_natural, metavar="INT", help="devices to use now (as recorded)"
    )
    _add_debug(parser)
    _add_processes(parser)


def _add_processes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("several processes, each started with the same command")
    group.add_argument(
        "--distributed",
        action="store_true",
        help="find the others in the environment: TPU pod, Slurm, Open MPI, Kubernetes",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of the first process")
    group.add_argument("--num-processes", type=_natural, metavar="N", help="how many there are")
    group.add_argument("--process-id", type=_natural, metavar="I", help="which one this is, from 0")


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be >= 0, got {text}")
    return value


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
