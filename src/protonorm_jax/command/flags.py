"""The flags of the command line; those of settings come from `Config` and the method's group."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import protonorm_jax
from protonorm_jax import config, dashboards, methods, settings
from protonorm_jax.command import export as exports
from protonorm_jax.command import partition as partitions
from protonorm_jax.command import report as pages
from protonorm_jax.command import thomson as points
from protonorm_jax.command.paths import directory, path
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import targets
from protonorm_jax.running.points import LEARNING_RATES


def method_of(arguments: Sequence[str]) -> str:
    """The method whose flags a command line may have: a first, short look at it.

    Loads the user's file of methods on the way.

    Raises:
      UsageError: a file cannot be used, or there is no such method.
    """
    first = _Parser(add_help=False, allow_abbrev=False)
    for flag in ("--method", "--config", "--methods"):
        first.add_argument(flag, type=str if flag == "--method" else path)
    parsed, _ = first.parse_known_args(list(arguments))
    if parsed.methods:
        methods.load_file(parsed.methods)
    recorded = config.load_values(parsed.config) if parsed.config else {}
    name = parsed.method or recorded.get("method") or config.Config.method
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
    values = config.load_values(parsed.config)
    if given.get("method") not in (None, values.get("method")):
        values = config.without_method(values)
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


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        """Raises the complaint."""
        message = re.sub(r"^argument (\S+): must ", r"\1 must ", message)
        raise UsageError(f"{message} ({self.prog} --help lists the flags)")


def parse(
    commands: Mapping[str, Callable[[argparse.Namespace], int]], arguments: Sequence[str]
) -> argparse.Namespace:
    """Parses the command line; what it returns has the chosen function as `command`.

    Args:
      commands: by name, the functions that run them.
      arguments: of the command line.

    Raises:
      UsageError: a file of methods or a config cannot be used, or a setting is another method's.
    """
    method = method_of(arguments)
    parser = _parser(commands, method)
    result, rest = parser.parse_known_args(list(arguments))
    if rest:
        _refuse(rest[0], method, getattr(result, "grid", []), _flags_of(parser, arguments))
    result.flags_of = method
    return result


def _flags_of(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """All flags of the command that is called."""
    (places,) = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    called = next((word for word in arguments if word in places.choices), None)
    chosen = places.choices[called] if called else parser
    return [flag for action in chosen._actions for flag in action.option_strings]


def _refuse(flag: str, method: str, axes: Sequence[str], known: Sequence[str]) -> NoReturn:
    """Complains of a flag that there is not, and says whose it is if it is some method's."""
    name = flag.partition("=")[0].removeprefix("--")
    name = name.removeprefix("no-").replace("-", "_") if flag.startswith("--") else ""
    owners = [key for key, row in methods.METHODS.items() if name in settings.fields(row.settings)]
    if not owners or "--method" not in known:
        hint = settings.hint(flag.partition("=")[0], known) if flag.startswith("-") else ""
        raise UsageError(f"unrecognized arguments: {flag}{hint} (--help lists the flags)")
    if any(text.partition("=")[0] == "method" for text in axes):
        raise UsageError(
            f"{flag.partition('=')[0]} must be given as --grid {owners[0]}.{name}=VALUE in a sweep "
            "over methods"
        )
    raise UsageError(
        f"{flag.partition('=')[0]} is a setting of {', '.join(owners)}, and must be left out for "
        f"method {method}"
    )


def _parser(
    commands: Mapping[str, Callable[[argparse.Namespace], int]], method: str
) -> argparse.ArgumentParser:
    """The parser, with flags for the settings of one method."""
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
    _add_log(run, "none")
    _add_settings(run, method)
    _add_processes(run)

    export = places.add_parser(
        "export",
        help="write data and who holds what for other codes",
        description="Deals a data set to clients as a run would, and writes each client's samples "
        "as PFLlib, HtFLlib, FedTGP and ProtoNorm read them, so that both sides run on one split.",
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
    )
    export.set_defaults(command=commands["export"])
    exports.add_flags(export)
    _add_settings(export, method, sections=("data",), names=("seed",))
    _add_methods(export)
    _add_debug(export)
    dealt = places.add_parser(
        "partition",
        help="deal samples to clients, and write and show who holds what",
        description="Deals a data set to clients as a run would, and writes which samples each "
        "holds, for --partition file:FILE; prints a table and draws a picture of it.",
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
    )
    dealt.set_defaults(command=commands["partition"], config=None)
    partitions.add_flags(dealt)
    _add_settings(dealt, method, sections=("data",), names=("seed",))
    _add_debug(dealt)

    many = places.add_parser(
        "sweep",
        help="train many federations, several at once",
        description="Trains all points of a grid of settings, each with several seeds. Runs that "
        "differ in what is not compiled (seed, partition, learning rate, participation, dropout, "
        "traced settings of the method) share one program.",
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
    )
    many.set_defaults(command=commands["sweep"])
    _add_sweep(many)
    _add_output(many)
    _add_log(many, "none")
    _add_settings(many, method)
    _add_processes(many)

    ahead = places.add_parser(
        "compile",
        help="compile every program of a run or sweep without running it",
        description="Plans and compiles every program of a run, a sweep or a tuned experiment, "
        "also for TPUs that are not there, and says what they will need. Programs for the devices "
        "of this machine go into the cache of programs, where a run finds them. Takes the flags of "
        "run and sweep; nothing is written into --out.",
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
    )
    ahead.set_defaults(command=commands["compile"])
    _add_target(ahead)
    _add_sweep(ahead)
    _add_output(ahead)
    _add_log(ahead, "none")
    _add_settings(ahead, method)
    _add_processes(ahead)

    table = places.add_parser(
        "methods",
        help="list the federated methods, or the settings of one",
        description="Lists the federated methods and what they send, or the settings of one.",
        allow_abbrev=False,
    )
    table.set_defaults(command=commands["methods"])
    table.add_argument("name", metavar="NAME", nargs="?", help="of one method")
    _add_methods(table)
    _add_debug(table)

    resume = places.add_parser(
        "resume",
        help="go on with a run or sweep that was stopped or killed",
        description="Goes on with a run or a sweep from its last checkpoint, or where there is "
        "none from the start; the results are those of an uninterrupted one.",
        allow_abbrev=False,
    )
    resume.set_defaults(command=commands["resume"])
    resume.add_argument(
        "--rounds",
        type=_natural,
        metavar="INT",
        help="rounds in all, for a run that is to be longer than it was made for; without its "
        "state (--keep-state) it is run again from the start (as recorded)",
    )
    _add_directory(resume)
    _add_log(resume, "as recorded")

    check = places.add_parser(
        "verify",
        help="run a recorded run or sweep again and compare",
        description="Runs a finished run again, or every run of a sweep, and compares the metrics "
        "row by row: bit by bit with the same versions, kind of device and vmapped batches, else "
        "within a tolerance. Of a tuned experiment it also checks that what was tried is as it was "
        "drawn, and what was chosen as it came out. Exits with 1 if anything differs.",
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
    compare.add_argument(
        "directories", type=path, metavar="DIR", nargs="+", help="of a recorded run"
    )
    compare.add_argument(
        "--out",
        type=path,
        metavar="FILE.png",
        help="also draw their accuracies here (or .pdf, .svg, ...)",
    )
    _add_debug(compare)

    page = places.add_parser(
        "report",
        help="write one page of HTML on recorded runs, sweeps and experiments",
        description="Writes one page of HTML, complete in itself, on recorded runs: what was run, "
        "tables to save as CSV and LaTeX, paired differences with intervals, curves, clients, "
        "prototypes and features, and what is missing.",
        allow_abbrev=False,
    )
    page.set_defaults(command=commands["report"])
    pages.add_flags(page)
    _add_debug(page)

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


def _add_sweep(parser: argparse.ArgumentParser) -> None:
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
        help="JSON: values by setting, or a list of them",
    )
    group.add_argument(
        "--seeds", type=_natural, default=1, metavar="N", help="seeds from --seed on (1)"
    )
    group.add_argument(
        "--runs-per-program",
        type=_natural,
        default=0,
        metavar="N",
        help="runs that train side by side; 0 chooses: on CPU and TPU as many as there are "
        "devices, on GPU all that fit into memory (0)",
    )
    group.add_argument(
        "--vmap-runs",
        type=_natural,
        default=0,
        metavar="N",
        help="of these, runs of a device in one vmapped step; 0 chooses: 1 on CPU and TPU, "
        "all of a device's on GPU (0)",
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
        type=_natural,
        metavar="N",
        help="settings that are tried, of every method as many; takes --validation-fraction",
    )
    tuned.add_argument(
        "--tune-seeds", type=_natural, metavar="K", help="runs with each of them, of K seeds (1)"
    )
    tuned.add_argument(
        "--tune-rounds", type=_natural, metavar="R", help="rounds of these runs (--rounds)"
    )
    low, high = LEARNING_RATES
    tuned.add_argument(
        "--tune-learning-rates",
        type=_two_numbers,
        metavar="LOW:HIGH",
        help="the least and the greatest, between which N lie evenly on a logarithmic scale "
        f"({low}:{high})",
    )


def _add_target(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("compilation")
    group.add_argument(
        "--target",
        default=targets.HERE,
        metavar="{" + ",".join((targets.HERE, *targets.TOPOLOGIES)) + "}",
        help=f"what to compile for: the devices of this machine, or TPU chips ({targets.HERE})",
    )
    group.add_argument("--json", action="store_true", help="print one JSON object alone")
    group.add_argument(
        "--dump-hlo", type=path, metavar="DIR", help="write the compiled programs there, as text"
    )


class _HelpFormatter(argparse.HelpFormatter):
    """Wide enough for a flag and its help on one line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)


def _add_output(parser: argparse.ArgumentParser) -> None:
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out", type=directory, metavar="DIR", help="new directory for the results (runs/...)"
    )
    output.add_argument("--overwrite", action="store_true", help="replace the results in --out")
    output.add_argument(
        "--config", type=path, metavar="FILE", help="start from the settings in a run's config.json"
    )
    output.add_argument(
        "--dry-run", action="store_true", help="only say what is planned, and what it will need"
    )
    _add_methods(output)
    _add_debug(output)


def _add_log(parser: argparse.ArgumentParser, default: str) -> None:
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


def _add_methods(parser: Any) -> None:
    parser.add_argument(
        "--methods",
        type=path,
        metavar="FILE.py",
        help="a file that puts methods of your own into METHODS",
    )


def _add_settings(
    parser: argparse.ArgumentParser,
    method: str,
    *,
    sections: Sequence[str] = ("data", "method", "training", "execution"),
    names: Sequence[str] = (),
) -> None:
    """Adds the flags of the settings in some sections, and of some others by name."""
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


def _add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=path, metavar="DIR", help="where the results are")
    parser.add_argument(
        "--devices", type=_natural, metavar="INT", help="devices to use now (as recorded)"
    )
    _add_methods(parser)
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


def _two_numbers(text: str) -> tuple[float, float]:
    low, colon, high = text.partition(":")
    try:
        if colon:
            return float(low), float(high)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"must be LOW:HIGH, two numbers, got {text!r}")


def _add_debug(parser: Any) -> None:
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


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
