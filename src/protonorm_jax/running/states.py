"""What has become of runs, sweeps and tuned experiments, told from their files and locks alone.

Nothing is locked or written here, and what other processes write meanwhile is taken as it comes.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from protonorm_jax import metrics
from protonorm_jax.errors import UsageError
from protonorm_jax.running import directory as places
from protonorm_jax.running import forms, holders, reading

WAITING, COMPILING, RUNNING, SILENT = "waiting", "compiling", "running", "silent"
KILLED, STOPPED, INTERRUPTED = "killed", "stopped", "interrupted"
DIVERGED, FAILED, FINISHED, DAMAGED = "diverged", "failed", "finished", "damaged"
STATUSES = {
    WAITING: "has not begun",
    COMPILING: "a process loads data or compiles for it",
    RUNNING: "a process trains it",
    SILENT: "in use by a process of another host, which shows no sign of life",
    KILLED: "its process has died; protonorm resume goes on",
    STOPPED: "told to stop by a signal or a limit of time; protonorm resume goes on",
    INTERRUPTED: "stopped by Ctrl-C; protonorm resume goes on",
    DIVERGED: "ended as its loss was not finite",
    FAILED: "ended with an error",
    FINISHED: "has come to its end",
    DAMAGED: "has a file that cannot be read",
}
ENDED = (DIVERGED, FAILED, FINISHED)
GOING_ON = (COMPILING, RUNNING)
RESUMABLE = (KILLED, STOPPED, INTERRUPTED)


class Run(NamedTuple):
    """What has become of one run.

    Attributes:
      directory: of the run.
      status: one of `STATUSES`.
      method: by name; nothing where it is not known.
      seed: None where it is not known.
      done: rounds finished for sure.
      rounds: of all.
      speed: rounds a second of the process that trains it now; None if it is not known.
      holder: who has it in use.
      error: why it failed, or what is damaged.
    """

    directory: Path
    status: str
    method: str = ""
    seed: int | None = None
    done: int = 0
    rounds: int = 0
    speed: float | None = None
    holder: holders.Holder | None = None
    error: str = ""

    @property
    def seconds_left(self) -> float | None:
        """How long it will take at this speed; None if that is not known."""
        return (self.rounds - self.done) / self.speed if self.speed else None


class Entry(NamedTuple):
    """What has become of a run, a sweep or a tuned experiment.

    Attributes:
      directory: as it was found.
      kind: `run`, `sweep` or `tuned`.
      status: one of `STATUSES`; of a sweep, that of the whole.
      runs: of a run itself; of a tuned experiment those that are tried, and then the final ones.
      num_tried: how many of these are tried.
      holder: who has it in use.
      error: what is damaged.
    """

    directory: Path
    kind: str
    status: str
    runs: Sequence[Run]
    num_tried: int = 0
    holder: holders.Holder | None = None
    error: str = ""

    @property
    def speed(self) -> float | None:
        """Rounds a second of all runs together; None if that of none is known."""
        speeds = [run.speed for run in self.runs if run.speed is not None]
        return sum(speeds) if speeds else None

    @property
    def seconds_left(self) -> float | None:
        """How long it will take at this speed; None if that is not known."""
        rounds = sum(run.rounds - run.done for run in self.runs if run.status not in ENDED)
        return rounds / self.speed if self.speed else None


def counts(runs: Sequence[Run]) -> dict[str, int]:
    """How many runs there are by status, in the order of `STATUSES`."""
    found = [run.status for run in runs]
    return {status: found.count(status) for status in STATUSES if status in found}


def read(directories: Sequence[str | Path], pulse: holders.Pulse) -> list[Entry]:
    """What has become of all that is in some directories, or below them.

    Args:
      directories: of runs, sweeps or tuned experiments, or above such.
      pulse: tells whether those who have them in use live.

    Raises:
      UsageError: a directory that there is not, or has nothing of ours in or below it.
    """
    result = []
    for name in directories:
        directory = Path(name)
        if not directory.is_dir():
            raise UsageError(f"DIR must be a directory, got {str(name)!r}")
        found = [_read(path, kind, pulse) for path, kind in find(directory)]
        if not found:
            raise UsageError(
                "DIR must have a run, a sweep or a tuned experiment in it or below it, got "
                f"{str(name)!r}"
            )
        result += found
    return result


def find(directory: Path) -> Iterator[tuple[Path, str]]:
    """The directories in and below one that are ours, by name, each with what it is known by.

    What is within one of ours is not looked at, nor are hidden folders.
    """
    yield from _find(directory, set())


def _find(directory: Path, seen: set[Path]) -> Iterator[tuple[Path, str]]:
    with contextlib.suppress(OSError):
        known = _known_by(directory)
        if known:
            yield directory, known
            return
        real = directory.resolve()
        if real in seen:  # A link to a folder above it.
            return
        seen.add(real)
        folders = [path for path in directory.iterdir() if path.is_dir()]
        for folder in sorted(folders, key=lambda path: path.name):
            if not folder.name.startswith("."):
                yield from _find(folder, seen)


def _known_by(directory: Path) -> str:
    """As `places.known_by`, of a directory that gives way to another run, by the new one."""
    replacement = directory / places.REPLACEMENT
    if replacement.exists():
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            return str(json.loads(replacement.read_text(encoding="utf-8"))["name"])
    return places.known_by(directory)


def _read(directory: Path, known_by: str, pulse: holders.Pulse) -> Entry:
    """What has become of a directory of ours; of one that is damaged, that it is."""
    kind = {places.TUNING: "tuned", places.SWEEP: "sweep"}.get(known_by, "run")
    if kind == "run":
        run = read_run(directory, pulse)
        return Entry(directory, kind, run.status, [run], holder=run.holder, error=run.error)
    use = pulse.of(directory, *places.shards(directory))
    try:
        tried = _read_trials(directory, pulse) if kind == "tuned" else []
        runs = [*tried, *_read_final(directory, kind, pulse)]
    except UsageError as error:
        return Entry(directory, kind, DAMAGED, [], holder=use.holder, error=_reason(error))
    status = _status_of_all([run.status for run in runs], use.life)
    return Entry(directory, kind, status, runs, len(tried), use.holder)


def read_run(directory: Path, pulse: holders.Pulse, *, within_sweep: bool = False) -> Run:
    """What has become of the run in a directory.

    Args:
      directory: of the run.
      pulse: tells whether who has it in use lives.
      within_sweep: whether it is one of several, which wait for each other.
    """
    longer = directory / places.LONGER
    inside = longer if (longer / places.CONFIG).exists() else directory
    try:
        found = _read_run(inside, pulse, WAITING if within_sweep else COMPILING)
    except UsageError as error:
        found = Run(directory, DAMAGED, error=_reason(error))
    return found._replace(directory=directory)


def _read_run(directory: Path, pulse: holders.Pulse, idle: str) -> Run:
    """As `read_run`; `idle` is the status of a run that a process has and does not train yet."""
    settings = _settings(directory)
    run = Run(directory, FINISHED, settings["method"], settings["seed"], 0, settings["rounds"])
    use = pulse.of(*reading.locked_by(directory))
    if (directory / places.REPLACEMENT).exists():
        return run._replace(status=KILLED if use.is_over else idle, holder=use.holder)
    summary = _if_there(directory / places.SUMMARY, forms.summary)
    if summary is not None:
        status = str(summary["status"])
        status = DIVERGED if metrics.diverged(summary) else status
        if status not in ENDED and not use.is_over:
            return run._replace(status=idle, done=summary.get("rounds") or 0, holder=use.holder)
        error = str(summary.get("error") or "")
        return run._replace(status=status, done=summary.get("rounds") or 0, error=error)
    rows = _if_there(directory / places.ROWS, forms.rows) or []
    run = run._replace(done=rows[-1]["round"] if rows else 0, holder=use.holder)
    if use.is_over:
        return run._replace(status=KILLED)
    manifest = _if_there(directory / places.MANIFEST, forms.manifest)
    # Of an earlier process, which this one goes on from once it has compiled.
    earlier = manifest and use.holder and str(manifest.get("started")) < use.holder.since
    if not manifest or earlier:
        return run._replace(status=idle)
    if use.life == holders.SILENT:
        return run._replace(status=SILENT)
    return run._replace(status=RUNNING, speed=_speed(directory, manifest, run.done))


def _speed(directory: Path, manifest: Mapping[str, Any], done: int) -> float | None:
    """Rounds a second since the run, or what is left of it, was compiled.

    The times of both files are by the clock of their disk.
    """
    rounds = done - int(manifest.get("goes_on_after") or 0)
    with contextlib.suppress(OSError):
        began = (directory / places.MANIFEST).stat().st_mtime
        seconds = (directory / places.ROWS).stat().st_mtime - began
        if rounds > 0 and seconds > 0:
            return rounds / seconds
    return None


def _settings(directory: Path) -> dict[str, Any]:
    """What is recorded of a run's settings, also while it takes the place of another one."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        text = (directory / places.REPLACEMENT).read_text(encoding="utf-8")
        return forms.config(json.dumps(json.loads(text)["content"]))
    return reading.read(directory / places.CONFIG, forms.config)


def _read_trials(directory: Path, pulse: holders.Pulse) -> list[Run]:
    """The runs of a tuned experiment that are tried."""
    described = reading.read(directory / places.TUNING, forms.tuning)
    if (directory / places.TRIALS / places.SWEEP).exists():
        return _read_sweep(directory / places.TRIALS, pulse)
    count = sum(len(cell["points"]) for cell in described["cells"]) * len(described["seeds"])
    rounds = described["rounds"] or described["base"].get("rounds", 0)
    return [_waiting(directory / places.TRIALS, number, rounds) for number in range(count)]


def _read_final(directory: Path, kind: str, pulse: holders.Pulse) -> list[Run]:
    """The runs of a sweep; of a tuned experiment the final ones."""
    if kind == "sweep" or (directory / places.SWEEP).exists():
        return _read_sweep(directory, pulse)
    described = reading.read(directory / places.TUNING, forms.tuning)
    count = len(described["cells"]) * len(described["final_seeds"])
    rounds = described["base"].get("rounds", 0)
    return [_waiting(directory, number, rounds) for number in range(count)]


def _read_sweep(directory: Path, pulse: holders.Pulse) -> list[Run]:
    """All runs of a sweep, of which those with a result are not looked at again."""
    described = _if_there(directory / places.SWEEP, forms.sweep)
    if described is None:  # It is about to take the place of something else.
        return []
    rows = reading.read_results(directory) if (directory / places.RESULTS).exists() else []
    results = {int(row["run"]): row for row in rows}
    runs = []
    for number, changes in enumerate(described["runs"]):
        settings = {**described["base"], **changes}
        run = _waiting(directory, number, settings.get("rounds", 0))
        run = run._replace(method=str(settings.get("method", "")), seed=settings.get("seed"))
        if number in results:
            row = results[number]
            status = DIVERGED if metrics.diverged(row) else str(row["status"])
            error = str(row.get("error") or "")
            run = run._replace(status=status, done=row.get("rounds") or 0, error=error)
        elif (run.directory / places.CONFIG).exists():
            run = read_run(run.directory, pulse, within_sweep=True)
        runs.append(run)
    return runs


def _waiting(directory: Path, number: int, rounds: int) -> Run:
    folder = directory / places.RUNS / f"{number:04d}"
    return Run(folder, WAITING, rounds=rounds)


def _status_of_all(found: Sequence[str], life: str) -> str:
    """The status of a sweep, by those of its runs and its lock."""
    if found and all(status in ENDED for status in found):
        return FINISHED
    if life == holders.SILENT:
        return SILENT
    if life == holders.ALIVE:
        return RUNNING if RUNNING in found else COMPILING
    left = [status for status in RESUMABLE if status in found]
    # A lock that is left is that of a process which died between two runs.
    return left[0] if left else KILLED if life == holders.DEAD else STOPPED


def _if_there(path: Path, parse: Any) -> Any:
    """What a file holds; None where there is none, or none any more.

    Raises:
      UsageError: it cannot be parsed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path.name} must be readable, got {error}") from error
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{path.name} must be readable, got {error}") from error


def _reason(error: UsageError) -> str:
    return " ".join(str(error).split())
