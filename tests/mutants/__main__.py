"""Do the tests of a room see when its code is wrong? Mutation testing of the core.

    python -m tests.mutants

draws mutants of the modules in `rooms` (single changes of the code, see `operators`), and runs the
tests of its room on each. A mutant that they pass has survived: either a test is missing, or the
mutant does the same as the code, in which case `equivalent.toml` names it with the reason. Ends
with 1 if there are other survivors.

The checkout is not touched; the work is done on copies. Results are kept in `.mutants/`: what was
killed is not run again as long as its module is the same.
"""

import argparse
import collections
import concurrent.futures
import hashlib
import json
import math
import pathlib
import queue
import random
import sys
import tempfile
import threading
import time
import tomllib
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.mutants.operators import Change, Mutant, change_of, diff_of, mutants_of
from tests.mutants.rooms import ROOMS
from tests.mutants.trial import Copy

ROOT = pathlib.Path(__file__).parent.parent.parent
PACKAGE = ROOT / "src" / "protonorm_jax"
FOLDER = ROOT / ".mutants"
EQUIVALENT = pathlib.Path(__file__).parent / "equivalent.toml"
OUTCOMES = ("killed", "timeout", "equivalent", "survived")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--count", type=int, default=350, help="mutants, over all modules")
    parser.add_argument("--seed", default="0", help="of the draw")
    parser.add_argument("--jobs", type=int, default=2, help="at a time")
    parser.add_argument("--modules", nargs="*", help="only those that begin so: methods/ loop.py")
    parser.add_argument("--fresh", action="store_true", help="run again what was killed")
    parser.add_argument("--list", action="store_true", help="show the changes and run nothing")
    given = parser.parse_args()

    drawn = draw(given.count, given.seed)
    if given.modules is not None:
        drawn = [one for one in drawn if one.module.startswith(tuple(given.modules))]
    if given.list:
        for mutant in drawn:
            source, code = codes(mutant)
            print(diff_of(mutant.module, source, code), end="\n\n")
        return 0
    FOLDER.mkdir(exist_ok=True)
    results = Results(FOLDER / "results.jsonl")
    begin = time.monotonic()
    outcomes = {} if given.fresh else {one: results.known(one) for one in drawn}
    named = equivalents()
    for mutant in drawn:
        if (mutant.module, change_of(*codes(mutant))) in named:
            outcomes[mutant] = "equivalent"
    todo = [one for one in drawn if outcomes.get(one) is None]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        try_all(todo, pathlib.Path(folder), given.jobs, outcomes, results)
    report(drawn, outcomes, time.monotonic() - begin)
    return int("survived" in outcomes.values())


def draw(count: int, seed: str) -> list[Mutant]:
    """Mutants of all modules, of large ones more, one at a place at most.

    How many a module has grows as the root of the number of its places. The draw in one module
    does not depend on the others.
    """
    places: dict[str, list[Mutant]] = {}
    for module in ROOMS:
        generator = random.Random(f"{seed}:{module}")
        mutants = list(mutants_of(module, PACKAGE / module))
        generator.shuffle(mutants)
        unique = {mutant.place: mutant for mutant in mutants}
        places[module] = list(unique.values())
    total = sum(math.sqrt(len(some)) for some in places.values())
    drawn = []
    for some in places.values():
        share = math.ceil(count * math.sqrt(len(some)) / total)
        drawn += some[:share]
    return drawn


def codes(mutant: Mutant) -> tuple[str, str]:
    """The module as it is, and as the mutant has it."""
    source = (PACKAGE / mutant.module).read_text()
    return source, mutant.code(source)


def equivalents() -> set[tuple[str, Change]]:
    """The mutants that do the same as the code, by module and change."""
    entries = tomllib.loads(EQUIVALENT.read_text()).get("equivalent", [])
    return {(entry["module"], Change(*change)) for entry in entries for change in entry["changes"]}


class Results:
    """The outcomes of all trials, one line of JSON each; the last of several counts.

    A mutant goes by its module and the digests of the code before and after; tests that have passed
    without any by themselves and the digest of all code and tests.
    """

    def __init__(self, path: pathlib.Path):
        self.path, self.lock = path, threading.Lock()
        self.rows: dict[tuple[str, ...], dict[str, Any]] = {}
        for line in path.read_text().splitlines() if path.exists() else []:
            row = json.loads(line)
            self.rows[tuple(row["key"])] = row
        files = sorted([*ROOT.glob("src/**/*.py"), *ROOT.glob("tests/**/*.py")])
        files = [file for file in files if file.parent != EQUIVALENT.parent]
        self.everything = digest("".join(file.read_text() for file in files))

    @staticmethod
    def key(mutant: Mutant) -> tuple[str, ...]:
        """What stands for a mutant."""
        return (mutant.module, *map(digest, codes(mutant)))

    def known(self, mutant: Mutant) -> str | None:
        """The outcome if there need be no other trial."""
        outcome = self.rows.get(self.key(mutant), {}).get("outcome")
        return None if outcome == "survived" else outcome

    def seconds(self, tests: tuple[str, ...]) -> float | None:
        """How long the tests took if they have passed without a mutant."""
        return self.rows.get((*tests, self.everything), {}).get("seconds")

    def add(self, mutant: Mutant, **row: Any) -> None:
        """Writes an outcome down."""
        self._write(self.key(mutant), row)

    def add_passed(self, tests: tuple[str, ...], seconds: float) -> None:
        """Writes down that tests pass without a mutant."""
        self._write((*tests, self.everything), {"seconds": seconds})

    def _write(self, key: tuple[str, ...], row: dict[str, Any]) -> None:
        with self.lock, self.path.open("a") as file:
            self.rows[key] = row
            file.write(json.dumps({"key": key} | row) + "\n")


def digest(text: str) -> str:
    """Of 16 letters, of SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def try_all(
    todo: list[Mutant], folder: pathlib.Path, jobs: int, outcomes: dict, results: Results
) -> None:
    """Tries mutants, several at a time; the tests must pass without any first."""
    copies: queue.Queue[Copy] = queue.Queue()
    for number in range(jobs):
        copies.put(Copy(ROOT, folder / str(number), FOLDER / "programs"))
    limits: dict[tuple[str, ...], float] = {}

    def prepare(tests: tuple[str, ...]) -> None:
        seconds = results.seconds(tests)
        if seconds is None:
            copy = copies.get()
            trial = copy.run(tests, limit=900)
            copies.put(copy)
            if trial.outcome != "passed":
                sys.exit(f"{' '.join(tests)} must pass without a mutant, got\n{trial.output}")
            seconds = trial.seconds
            results.add_passed(tests, seconds)
            print(f"{seconds:6.1f} s  {' '.join(tests)}", flush=True)
        limits[tests] = 20 + 2.5 * seconds

    def attempt(mutant: Mutant) -> None:
        source, code = codes(mutant)
        tests = ROOMS[mutant.module]
        copy = copies.get()
        trial = copy.run_with(mutant.module, code, tests, limits[tests])
        copies.put(copy)
        outcome = {"passed": "survived", "failed": "killed"}.get(trial.outcome, trial.outcome)
        outcomes[mutant] = outcome
        diff = diff_of(mutant.module, source, code)
        lines = [line for line in trial.output.splitlines() if line.startswith(("FAILED", "ERROR"))]
        by = lines[0] if lines else ""
        results.add(mutant, outcome=outcome, seconds=round(trial.seconds, 1), by=by, diff=diff)
        print(f"{trial.seconds:6.1f} s  {outcome}: {mutant.module}  {by[:90]}", flush=True)
        if outcome == "survived":
            print(diff, flush=True)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for step, work in ((prepare, {ROOMS[one.module] for one in todo}), (attempt, todo)):
            try:
                list(pool.map(step, work))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def report(drawn: list[Mutant], outcomes: dict, seconds: float) -> None:
    """Prints what became of the mutants, by module, and the survivors."""
    console = Console(markup=False, highlight=False)
    table = Table("module", *OUTCOMES, "all")
    counts = collections.Counter((one.module, outcomes[one]) for one in drawn)
    modules = list(dict.fromkeys(one.module for one in drawn))
    for module in modules:
        row = [counts[module, outcome] for outcome in OUTCOMES]
        table.add_row(module, *(str(number or "") for number in row), str(sum(row)))
    sums = [sum(counts[module, outcome] for module in modules) for outcome in OUTCOMES]
    table.add_section()
    table.add_row("all", *map(str, sums), str(sum(sums)))
    for outcome in ("timeout", "survived"):
        for mutant in drawn:
            if outcomes[mutant] == outcome:
                console.print(f"\n{outcome}:\n{diff_of(mutant.module, *codes(mutant))}")
    console.print(table)
    console.print(f"{len(drawn)} mutants in {seconds / 60:.0f} min")


if __name__ == "__main__":
    sys.exit(main())
