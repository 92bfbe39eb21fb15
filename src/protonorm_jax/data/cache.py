"""Where sets that are slow to read are kept, each as one numpy archive.

A set is found again by the digest of the files it was made from, never by their place or time. A
file in the cache may be deleted at any time.
"""

import contextlib
import hashlib
import json
import os
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from protonorm_jax.data import checks, files, npz
from protonorm_jax.errors import Caution, UsageError
from protonorm_jax.types import Dataset

FORMAT = 1
"""Counted up when the same files make another set than before: what is kept is then made again."""


_LEFT_AFTER = 24 * 3600.0
"""Seconds after which a temporary file is nobody's."""


def folder(cache_dir: str | os.PathLike | None = None) -> Path:
    """The folder of the cache.

    Args:
      cache_dir: a folder to use; by default `$XDG_CACHE_HOME/protonorm_jax`, and without that
        variable `~/.cache/protonorm_jax`.

    Returns:
      The folder, which need not exist.

    Raises:
      UsageError: there is no home folder.
    """
    if cache_dir is not None:
        return files.path_of(os.fspath(cache_dir))
    return files.path_of(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "protonorm_jax"


def key(*values: object) -> str:
    """Hex digits that stand for values that JSON can hold, and for `FORMAT`."""
    text = json.dumps([FORMAT, *values])
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def load_or_make(
    kind: str,
    digest: Callable[[], str],
    make: Callable[[], Dataset],
    cache_dir: str | os.PathLike | None = None,
) -> Dataset:
    """Reads a set from the cache, or makes it and keeps it there.

    A file in the cache that is broken is made again. A cache that cannot be written is a warning.
    A set whose files change while they are read is not kept.

    Args:
      kind: how the file's name begins.
      digest: reads what the set is made from and gives its `key`.
      make: reads the set the slow way.
      cache_dir: as in `folder`.

    Returns:
      The set.
    """
    try:
        place = folder(cache_dir)
    except UsageError as error:
        warnings.warn(f"nothing is kept of what is decoded: {error}", Caution, stacklevel=2)
        return make()
    before = digest()
    path = place / f"{kind}-{before}.npz"
    dataset = read(path)
    if dataset is None:
        dataset = make()
        if digest() == before:
            _keep(dataset, path)
    return dataset


def only(kind: str, cache_dir: str | os.PathLike | None = None) -> Dataset | None:
    """The set of a kind where the cache holds exactly one, for when no files are left to digest."""
    pattern = re.compile(re.escape(kind) + r"-[0-9a-f]{40}\.npz")
    try:
        found = [one for one in folder(cache_dir).iterdir() if pattern.fullmatch(one.name)]
    except (OSError, UsageError):
        return None
    return read(found[0]) if len(found) == 1 else None


def read(path: Path) -> Dataset | None:
    """The set that a file of the cache holds; None if it is missing or broken."""
    try:
        with (
            checks.reading(path),
            open(path, "rb") as file,
            np.load(file, allow_pickle=False) as archive,
        ):
            return checks.dataset(
                archive["images"],
                archive["labels"],
                origin=str(path),
                name=str(archive["name"]),
                num_classes=int(archive["num_classes"]),
                parts=archive["parts"] if "parts" in archive.files else None,
            )
    except (UsageError, AttributeError, TypeError):  # The last two where it is no archive.
        return None


def _keep(dataset: Dataset, path: Path) -> None:
    """Writes a set, or says that it cannot be."""
    _clear(path.parent)
    try:
        npz.save(dataset, path)
    except UsageError as error:
        warnings.warn(f"{error}; it is decoded again next time", Caution, stacklevel=2)


def _clear(parent: Path) -> None:
    """Removes what processes left that were killed while they wrote."""
    for left in parent.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _LEFT_AFTER:
                left.unlink()
