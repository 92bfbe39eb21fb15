"""Flags of several commands; those of settings come from `Config` and the method's group."""

import argparse
from collections.abc import Sequence
from typing import Any

from protonorm_jax import config, dashboards, methods, settings
from protonorm_jax.command import values
from protonorm_jax.command.parser import Parser
from protonorm_jax.command.paths import directory, path
from protonorm_jax.errors import UsageError
from protonorm_jax.running.points import LEARNING_RATES


def method_of(arguments: Sequence[str]) -> str:
    """The method whose flags a command line may have: a first, short look at it.

    Loads the user's file of methods on the way.

    Raises:
      UsageError: a file cannot be used, or there is no such method.
    """
    first = Parser(add_help=False)
    for flag in ("--method", "--config", "--methods"):
        first.add_argument(flag, type=str if flag == "--method" else path)
    parsed, _ = first.parse_known_args(list(arguments))
    if parsed.methods:
        methods.load_file(parsed.methods)
    recorded = config.method_in(parsed.config) if parsed.config else None
    name = parsed.method or recorded or config.Config.method
    if parsed.method and name not in methods.METHODS:
        known = ", ".join(methods.METHODS)
        hint = settings.hint(name, methods.METHODS)
        raise UsageError(f"Config.method must be one of {known}, got {name!r}{hint}")
    return name if name in methods.METHODS else config.Config.method


def chosen(parsed: argparse.Namespace) -> config.Config:
    """The settings of the config file, and over them those of the command line.

    Raises:
      UsageError: one of them cannot be used.
    """
    names = [*settings.fields(config.Config), *_own_settings(parsed)]
    given = {name: getattr(parsed, name) for name in names if name in parsed}
    if not parsed.config:
        own = {name: given.pop(name) for name in _own_settings(parsed) if name in given}
        result = config.from_dict({**given, "method_settings": own})
        config.check_given(result, given)
        return result
    values = config.read_file(parsed.config, given.get("method"))
    result = config.from_recorded(values).replace(**given)
    config.check_given(result, given)
    return result


def given_settings(parsed: argparse.Namespace) -> list[str]:
    """The settings of the method that the command line itself gives."""
    return [name for name in _own_settings(parsed) if name in parsed]


def _own_settings(parsed: argparse.Namespace) -> list[str]:
    return list(settings.fields(methods.METHODS[parsed.flags_of].settings))


def grid_axis(text: str) -> tuple[str, list[Any]]:
    """The name and the values in `name=value,value`, where the name may be `method.setting`.

    Raises:
      UsageError: it is not of that form, or there is no such setting.
    """
    flag, equals, values = text.partition("=")
    name = flag.replace("-", "_")
    owner, _, setting = name.rpartition(".")
    groups = [methods.METHODS[owner].settings] if owner in methods.METHODS else []
    if not owner:
        groups = [config.Config, *(row.settings for row in methods.METHODS.values())]
    having = [group for group in groups if setting in settings.fields(group)]
    if not equals or setting == "method_settings":
        raise UsageError(f"--grid must be a setting = values, got {text!r}")
    if owner and not groups:
        hint = settings.hint(owner, methods.METHODS)
        raise UsageError(f"--grid must name a method before the dot, got {text!r}{hint}")
    if not having:
        hint = settings.hint(setting, [one for group in groups for one in settings.fields(group)])
        raise UsageError(f"--grid must be a setting = values, got {text!r}{hint}")
    return name, [settings.parsed(having[0], setting, value) for value in values.split(",")]


def refuse_if_of_another_method(flag: str, parsed: argparse.Namespace) -> None:
    """Says whose flag it is that the command line has in vain.

    Args:
      flag: which nothing knows.
      parsed: all else.

    Raises:
      UsageError: it is the setting of another method than the one chosen.
    """
    name = flag.removeprefix("--").removeprefix("no-").replace("-", "_")
    owners = [key for key, row in methods.METHODS.items() if name in settings.fields(row.settings)]
    if not owners or not flag.startswith("--"):
        return
    if any(text.partition("=")[0] == "method" for text in getattr(parsed, "grid", [])):
        raise UsageError(
            f"{flag} must be given as --grid {owners[0]}.{name}=VALUE in a sweep over methods"
        )
    raise UsageError(
        f"{flag} is a setting of {', '.join(owners)}, and must be left out for method "
        f"{parsed.flags_of}"
    )


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Adds the flags by which several runs are asked for."""
    group = parser.add_argument_group("sweep")
    group.add_argument(
        "--grid",
        metavar="SETTING=VALUES",
        action="append",
        default=[],
        help="values with commas, such as scale=1,20,80; several flags make a product; "
        "method=protonorm,fedtgp with fedtgp.margin=0.1,100 varies a setting of one method alone",
    )
    group.add_argument(
        "--grid-file",
        type=path,
        metavar="FILE",
        help="TOML, YAML or JSON: values by setting, or under grids a list of such",
    )
    group.add_argument(
        "--seeds", type=values.natural, default=1, metavar="N", help="seeds from --seed on (1)"
    )
    group.add_argument(
        "--runs-per-program",
        type=values.natural,
        default=0,
        metavar="N",
        help="runs that train side by side; 0 chooses: one a device where they take turns, as many "
        "as fit into memory where they are vmapped (0)",
    )
    group.add_argument(
        "--vmap-runs",
        type=values.natural,
        default=0,
        metavar="N",
        help="of these, runs of a device in one vmapped step at most; 0 chooses: 1 on CPU and TPU, "
        "all of a device's on GPU (0)",
    )
    group.add_argument(
        "--shard",
        metavar="I/N",
        help="train only this share of the runs, as one of N jobs with one --out, each started "
        "with the same command but for I; started again, it goes on; auto takes both numbers from "
        "a Slurm array",
    )
    tuned = parser.add_argument_group(
        "tuning at equal cost",
        "Every point of the grid, such as every method, is tuned by itself: N settings are tried, "
        "one with each of N learning rates, the rest drawn from the ranges that the method's "
        "settings declare (protonorm methods NAME). All of that is in tuning.json before the first "
        "run. The setting with the best mean validation accuracy is chosen, and trained anew with "
        "--seeds seeds that no choice has seen.",
    )
    tuned.add_argument(
        "--tune",
        type=values.natural,
        metavar="N",
        help="settings that are tried, of every method as many; takes --validation-fraction",
    )
    tuned.add_argument(
        "--tune-seeds",
        type=values.natural,
        metavar="K",
        help="runs with each of them, of K seeds (1)",
    )
    tuned.add_argument(
        "--tune-rounds", type=values.natural, metavar="R", help="rounds of these runs (--rounds)"
    )
    low, high = LEARNING_RATES
    tuned.add_argument(
        "--tune-learning-rates",
        type=values.two_numbers,
        metavar="LOW:HIGH",
        help="the least and the greatest, between which N lie evenly on a logarithmic scale "
        f"({low}:{high})",
    )


def add_training(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `run`, `sweep` and `compile` have in common."""
    add_output(parser)
    add_time_limit(parser)
    add_log(parser, "none")
    add_settings(parser)
    add_processes(parser)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of where results go, and where settings come from."""
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out", type=directory, metavar="DIR", help="new directory for the results (runs/...)"
    )
    output.add_argument("--overwrite", action="store_true", help="replace the results in --out")
    output.add_argument(
        "--config",
        type=path,
        metavar="FILE",
        help="start from the settings in a TOML, YAML or JSON file, such as a run's config.json",
    )
    output.add_argument(
        "--dry-run", action="store_true", help="only say what is planned, and what it will need"
    )
    add_methods(output)


def add_log(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds the flag of dashboards; `default` says in words what holds without it."""
    parser.add_argument(
        "--log",
        type=_dashboards,
        action="extend",
        metavar="NAMES",
        help=f"show rows in dashboards too: {', '.join(dashboards.NAMES)}, several with commas, "
        f"or none ({default})",
    )


def _dashboards(text: str) -> list[str]:
    names = [] if text == "none" else text.split(",")
    try:
        dashboards.check(names)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("log ")) from error
    return names


def add_methods(parser: Any) -> None:
    """Adds the flag of a file of methods."""
    parser.add_argument(
        "--methods",
        type=path,
        metavar="FILE.py",
        help="a file that puts methods of your own into METHODS",
    )


def add_settings(
    parser: argparse.ArgumentParser,
    *,
    sections: Sequence[str] = ("data", "method", "training", "execution"),
    names: Sequence[str] = (),
) -> None:
    """Adds the flags of the settings in some sections, and of some others by name.

    Those of a method are the ones of the parser's default for `flags_of`, see `method_of`.
    """
    method = parser.get_default("flags_of")
    groups: dict[str, Any] = {}
    for name, field in settings.fields(config.Config).items():
        section = field.metadata["section"]
        if section not in sections and name not in names:
            continue
        if section not in groups:
            groups[section] = parser.add_argument_group(section)
        if name != "method_settings":
            _add_setting(groups[section], config.Config, name)
        elif settings.fields(methods.METHODS[method].settings):
            groups[method] = parser.add_argument_group(f"settings of {method}")
            for own in settings.fields(methods.METHODS[method].settings):
                _add_setting(groups[method], methods.METHODS[method].settings, own)


def add_directory(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of a command that runs again what was recorded."""
    parser.add_argument("directory", type=path, metavar="DIR", help="where the results are")
    parser.add_argument(
        "--devices", type=values.natural, metavar="INT", help="devices to use now (as recorded)"
    )
    add_methods(parser)
    add_processes(parser)


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Adds the flags by which several processes find each other."""
    group = parser.add_argument_group("several processes, each started with the same command")
    group.add_argument(
        "--distributed",
        action="store_true",
        help="find the others in the environment: TPU pod, Slurm, Open MPI, Kubernetes",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of the first process")
    group.add_argument(
        "--num-processes", type=values.natural, metavar="N", help="how many there are"
    )
    group.add_argument(
        "--process-id", type=values.natural, metavar="I", help="which one this is, from 0"
    )


def add_time_limit(parser: argparse.ArgumentParser) -> None:
    """Adds the flag of how long the process may take."""
    parser.add_argument(
        "--time-limit",
        type=values.duration,
        metavar="TIME",
        help="stop in time before so long has passed, such as 3h50m, with a checkpoint and exit "
        "code 75 (none)",
    )


def _add_setting(group: Any, owner: Any, name: str) -> None:
    """Adds the flag of one setting; without it on the command line nothing is stored."""
    field = settings.fields(owner)[name]
    flag = "--" + name.replace("_", "-")
    plain, _ = settings.field_type(owner, name)
    text = field.metadata["help"].replace("%", "%%")
    default = f"({worded(field.default)})" if field.default != "" else ""
    if field.metadata["reference"] is not None:
        default = (
            f"({worded(field.default)}; published code: {worded(field.metadata['reference'])})"
        )
    if plain is bool:
        group.add_argument(
            flag,
            action=argparse.BooleanOptionalAction,
            default=argparse.SUPPRESS,
            help=f"{text} {default}",
        )
        return
    choices = field.metadata.get("choices")
    group.add_argument(
        flag,
        type=lambda value: settings.parsed(owner, name, value),
        nargs="?" if "bare" in field.metadata else None,
        const=field.metadata.get("bare"),
        default=argparse.SUPPRESS,
        metavar="{" + ",".join(choices) + "}" if choices else plain.__name__.upper(),
        help=f"{text} {default}",
    )


def worded(value: Any) -> str:
    """A value as help texts say it."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
