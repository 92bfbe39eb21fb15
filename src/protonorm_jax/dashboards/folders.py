"""The folders of dashboards in a directory of results: which are ours, and how they go."""

import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

from protonorm_jax.errors import UsageError

FOLDERS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlruns"}
_MARK = ".protonorm"
_WORDS = "Made by protonorm --log, and removed by it when another run takes this place.\n"

_MAKING = threading.Lock()  # Runs of a sweep start together.


def make(directory: Path, name: str) -> Path:
    """Makes the folder of a dashboard, and marks it as ours.

    Args:
      directory: of the results.
      name: of the dashboard.

    Raises:
      FileExistsError: there is something else of that name.
      OSError: it cannot be made.
    """
    folder = directory / FOLDERS[name]
    with _MAKING:
        if not _is_free(folder):
            raise FileExistsError(f"{folder} was not made by protonorm")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _MARK).write_text(_WORDS, encoding="utf-8")
    return folder


def check(directory: Path, names: Iterable[str]) -> None:
    """Refuses a directory in which the folder of a dashboard is somebody else's.

    Raises:
      UsageError: there is one.
    """
    for folder in (directory / FOLDERS[name] for name in names):
        if not _is_free(folder):
            raise UsageError(
                f"--out must hold no {folder.name!r} but one that was made with --log, got "
                f"{str(folder)!r}"
            )


def remove(directory: Path) -> None:
    """Removes the folders of dashboards that are ours."""
    for folder in (directory / name for name in FOLDERS.values()):
        if _is_ours(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_free(folder: Path) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return not folder.is_symlink() and not folder.exists()
    return _is_ours(folder) or not any(folder.iterdir())


def _is_ours(folder: Path) -> bool:
    return (folder / _MARK).is_file() and not folder.is_symlink()
