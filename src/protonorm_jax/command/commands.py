"""The commands: what there are, and the parser of the one that is called.

A command is a file here with `add_flags(parser)`, which adds its flags, and `command(parsed)`,
which runs it and returns the exit code, and a row in `COMMANDS`. The file is imported when its
command is called: the others cost nothing.
"""

import argparse
import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple, NoReturn

import protonorm_jax
from protonorm_jax import settings
from protonorm_jax.command import environment
from protonorm_jax.command.parser import Parser
from protonorm_jax.errors import UsageError


class Command(NamedTuple):
    """One row of the table.

    Attributes:
      help: a few words for the list of commands.
      description: what its own help begins with.
      uses_methods: whether its flags depend on the method, or methods of the user's are loaded.
      uses_jax: whether jax has to start; False for what answers at once.
      stops: whether it hears of being asked to stop, see `stopping`; others just end.
    """

    help: str
    description: str
    uses_methods: bool = True
    uses_jax: bool = True
    stops: bool = False


COMMANDS = {
    "run": Command(
        "train one federation and record it",
        "Trains one federation and records it in a directory.",
        stops=True,
    ),
    "export": Command(
        "write data and who holds what for other codes",
        "Deals a data set to clients as a run would, and writes each client's samples as PFLlib, "
        "HtFLlib, FedTGP and ProtoNorm read them, so that both sides run on one split.",
    ),
    "partition": Command(
        "deal samples to clients, and write and show who holds what",
        "Deals a data set to clients as a run would, and writes which samples each holds, for "
        "--partition file:FILE; prints a table and draws a picture of it.",
    ),
    "sweep": Command(
        "train many federations, several at once",
        "Trains all points of a grid of settings, each with several seeds. Runs that differ in "
        "what is not compiled (seed, partition, learning rate, participation, dropout, traced "
        "settings of the method) share one program.",
        stops=True,
    ),
    "compile": Command(
        "compile every program of a run or sweep without running it",
        "Plans and compiles every program of a run, a sweep or a tuned experiment, also for TPUs "
        "that are not there, and says what they will need. Programs for the devices of this "
        "machine go into the cache of programs, where a run finds them. Takes the flags of run "
        "and sweep; nothing is written into --out.",
    ),
    "methods": Command(
        "list the federated methods, or the settings of one",
        "Lists the federated methods and what they send, or the settings of one.",
    ),
    "resume": Command(
        "go on with a run or sweep that was stopped or killed",
        "Goes on with a run or a sweep from its last checkpoint, or where there is none from the "
        "start; the results are those of an uninterrupted one.",
        stops=True,
    ),
    "verify": Command(
        "run a recorded run or sweep again and compare",
        "Runs a finished run again, or every run of a sweep, and compares the metrics row by row: "
        "bit by bit with the same versions, kind of device and vmapped batches, else within a "
        "tolerance. Of a tuned experiment it also checks that what was tried is as it was drawn, "
        "and what was chosen as it came out. Exits with 1 if anything differs.",
    ),
    "status": Command(
        "say where runs and sweeps are, also while they go on",
        "Says of each run, sweep and tuned experiment in the directories or below them whether it "
        "waits, runs, was stopped or killed, or is done, how fast it is, and how long it will "
        "take. Only looks: it changes nothing, and may be asked at any time, from any host.",
        uses_methods=False,
        uses_jax=False,
    ),
    "list": Command(
        "list recorded runs by their settings and results",
        "Lists the runs in the directories and below them that have ended, those of sweeps among "
        "them, and of tuned experiments the final ones: all, or those with certain settings and "
        "results, in any order, as a table, CSV or JSON.",
        uses_methods=False,
        uses_jax=False,
    ),
    "compare": Command(
        "print one table of recorded runs",
        "Prints one table of recorded runs.",
        uses_methods=False,
        uses_jax=False,
    ),
    "predict": Command(
        "have the kept models of a run classify a data set",
        "Has the models that a run has kept classify a data set: the accuracy of each client "
        "beside that of guessing its most frequent training class. Of the data of the run itself, "
        "each client gets its own test samples; of other data, all get the test part, or "
        "everything where there are no parts.",
    ),
    "report": Command(
        "write one page of HTML on recorded runs, sweeps and experiments",
        "Writes one page of HTML, complete in itself, on recorded runs: what was run, tables to "
        "save as CSV and LaTeX, paired differences with intervals, curves, clients, prototypes "
        "and features, and what is missing.",
        uses_methods=False,
    ),
    "thomson": Command(
        "spread points over the unit sphere",
        "Searches for the points on the unit sphere that have the least energy.",
        uses_methods=False,
    ),
}
"""By the name that calls them, in the order of the list; each has a file of its name here."""


def called_by(arguments: Sequence[str]) -> str | None:
    """The name of the command that is called; None if there is none."""
    return next((word for word in arguments if word in COMMANDS), None)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the command line; what it returns has the function to run as `command`.

    Raises:
      UsageError: there is no such command or flag, a value or an environment that cannot be used, a
        file of methods or a config that cannot, or a setting that is another method's.
    """
    name = called_by(arguments)
    first = next(iter(arguments), "-")
    if not first.startswith("-") and first not in COMMANDS:
        raise UsageError(
            f"COMMAND must be one of {', '.join(COMMANDS)}, got {first!r}"
            f"{settings.hint(first, COMMANDS)}"
        )
    parser = make_parser(name, arguments)
    result, rest = parser.parse_known_args(list(arguments))
    if rest:
        _refuse(rest[0], result, parser, name)
    return result


def make_parser(called: str | None, arguments: Sequence[str] = ()) -> Parser:
    """The parser of all commands, with the flags of the one that is called.

    Args:
      called: the name of a command; None for a list of them alone.
      arguments: of the command line, as flags may depend on the method.

    Raises:
      UsageError: see `parse`.
    """
    result = Parser(prog="protonorm", description=protonorm_jax.__doc__)
    result.add_argument("--version", action="version", version=protonorm_jax.__version__)
    places = result.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, row in COMMANDS.items():
        parser = places.add_parser(name, help=row.help, description=row.description)
        if name == called:
            module = _imported(name, row)
            if row.uses_methods:
                from protonorm_jax.command import flags

                parser.set_defaults(flags_of=flags.method_of(arguments))
            module.add_flags(parser)
            parser.add_argument(
                "--debug", action="store_true", help="show the traceback of an error"
            )
            parser.set_defaults(command=module.command)
    return result


def _imported(name: str, row: Command) -> ModuleType:
    """The file of a command, imported in an environment that lets jax start if need be."""
    if row.uses_jax:
        environment.check_xla_flags()
    try:
        module = importlib.import_module(f"protonorm_jax.command.{name}")
    except Exception as error:
        raise UsageError(environment.reason(error)) from error
    if row.uses_jax:
        from protonorm_jax.planning import targets

        targets.leave_out_absent()
    return module


def _refuse(flag: str, parsed: argparse.Namespace, parser: Parser, called: str | None) -> NoReturn:
    """Complains of a flag that there is not, and says whose it is if it is some method's."""
    word = flag.partition("=")[0]
    known = _flags_of(parser, called)
    if called and COMMANDS[called].uses_methods and "--method" in known:
        from protonorm_jax.command import flags

        flags.refuse_if_of_another_method(word, parsed)
    hint = settings.hint(word, known) if flag.startswith("-") else ""
    raise UsageError(f"unrecognized arguments: {flag}{hint} (--help lists the flags)")


def _flags_of(parser: Parser, called: str | None) -> list[str]:
    """All flags of a command, or of the parser of all."""
    (places,) = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    chosen = places.choices[called] if called else parser
    return [flag for action in chosen._actions for flag in action.option_strings]
