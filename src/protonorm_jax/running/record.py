"""The run directory: the only place where a run's results are written."""

import contextlib
import errno
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np

from protonorm_jax import keys, methods, report
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.planning.plan import Plan
from protonorm_jax.running import driver, forms
from protonorm_jax.running.driver import Evaluation, Simulation

FILES = (
    "config.json",
    "manifest.json",
    "metrics.jsonl",
    "summary.json",
    "prototypes.npz",
    "shown.npz",
    "server.npz",
    "curves.png",
    "prototypes.png",
)
# Of a sweep, beside the directories of its runs in `RUNS`.
SWEEP, RESULTS, RUNS = "sweep.json", "results.jsonl", "runs"
_PACKAGES = ("protonorm_jax", "jax", "jaxlib", "flax", "optax", "chex", "numpy")


def check_free(directory: Path, *, overwrite: bool) -> None:
    """Refuses a directory that already holds something.

    Raises:
      UsageError: it does, and `overwrite` is false; or it is a file.
    """
    if directory.is_dir() and (overwrite or not any(directory.iterdir())):
        return
    if directory.exists():
        raise UsageError(
            f"--out must be a new or empty directory unless --overwrite is given, got "
            f"{str(directory)!r}"
        )


class Recorder:
    """Writes one run into its directory, each file whole or not at all.

    `metrics.jsonl` grows by a line for each evaluated round. The summary's `status` is `finished`,
    `failed`, `interrupted` (Ctrl-C) or `stopped` (SIGTERM).
    """

    def __init__(self, directory: Path, plan: Plan, index: int = 0) -> None:
        self.directory = directory
        self.config = plan.runs[index].config
        self.rows: list[dict[str, Any]] = []
        self._index = index
        self._simulation: Simulation | None = None
        self._last: Evaluation | None = None

    def create(self) -> bool:
        """Writes the settings, from which a run can be resumed that never got any further.

        Returns:
          Whether there was no directory before.

        Raises:
          UsageError: the directory cannot be written.
        """
        new = not self.directory.exists()
        with writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            (self.directory / SWEEP).unlink(missing_ok=True)  # A run takes the place of a sweep.
            write_json(self.directory / "config.json", recorded_config(self.config))
        return new

    def start(self, simulation: Simulation, rows: Sequence[dict[str, Any]] = ()) -> None:
        """Clears the directory of an earlier run's files, and describes the run.

        Args:
          simulation: compiled.
          rows: of the rounds before a checkpoint from which the run goes on.

        Raises:
          UsageError: the directory cannot be written.
        """
        self._simulation = simulation
        self.rows = list(rows)
        with writing(self.directory):
            for name in FILES:
                if name != "config.json":
                    (self.directory / name).unlink(missing_ok=True)
            write_json(self.directory / "manifest.json", manifest(simulation, self._index))
            with replacing(self.directory / "metrics.jsonl") as file:
                file.writelines(map(_line, self.rows))

    def add(self, evaluation: Evaluation) -> None:
        """Appends the row of one evaluated round.

        Raises:
          UsageError: it cannot be written; the rows before it are whole.
        """
        append_line(self.directory / "metrics.jsonl", evaluation.row)
        self.rows.append(evaluation.row)
        self._last = evaluation

    def finish(self, status: str, *, error: str | None = None, pictures: bool = True) -> dict:
        """Writes summary, prototypes and pictures; returns the summary.

        Args:
          status: how the run ended.
          error: why it failed.
          pictures: whether to draw any.

        Raises:
          UsageError: something cannot be written.
        """
        assert self._simulation is not None, "not started"
        seconds = self._last.seconds if self._last else 0.0
        summary = driver.summary(self._simulation, self._index, self.rows, seconds)
        summary |= {"status": status} | ({"error": error} if error else {})
        arrays = self._last.arrays if self._last else {}
        with writing(self.directory):
            for name, content in arrays_by_file(self._last).items():
                with replacing(self.directory / name) as file:
                    np.savez(file, allow_pickle=False, **content)
            if pictures and self.rows:
                with replacing(self.directory / "curves.png") as file:
                    report.draw_curves(self.rows, summary, file)
            if pictures and {"class_means", "prototypes"} <= arrays.keys():
                with replacing(self.directory / "prototypes.png") as file:
                    report.draw_prototypes(arrays, file)
            # Last: a directory with a summary is complete.
            write_json(self.directory / "summary.json", summary)
        return summary


def arrays_by_file(evaluation: Evaluation | None) -> dict[str, dict[str, np.ndarray]]:
    """The arrays that a run leaves behind, by file and name.

    `prototypes.npz` for methods with prototypes, `shown.npz` for whatever else a method shows of
    its server, and `server.npz` for the server's nets, whose leaves are named like paths.
    """
    if evaluation is None:
        return {}
    leaves, _ = jax.tree_util.tree_flatten_with_path(evaluation.nets)
    nets = {"/".join(_key(entry) for entry in path): leaf for path, leaf in leaves}
    shown = "prototypes.npz" if "prototypes" in evaluation.arrays else "shown.npz"
    files = {shown: evaluation.arrays, "server.npz": nets}
    return {name: arrays for name, arrays in files.items() if arrays}


def read_arrays(directory: Path) -> dict[str, dict[str, np.ndarray]]:
    """What `arrays_by_file` has written."""
    result = {}
    for name in ("prototypes.npz", "shown.npz", "server.npz"):
        if (directory / name).exists():
            try:
                with np.load(directory / name, allow_pickle=False) as file:
                    result[name] = dict(file)
            except Exception as error:  # Of any kind, as archives break in many ways.
                raise UsageError(
                    f"{directory / name} must be a readable archive of arrays, got "
                    f"{type(error).__name__}: {error}"
                ) from error
    return result


def _key(entry: Any) -> str:
    """One step of a path into a pytree: a key, a field or a position."""
    return str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", entry))))


def recorded_config(config: Config) -> dict[str, Any]:
    """A config as it is written: with the user's file that its method came from, if it did."""
    file = methods.METHODS.files.get(config.method)
    return config.to_dict() | ({"methods_file": file._asdict()} if file else {})


def check_methods_file(config: dict[str, Any], *, equal: bool = True) -> str | None:
    """Asks for the user's file that the method of a recorded config came from.

    Args:
      config: as it was written.
      equal: whether another content of the file is refused.

    Returns:
      If the content is another one, what to say of it.

    Raises:
      UsageError: the file was not given, or is not the same.
    """
    recorded = config.get("methods_file")
    if not recorded:
        return None
    if not isinstance(recorded, dict) or not {"path", "digest"} <= recorded.keys():
        raise UsageError(f"methods_file must have a path and a digest, got {recorded!r}")
    method = config["method"]
    given = methods.METHODS.files.get(method)
    if given is None:
        raise UsageError(
            f"--methods must be given for method {method}, which came from {recorded['path']} "
            f"with SHA-256 {recorded['digest']}"
        )
    if given.digest == recorded["digest"]:
        return None
    said = f"SHA-256 {recorded['digest']} of {recorded['path']}, got {given.digest} of {given.path}"
    if equal:
        raise UsageError(f"--methods must be the file of the run, {said}")
    return f"file of methods: {said}"


def manifest(simulation: Simulation, index: int = 0) -> dict[str, Any]:
    """What else, beside the config, the bits of run `index` depend on."""
    plan = simulation.plan
    device, run = plan.devices[0], plan.runs[index]
    return {
        "versions": {name: metadata.version(name) for name in _PACKAGES}
        | {"python": platform.python_version()},
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": len(plan.devices),
            "processes": jax.process_count(),
            "machine": platform.machine(),
        },
        "git_commit": _git_commit(),
        "config_digest": run.config.digest(),
        "key": {
            "impl": "threefry2x32",
            "data": jax.random.key_data(keys.root(run.config.seed)).tolist(),
            "partitionable": jax.config.jax_threefry_partitionable,  # type: ignore[attr-defined]
        },
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "bytes_per_device": simulation.bytes_per_device,
        "expected_bytes_per_device": plan.memory._asdict(),
        "runs_per_program": plan.runs_per_program,
        "vmapped": {
            "runs": plan.spread.vmap_runs,
            "clients": max(one.chunk for one in plan.program.architectures),
        },
        "efficiency": plan.efficiency._asdict(),
        "clients": [
            {"architecture": name, "train_samples": int(train), "test_samples": int(test)}
            for name, train, test in zip(
                plan.architectures,
                run.partition.train_count,
                run.partition.test_count,
                strict=True,
            )
        ],
    }


def start_sweep(directory: Path, description: dict[str, Any]) -> None:
    """Clears a directory of another sweep, and says what this one is.

    Raises:
      UsageError: it cannot be written.
    """
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        for folder in (directory / RUNS).glob("*"):
            remove(folder)
        with contextlib.suppress(OSError):
            (directory / RUNS).rmdir()
        with replacing(directory / RESULTS):
            pass
        write_json(directory / SWEEP, description)


def remove(directory: Path) -> None:
    """Removes a run's files, and its directory if nothing else is in there."""
    with contextlib.suppress(OSError):
        for name in FILES:
            (directory / name).unlink(missing_ok=True)
        directory.rmdir()


def read_summary(directory: Path) -> dict[str, Any]:
    """The summary of a recorded run.

    Raises:
      UsageError: there is none, or it cannot be read.
    """
    return read(directory / "summary.json", forms.summary)


def read_rows(directory: Path) -> list[dict[str, Any]]:
    """The rows of a recorded run, one for each evaluated round.

    Raises:
      UsageError: there are none, or they cannot be read.
    """
    return read(directory / "metrics.jsonl", forms.rows)


def read(path: Path, parse: Callable[[str], Any]) -> Any:
    """What `parse` makes of a file of a recorded run.

    Raises:
      UsageError: it is missing or cannot be parsed.
    """
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"DIR must be the directory of a run with a readable {path.name}, got "
            f"{str(path.parent)!r}: {error}"
        ) from error


def read_results(directory: Path) -> list[dict[str, Any]]:
    """The rows of a sweep so far, without one that is being written or was never finished.

    Raises:
      UsageError: there are none, or they cannot be read.
    """
    return read(directory / RESULTS, forms.results)


def repair_results(directory: Path) -> None:
    """Cuts off a row that a crash has left incomplete.

    Raises:
      UsageError: the file cannot be written.
    """
    with writing(directory), open(directory / RESULTS, "r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def append_line(path: Path, row: dict[str, Any]) -> None:
    """Adds a line to a file, whole or not at all.

    Raises:
      UsageError: it cannot be written.
    """
    with writing(path.parent), open(path, "ab", buffering=0) as file:
        size, line = file.tell(), _line(row)
        try:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(size)
            raise


@contextlib.contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Turns a failure to write into a `UsageError`."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"--out must be writable, got {str(directory)!r}: {error}") from error


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes a JSON file, whole or not at all."""
    with replacing(path) as file:
        file.write((json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def _line(row: dict[str, Any]) -> bytes:
    return (json.dumps(row, allow_nan=False) + "\n").encode()


def _git_commit() -> str | None:
    """The commit that the package's source is at, `-dirty` if changed; None without git."""
    git = ("git", "-C", str(Path(__file__).parent))
    try:
        describe = subprocess.run(
            (*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"),
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        tracked = subprocess.run(
            (*git, "ls-files", "--error-unmatch", __file__), capture_output=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    # An installed copy may lie inside a repository that is not ours.
    return describe.stdout.strip() if tracked.returncode == 0 else None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name only once it is complete, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
