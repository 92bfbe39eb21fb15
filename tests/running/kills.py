"""A campaign of kills: `python tests/running/kills.py --kills 100 --seed 0`.

Runs, sweeps and tuned experiments, with and without checkpoints, new ones, ones that replace
another, and ones that are made longer, are killed (SIGKILL) at random moments, also in the first
and the last of their time, also with a second process on the same directory; then they go on, and
are killed again. In the end every bit must be as if nothing had happened, and nothing else may be
left behind.

The processes are forked from one that has imported everything, before jax has started.
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from orbax import checkpoint as orbax  # noqa: F401  Imported once here, not by every process.

from protonorm_jax import data
from protonorm_jax.command import cli
from protonorm_jax.running import holders
from protonorm_jax.types import Dataset

SMALL = ("--family", "mlp", "--num-clients", "4", "--feature-dim", "8", "--devices", "1")
KILLS_OF_A_DIRECTORY = 3
PATIENCE = 300.0


class Kind(NamedTuple):
    """What is killed.

    Attributes:
      name: of the kind.
      before: commands that come before, undisturbed; `{}` stands for the directory.
      command: what is killed.
    """

    name: str
    before: tuple[tuple[str, ...], ...]
    command: tuple[str, ...]


def kinds(file: Path) -> list[Kind]:
    """All that there are, of the data in a file."""

    def run(rounds: int, *more: str) -> tuple[str, ...]:
        return ("run", "--data", str(file), *SMALL, "--rounds", str(rounds), *more, "--out", "{}")

    many = ("sweep", "--data", str(file), *SMALL, "--seeds", "4", "--runs-per-program", "2")
    other = (*run(5, "--scale", "3"),)
    tuned = (
        "sweep",
        "--data",
        str(file),
        *SMALL,
        "--rounds",
        "100",
        "--validation-fraction",
        "0.2",
    )
    tuned += ("--grid", "method=protonorm,local", "--tune", "2", "--seeds", "2", "--out", "{}")
    return [
        Kind("run with checkpoints", (), run(300, "--checkpoint-every", "20")),
        Kind("run without checkpoints", (), run(300)),
        Kind(
            "sweep with checkpoints",
            (),
            (*many, "--rounds", "100", "--checkpoint-every", "20", "--out", "{}"),
        ),
        Kind("sweep without checkpoints", (), (*many, "--rounds", "100", "--out", "{}")),
        Kind(
            "run in place of another",
            (other,),
            (*run(300, "--checkpoint-every", "20"), "--overwrite"),
        ),
        Kind(
            "run made longer",
            (run(100, "--keep-state", "--checkpoint-every", "40"),),
            ("resume", "{}", "--rounds", "300"),
        ),
        Kind("tuned experiment", (), (*tuned, "--checkpoint-every", "20")),
        Kind(
            "tuned experiment in place of another", (tuned,), (*tuned, "--seed", "7", "--overwrite")
        ),
    ]


def start(command: Sequence[str], folder: Path, log: Path) -> int:
    """Forks a process that runs a command on a directory; returns its number."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = cli.main([part.replace("{}", str(folder)) for part in command])
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(child: int, seconds: float | None = None) -> int | None:
    """The exit code of a process; None if it has not ended after so many seconds."""
    end = time.monotonic() + (PATIENCE if seconds is None else seconds)
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            assert seconds is not None, "a process hangs"
            return None
        time.sleep(0.002)


def results(folder: Path) -> dict[str, object]:
    """All results in a directory by file, but for times, and the names of what else is there."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name.endswith(".png") or "checkpoints/" in name or path.name == "manifest.json":
            found[name] = None
        elif name.endswith(".npz"):
            with np.load(path) as arrays:
                found[name] = {key: value.tolist() for key, value in arrays.items()}
        elif name.endswith("summary.json"):
            found[name] = _without_times(json.loads(path.read_text()))
        elif name.endswith("choices.json"):
            found[name] = [_without_times(one) for one in json.loads(path.read_text())]
        elif name.endswith("results.jsonl"):
            found[name] = [_without_times(json.loads(row)) for row in path.read_text().splitlines()]
        elif path.is_file():
            found[name] = path.read_bytes()
    return {name: value for name, value in found.items() if "checkpoints/" not in name}


def _without_times(row: dict[str, object]) -> dict[str, object]:
    kept = {name: value for name, value in row.items() if "seconds" not in name}
    tried = kept.get("tried")
    return kept | {"tried": [_without_times(one) for one in tried]} if tried else kept


def moment(generator: random.Random, whole: float) -> float:
    """Seconds after which a process is killed that takes about `whole` seconds."""
    share = generator.choice(("first", "last", "any", "any"))
    low, high = {"first": (0, 0.25), "last": (0.8, 1.1), "any": (0, 1.05)}[share]
    return generator.uniform(low, high) * whole


class Campaign:
    """Kills, and what came of them."""

    def __init__(self, folder: Path, seed: int) -> None:
        generator = np.random.default_rng(0)
        labels = np.arange(240, dtype=np.int32) % 5
        noise = generator.integers(-20, 21, (240, 8, 8, 1))
        images = (30 + 45 * labels[:, None, None, None] + noise).astype(np.uint8)
        data.save_npz(Dataset(images, labels, 5, "small"), folder / "small.npz")
        self._folder = folder
        self._seed = seed
        self._wanted: dict[str, dict[str, object]] = {}
        self._before: dict[str, dict[str, object]] = {}
        self._seconds: dict[str, float] = {}
        self.kinds = kinds(folder / "small.npz")
        self.counts: collections.Counter[str] = collections.Counter()

    def undisturbed(self, kind: Kind) -> None:
        """Runs everything once without a kill, twice for the time that it takes."""
        if kind.name in self._wanted:
            return
        for turn in ("cold", "warm"):
            folder = self._folder / f"{kind.name} {turn}"
            self._prepare(kind, folder)
            self._before[kind.name] = results(folder)
            began = time.monotonic()
            self._must(kind.command, folder)
            self._seconds[kind.name] = time.monotonic() - began
        self._wanted[kind.name] = results(folder)

    def _prepare(self, kind: Kind, folder: Path) -> None:
        for command in kind.before:
            self._must(command, folder)

    def _must(self, command: Sequence[str], folder: Path) -> None:
        log = folder.with_name(f"{folder.name}.log")
        assert wait(start(command, folder, log)) == 0, log.read_text()

    def directory(self, number: int, most: int) -> int:
        """Kills the processes of one directory, at most so often; returns how often."""
        generator = random.Random(f"{self._seed} {number}")
        kind = self.kinds[number % len(self.kinds)]
        self.undisturbed(kind)
        folder = self._folder / f"killed {number}"
        self._prepare(kind, folder)
        killed = 0
        while killed < min(most, KILLS_OF_A_DIRECTORY):
            killed += self._kill(kind, folder, generator)
        for _ in range(3):
            log = folder.with_name(f"{folder.name}.log")
            command = self._next(kind, folder)
            code = wait(start(command, folder, log))
            assert code == 0, f"{kind.name}: {command} ended with {code}: {log.read_text()}"
            if results(folder) == self._wanted[kind.name]:
                break
            # Killed before the other run, or the longer one, had begun.
            assert results(folder) == self._before[kind.name], self._difference(kind, folder)
            self.counts["old one whole"] += 1
        assert results(folder) == self._wanted[kind.name], self._difference(kind, folder)
        shutil.rmtree(folder)
        self.counts[kind.name] += killed
        return killed

    def _next(self, kind: Kind, folder: Path) -> tuple[str, ...]:
        """The command that goes on: where nothing has begun, the one that was killed."""
        marks = ("config.json", "sweep.json", "tuning.json", ".protonorm.replacement.json")
        begun = any((folder / name).exists() for name in marks)
        found = {name: value for name, value in results(folder).items() if holders.NAME not in name}
        if begun and kind.before and found == self._before[kind.name]:
            return kind.command
        return ("resume", "{}") if begun else kind.command

    def _kill(self, kind: Kind, folder: Path, generator: random.Random) -> int:
        """Kills one process, or two at once; returns how many were still alive."""
        both = generator.random() < 0.3
        log = folder.with_name(f"{folder.name}.log")
        children = [start(self._next(kind, folder), folder, log)]
        if both:
            time.sleep(generator.uniform(0, 0.5) * self._seconds[kind.name])
            children.append(start(("resume", "{}"), folder, log.with_suffix(".second")))
        end = time.monotonic() + moment(generator, self._seconds[kind.name])
        codes = [wait(child, max(0.0, end - time.monotonic())) for child in children]
        killed = 0
        for child, code in zip(children, codes, strict=True):
            if code is None:
                os.kill(child, signal.SIGKILL)
                code = wait(child)
                killed += code == -signal.SIGKILL
            assert code in (0, 2, -signal.SIGKILL), f"{kind.name}: {code}: {log.read_text()}"
            self.counts["refused"] += code == 2
        self.counts["two at once"] += both
        if not killed and codes[0] == 0:  # It was too late.
            shutil.rmtree(folder)
            self._prepare(kind, folder)
        return killed

    def _difference(self, kind: Kind, folder: Path) -> str:
        found, wanted = results(folder), self._wanted[kind.name]
        names = [
            name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)
        ] + sorted({*found} ^ {*wanted})
        return f"{kind.name} in {folder}: {names} differ"


def main() -> None:
    """Runs the campaign, and says what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", default="", help="only what has this in its name")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many")
    parsed = parser.parse_args()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    began, killed, number = time.monotonic(), 0, 0
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
    campaign = Campaign(folder, parsed.seed)
    campaign.kinds = [kind for kind in campaign.kinds if parsed.kind in kind.name]
    while killed < parsed.kills and time.monotonic() - began < parsed.seconds:
        killed += campaign.directory(number, parsed.kills - killed)
        number += 1
        print(
            f"{killed} kills of {number} directories, {time.monotonic() - began:.0f} s", flush=True
        )
    for name, count in sorted(campaign.counts.items()):
        print(f"{count:5d}  {name}")
    print(f"{killed} kills, seed {parsed.seed}: nothing lost, nothing doubled, equal bits")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
