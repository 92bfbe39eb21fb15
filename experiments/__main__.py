"""Runs experiments, goes on with those that were stopped, and writes one page of all of them.

    python -m experiments --list
    python -m experiments NAME [NAME ...] [--size SIZE] [--out DIR] [flags of protonorm sweep]
    python -m experiments --all [--size SIZE] [--out DIR] [flags of protonorm sweep]

An experiment lies in DIR/NAME, by default in runs/paper-quick, runs/paper-small or runs/paper-full.
What is finished there is left alone, what was stopped is gone on with, and what was begun with
other settings is refused. Flags of `protonorm sweep` stand in place of what the file says, also of
what it varies: `--data`, `--num-samples`, `--seeds`, `--method`.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from experiments import Timing
from experiments.runner import arguments, catalogue, cost, pages, place, stand_in
from protonorm_jax.command import cli, console
from protonorm_jax.errors import Caution, UsageError

STOPPED = -1
"""In place of an exit code: told to stop, and to be gone on with."""


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, or the highest exit code of what it called, or 2."""
    given = list(sys.argv[1:] if words is None else words)
    # Names come first, so that what follows a flag of another command is not taken for one.
    first = next((i for i, word in enumerate(given) if word.startswith("-")), len(given))
    parsed, rest = _parser().parse_known_args(given[first:])
    try:
        return _run(given[:first], parsed, rest)
    except UsageError as error:
        return _complain(error)


def _run(names: list[str], parsed: argparse.Namespace, rest: list[str]) -> int:
    out = console.Console()
    if parsed.list:
        for name in catalogue.names():
            summary = catalogue.described(name).splitlines()[0]
            out.say(f"{name:<18} {', '.join(catalogue.sizes(name)):<19} {summary}")
        return 0
    if bool(names) == parsed.all:
        raise UsageError("NAME or --all must be given, and not both; --list shows the names")
    if parsed.stand_in and not (parsed.dry_run or parsed.compile):
        raise UsageError("--stand-in must be given with --dry-run or --compile")
    if parsed.all:
        names = [name for name in catalogue.names() if parsed.size in catalogue.sizes(name)]
    for name in names:  # Before anything is run.
        catalogue.one(name, parsed.size)
    if parsed.stand_in:
        stand_in.take_place()
    folder = Path(parsed.out or f"runs/paper-{parsed.size}")
    codes = {}
    for name in names:
        began = time.monotonic()
        out.print(f"\n== {name}, {parsed.size}")
        try:
            codes[name] = _one(name, folder / name, parsed, rest, out)
        except UsageError as error:
            codes[name] = _complain(error)
        if codes[name] == STOPPED:
            out.say("stopped; the same command goes on")
            return 0
        out.say(f"{name}: {time.monotonic() - began:.0f} s")
    failed = [name for name, code in codes.items() if code]
    if failed:
        out.say(f"failed: {', '.join(failed)}")
    code = max(codes.values())
    if parsed.all and not (parsed.dry_run or parsed.compile):
        code = max(code, pages.write(folder, names, out))
    return code


def _one(
    name: str, folder: Path, parsed: argparse.Namespace, rest: list[str], out: console.Console
) -> int:
    """Runs one experiment, or what is left of it; returns an exit code or `STOPPED`."""
    chosen = catalogue.one(name, parsed.size)
    # May be others when it is gone on with.
    passing = [] if parsed.devices is None else ["--devices", str(parsed.devices)]
    passing += ["--methods", parsed.methods] if parsed.methods else []
    passing += ["--debug"] if parsed.debug else []
    if isinstance(chosen, Timing):
        return _time(chosen, folder, parsed, out)
    asked = arguments.words(chosen, name, rest)
    with arguments.grid_file(asked["grids"]) as path:
        words = ["sweep", *asked["flags"], *passing, "--grid-file", str(path)]
        if parsed.compile:
            return cli.main(["compile", *words[1:], *["--dry-run"][: parsed.dry_run]])
        if parsed.dry_run:
            return cli.main([*words, "--dry-run"])
        found = place.state(folder)
        place.begin(folder, asked, found)
        if found is place.State.FINISHED:
            out.say(f"finished before, in {folder}")
            return 0
        if found is place.State.NEW:
            code = cli.main([*words, "--out", str(folder)])
        else:
            code = cli.main(["resume", str(folder), *passing])
    return code or (0 if place.state(folder) is place.State.FINISHED else STOPPED)


def _time(chosen: Timing, folder: Path, parsed: argparse.Namespace, out: console.Console) -> int:
    """As `_one`, for what is timed and not trained."""
    if parsed.dry_run or parsed.compile:
        out.say(f"times alignment of {', '.join(map(str, chosen.counts))} classes")
        return 0
    found = place.State.FINISHED if cost.is_finished(folder) else place.State.NEW
    place.begin(folder, {"experiment": folder.name, "timing": chosen._asdict()}, found)
    if found is place.State.NEW:
        cost.run(chosen, folder)
    out.print((folder / cost.TABLE).read_text(encoding="utf-8"), end="")
    out.say(f"{folder / cost.TABLE}, {folder / cost.PICTURE}")
    return 0


def _complain(error: UsageError) -> int:
    print(f"experiments: {console.one_line(str(error))}", file=sys.stderr, flush=True)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments",
        usage="%(prog)s NAME [NAME ...] | --all | --list [flags, also of protonorm sweep]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--list", action="store_true", help="say which there are")
    parser.add_argument("--all", action="store_true", help="all of this size, and their page")
    parser.add_argument(
        "--size", choices=catalogue.SIZE_NAMES, default="quick", help="default quick"
    )
    parser.add_argument("--out", metavar="DIR", help="default runs/paper-SIZE")
    parser.add_argument("--dry-run", action="store_true", help="plan, say what it needs, and end")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="protonorm compile, whose --target may stand here too, and end; with --dry-run what "
        "rounds cost at least, nothing compiled",
    )
    parser.add_argument(
        "--stand-in",
        action="store_true",
        help="with --dry-run or --compile: black images in place of tfds sets",
    )
    parser.add_argument("--devices", type=int, help="as for protonorm sweep and resume")
    parser.add_argument("--methods", metavar="FILE.py", help="as for protonorm sweep and resume")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _quiet_warnings() -> None:
    """As the command line of protonorm has it."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", Caution)
        warnings.showwarning = console.show_caution


if __name__ == "__main__":
    _quiet_warnings()
    sys.exit(main())
