"""What is ours in a directory: a run, a sweep or a tuned experiment, and how one gives way to
another, as one step.

A run is replaced when `REPLACEMENT` is there: before that the old run is whole, from then on the
directory is the new run's, and whoever finds the file removes what is left of the old one.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from protonorm_jax.dashboards import folders
from protonorm_jax.errors import UsageError
from protonorm_jax.running import files, holders

CONFIG, MANIFEST, ROWS, SUMMARY = "config.json", "manifest.json", "metrics.jsonl", "summary.json"
HOLDINGS = "holdings.npz"  # Of many clients, whom the manifest does not list.
DASHBOARDS = "dashboards.json"  # Of a run, a sweep or a tuned experiment with `--log`.
PICTURES = ("clients.png", "curves.png", "prototypes.png")
FILES = (
    CONFIG,
    MANIFEST,
    HOLDINGS,
    ROWS,
    SUMMARY,
    "prototypes.npz",
    "shown.npz",
    "server.npz",
    "clients.npz",
    "features.npz",
    *PICTURES,
    DASHBOARDS,
)
# Folders of a run: of the kept models, and of those of rounds that were the best so far.
MODELS, SELECTED = "models", ".models"
# Of a sweep, beside the directories of its runs in `RUNS`.
SWEEP, RESULTS, RUNS = "sweep.json", "results.jsonl", "runs"
# Of a tuned experiment, which is a sweep besides; the runs that were tried are a sweep in `TRIALS`.
TUNING, CHOICES, TRIALS = "tuning.json", "choices.json", "tuning"
EXPERIMENT = (CHOICES, TUNING)
# Of a sweep that several jobs share: of each job a folder with the names of its runs, their rows
# and checkpoints, until all rows are in `RESULTS`.
SHARDS, SHARE = holders.PARTS, "share.json"
CHECKPOINTS = "checkpoints"
REPLACEMENT = ".protonorm.replacement.json"
LONGER = ".protonorm.longer"  # A run of more rounds, until it takes the place of the shorter one.
_OF_MODELS = re.compile(r"client_\d{4,}\.safetensors|server\.safetensors|models\.json")
_OF_A_CHECKPOINT = ("_CHECKPOINT_METADATA", "document", "state")


def check_free(
    directory: Path,
    *,
    overwrite: bool,
    is_ours: Callable[[Path], bool] | None = None,
) -> None:
    """Refuses a directory that holds something that may not be replaced.

    Args:
      directory: for results.
      overwrite: whether earlier results may be replaced.
      is_ours: whether a directory holds earlier results; by default those of a run, a sweep or a
        tuned experiment.

    Raises:
      UsageError: there is something, and it is not to be replaced or no result of ours; or it is a
        file.
    """
    try:
        found = sorted(path for path in directory.iterdir() if not _is_passing(path))
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        if not directory.exists():  # But a file stands where a folder above it should be.
            raise UsageError(f"--out must be writable, got {str(directory)!r}: {error}") from error
        found = [directory]
    except OSError as error:
        raise UsageError(f"--out must be readable, got {str(directory)!r}: {error}") from error
    if not found:
        return
    if not overwrite or not directory.is_dir():
        raise UsageError(
            f"--out must be a new or empty directory unless --overwrite is given, got "
            f"{str(directory)!r}"
        )
    if not (is_ours or holds_results)(directory):
        raise UsageError(
            f"--out must hold a run or a sweep to be replaced with --overwrite, got "
            f"{str(directory)!r} with {found[0].name!r}, which was not made by protonorm"
        )
    folders = [directory / CHECKPOINTS]
    if is_tuned(directory):
        folders.append(directory / TRIALS / CHECKPOINTS)
    for path in (path for folder in folders for path in folder.glob("*") if is_ours is None):
        if path.name.isdigit() and not is_checkpoint(path):
            raise UsageError(f"--out must hold no {str(path)!r}, which is no checkpoint of ours")


def is_empty(directory: Path) -> bool:
    """Whether there is nothing in a directory, or no directory."""
    return not directory.is_dir() or all(_is_passing(path) for path in directory.iterdir())


def holds_results(directory: Path) -> bool:
    """Whether a run, a sweep or a tuned experiment is in a directory, told by what files hold."""
    return (directory / REPLACEMENT).exists() or bool(known_by(directory))


def known_by(directory: Path) -> str:
    """What is in a directory, told by what files hold.

    Returns:
      `TUNING`, `SWEEP` or `CONFIG` for a tuned experiment, a sweep or a run; or nothing.
    """
    if is_tuned(directory):
        return TUNING
    if _holds(directory / SWEEP, "base", "runs"):
        return SWEEP
    if not _holds(directory / CONFIG, "num_clients", "rounds"):
        return ""
    if _holds(directory / MANIFEST, "versions", "config_digest"):
        return CONFIG
    # Killed before it had compiled; a copy of a config among other files is no run.
    own = {*FILES, CHECKPOINTS, LONGER, MODELS, SELECTED}
    alone = all(path.name in own or _is_passing(path) for path in directory.iterdir())
    return CONFIG if alone else ""


def is_tuned(directory: Path) -> bool:
    """Whether a directory is a tuned experiment's, told by what its files hold."""
    return _holds(directory / TUNING, "base", "cells")


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder in `CHECKPOINTS` is one of ours, whole, damaged or never finished."""
    if not folder.is_dir() or folder.is_symlink():
        return False
    found = {path.name for path in folder.iterdir()}
    return not found or any(
        name == one or name.startswith(f"{one}.orbax-checkpoint-tmp")
        for name in found
        for one in _OF_A_CHECKPOINT
    )


def clear_checkpoints(directory: Path, *, but: int | None = None) -> None:
    """Removes the checkpoints in the directory of a run, but one if `but` is its number."""
    folder = directory / CHECKPOINTS
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            number = path.name.partition(".")[0]
            own = number.isdigit() and (path.name == number or "orbax-checkpoint-tmp" in path.name)
            if own and path.name != str(but) and is_checkpoint(path):
                shutil.rmtree(path, ignore_errors=True)
        folder.rmdir()


def replace(directory: Path, name: str, content: dict[str, Any]) -> None:
    """Makes a directory that of another run, sweep or tuned experiment.

    Args:
      directory: of one of these.
      name: of the file that the new one is known by, `CONFIG`, `SWEEP` or `TUNING`.
      content: of that file.

    Raises:
      OSError: something cannot be written.
    """
    replacement = {"name": name, "content": content, "moved": [], "tuned": is_tuned(directory)}
    files.write_json(directory / REPLACEMENT, replacement)
    complete(directory)


def replace_by_longer(directory: Path) -> None:
    """Puts the finished run in `LONGER` in the place of the one around it.

    Raises:
      OSError: something cannot be written.
    """
    names = (*FILES, CHECKPOINTS, MODELS, SELECTED)
    moved = [name for name in names if (directory / LONGER / name).exists()]
    moved.remove(CONFIG)
    content = json.loads((directory / LONGER / CONFIG).read_text(encoding="utf-8"))
    replacement = {"name": CONFIG, "content": content, "moved": moved}
    files.write_json(directory / REPLACEMENT, replacement)
    complete(directory)


def complete(directory: Path) -> None:
    """Ends the replacement of a run or sweep, which a kill may have cut short.

    Raises:
      OSError: something cannot be written.
    """
    path = directory / REPLACEMENT
    if not path.exists():
        return
    replacement = json.loads(path.read_text(encoding="utf-8"))
    moved = replacement["moved"]
    if CHECKPOINTS not in moved or any((directory / LONGER / CHECKPOINTS).glob("*")):
        clear_checkpoints(directory)
    for name in (*FILES, SWEEP, RESULTS, *EXPERIMENT):
        if name not in moved:
            (directory / name).unlink(missing_ok=True)
    if MODELS not in moved:  # Otherwise the new ones have the names of the old ones.
        remove_kept(directory / MODELS)
    if SELECTED not in moved or any((directory / LONGER / SELECTED).glob("*")):
        remove_selected(directory)
    _remove_runs(directory)
    remove_shards(directory)
    if not moved:  # A longer run goes on in them.
        folders.remove(directory)
    # Without that word it is another's, which only stands there.
    if replacement.get("tuned") and not (directory / TRIALS).is_symlink():
        _remove_trials(directory / TRIALS)
    for name in moved:
        with contextlib.suppress(FileNotFoundError):  # Moved before the kill.
            if name in (CHECKPOINTS, MODELS, SELECTED):
                _move_folder(directory, name)
            else:
                os.replace(directory / LONGER / name, directory / name)
    remove_longer(directory)
    files.write_json(directory / replacement["name"], replacement["content"])
    path.unlink()
    files.sync_folder(directory)


def _remove_runs(directory: Path) -> None:
    """Removes the directories of the runs of a sweep."""
    for folder in (directory / RUNS).glob("*"):
        ours = folder.name.isdigit() and folder.is_dir() and not folder.is_symlink()
        if ours and (is_empty(folder) or holds_results(folder)):
            remove(folder)
    with contextlib.suppress(OSError):
        (directory / RUNS).rmdir()


def _remove_trials(directory: Path) -> None:
    """Removes the sweep of the runs that were tried, and its directory if it has nothing else."""
    clear_checkpoints(directory)
    _remove_runs(directory)
    remove_shards(directory)
    remove_sweep(directory)
    with contextlib.suppress(OSError):
        files.remove_temporary(directory, (SWEEP, RESULTS))
        if holders.holder_of(directory) is None:
            (directory / holders.NAME).unlink(missing_ok=True)
        directory.rmdir()


def _move_folder(directory: Path, name: str) -> None:
    """Moves what a folder of the longer run holds: others' files may be in that of the shorter."""
    (directory / name).mkdir(exist_ok=True)
    # Last what says that they are whole.
    for path in sorted(
        (directory / LONGER / name).iterdir(), key=lambda one: one.suffix == ".json"
    ):
        os.replace(path, directory / name / path.name)


def is_of_models(path: Path) -> bool:
    """Whether a file in a folder of kept models is one of ours, whole or never finished."""
    name = path.name
    if files.is_temporary(path):
        return any(name.startswith(one) for one in (".client_", ".server.", ".models.json."))
    return bool(_OF_MODELS.fullmatch(name)) and path.is_file()


def remove_kept(folder: Path) -> None:
    """Removes kept models, and their folder if nothing else is in there."""
    with contextlib.suppress(OSError):
        # First what says that they are whole.
        for path in sorted(folder.iterdir(), key=lambda path: path.suffix != ".json"):
            if is_of_models(path):
                path.unlink(missing_ok=True)
        folder.rmdir()


def remove_selected(directory: Path, *, but: Collection[int] = ()) -> None:
    """Removes the models of rounds that were the best so far, but those of some."""
    with contextlib.suppress(OSError):
        for folder in (directory / SELECTED).iterdir():
            if folder.name.isdigit() and int(folder.name) not in but:
                remove_kept(folder)
        (directory / SELECTED).rmdir()


def remove_models(directory: Path, *, but: Collection[int] = ()) -> None:
    """Removes all models in the directory of a run, but those of some of the best rounds so far."""
    remove_kept(directory / MODELS)
    remove_selected(directory, but=but)


def remove(directory: Path) -> None:
    """Removes a run's files, and its directory if nothing else is in there."""
    with contextlib.suppress(OSError):
        clear_checkpoints(directory)
        remove_models(directory)
        for name in reversed(FILES):  # Last those by which it is known.
            (directory / name).unlink(missing_ok=True)
        files.remove_temporary(directory, FILES)
        directory.rmdir()


def shards(directory: Path) -> Iterator[Path]:
    """The folders of the jobs that share a sweep."""
    for folder in sorted((directory / SHARDS).glob("*-of-*")):
        if re.fullmatch(r"\d+-of-\d+", folder.name) and not folder.is_symlink():
            yield folder


def remove_shards(directory: Path) -> None:
    """Removes what jobs that share a sweep have beside it, but for those that are at work."""
    for folder in shards(directory):
        if holders.holder_of(folder) is None:
            clear_checkpoints(folder)
            with contextlib.suppress(OSError):
                for name in (RESULTS, SHARE, holders.NAME):
                    (folder / name).unlink(missing_ok=True)
                files.remove_temporary(folder, (RESULTS, SHARE))
                folder.rmdir()
    with contextlib.suppress(OSError):
        (directory / SHARDS).rmdir()


def remove_sweep(directory: Path) -> None:
    """Removes what a sweep has in its directory before any of its runs has begun."""
    for name in (RESULTS, SWEEP, *(() if is_tuned(directory) else (DASHBOARDS,))):
        with contextlib.suppress(OSError):
            (directory / name).unlink(missing_ok=True)


def remove_tuning(directory: Path) -> None:
    """Removes what a tuned experiment has in its directory before any of its runs has begun."""
    for name in (TUNING, DASHBOARDS):
        with contextlib.suppress(OSError):
            (directory / name).unlink(missing_ok=True)


def remove_longer(directory: Path) -> None:
    """Removes what is there of a run of more rounds."""
    remove(directory / LONGER)


def clean(directory: Path) -> None:
    """Removes what killed processes have left unfinished; for who has the lock."""
    names: Sequence[str] = (*FILES, SWEEP, RESULTS, *EXPERIMENT, REPLACEMENT)
    with contextlib.suppress(OSError):
        files.remove_temporary(directory, names)


def _holds(path: Path, *names: str) -> bool:
    """Whether a file is a JSON object that has these names."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and all(name in found for name in names)


def _is_passing(path: Path) -> bool:
    """Whether a file only tells of processes that are or were at work."""
    own = (*FILES, SWEEP, RESULTS, *EXPERIMENT, REPLACEMENT)
    unfinished = files.is_temporary(path) and any(path.name.startswith(f".{one}.") for one in own)
    return unfinished or path.name == holders.NAME or path.name.startswith(f"{holders.NAME}.")
