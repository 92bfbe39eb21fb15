"""The run directory: the only place where a run's results are written."""

import contextlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np

from protonorm_jax import driver, keys, report
from protonorm_jax.config import Config
from protonorm_jax.driver import Evaluation, Simulation
from protonorm_jax.errors import UsageError

FILES = (
    "config.json",
    "manifest.json",
    "metrics.jsonl",
    "summary.json",
    "prototypes.npz",
    "curves.png",
    "prototypes.png",
)
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

    A context manager: leaving it writes the summary and the pictures, whatever ended the run.
    `metrics.jsonl` grows by a line for each evaluated round. The summary's `status` is
    `finished`, `interrupted` or `failed`.
    """

    def __init__(self, directory: Path, config: Config) -> None:
        self.directory = directory
        self._config = config
        self._simulation: Simulation | None = None
        self._evaluations: list[Evaluation] = []

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._simulation is not None:
            interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
            self._finish("finished" if kind is None else "interrupted" if interrupted else "failed")

    def start(self, simulation: Simulation) -> None:
        """Creates the directory, or clears it of an earlier run's files, and describes the run.

        Raises:
          UsageError: the directory cannot be written.
        """
        self._simulation = simulation
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for name in FILES:
                (self.directory / name).unlink(missing_ok=True)
            self._write_json("config.json", self._config.to_dict())
            self._write_json("manifest.json", manifest(simulation))
            (self.directory / "metrics.jsonl").touch()
        except OSError as error:
            raise UsageError(f"--out must be writable, got {error}") from error

    def add(self, evaluation: Evaluation) -> None:
        """Appends the row of one evaluated round."""
        self._evaluations.append(evaluation)
        with open(self.directory / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(evaluation.row, allow_nan=False) + "\n")

    def _finish(self, status: str) -> None:
        """Writes summary, prototypes and pictures."""
        assert self._simulation is not None
        history = driver.history(self._simulation, self._evaluations)
        summary = history.summary | {"status": status}
        self._write_json("summary.json", summary)
        if history.arrays:
            with replacing(self.directory / "prototypes.npz") as file:
                np.savez(file, allow_pickle=False, **history.arrays)
        if history.rows:
            with replacing(self.directory / "curves.png") as file:
                report.draw_curves(history.rows, summary, file)
        if "class_means" in history.arrays:
            with replacing(self.directory / "prototypes.png") as file:
                report.draw_prototypes(history.arrays, file)

    def _write_json(self, name: str, value: dict[str, Any]) -> None:
        with replacing(self.directory / name) as file:
            file.write((json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def manifest(simulation: Simulation) -> dict[str, Any]:
    """What else, beside the config, the bits of a run depend on."""
    device = simulation.devices[0]
    return {
        "versions": {name: metadata.version(name) for name in _PACKAGES}
        | {"python": platform.python_version()},
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": len(simulation.devices),
            "machine": platform.machine(),
        },
        "git_commit": _git_commit(),
        "config_digest": simulation.config.digest(),
        "key": {
            "impl": "threefry2x32",
            "data": jax.random.key_data(keys.root(simulation.config.seed)).tolist(),
            "partitionable": jax.config.jax_threefry_partitionable,  # type: ignore[attr-defined]
        },
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "bytes_per_device": simulation.bytes_per_device,
        "efficiency": simulation.efficiency._asdict(),
        "clients": [
            {"architecture": name, "train_samples": int(train), "test_samples": int(test)}
            for name, train, test in zip(
                simulation.architectures,
                simulation.partition.train_count,
                simulation.partition.test_count,
                strict=True,
            )
        ],
    }


def read_summary(directory: Path) -> dict[str, Any]:
    """The summary of a recorded run.

    Raises:
      UsageError: there is none, or it cannot be read.
    """
    return _read(directory / "summary.json", json.loads)


def read_rows(directory: Path) -> list[dict[str, Any]]:
    """The rows of a recorded run, one for each evaluated round.

    Raises:
      UsageError: there are none, or they cannot be read.
    """
    return _read(
        directory / "metrics.jsonl", lambda text: [json.loads(line) for line in text.splitlines()]
    )


def _read(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"DIR must be the directory of a run with a readable {path.name}, got "
            f"{str(path.parent)!r}: {error}"
        ) from error


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
    """A file that appears under its name only once it is complete."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
