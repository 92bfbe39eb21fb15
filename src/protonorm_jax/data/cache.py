"""Where sets that are slow to read are kept, each as one numpy archive."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from protonorm_jax.data import npz
from protonorm_jax.types import Dataset


def folder(cache_dir: str | os.PathLike | None = None) -> Path:
    """The folder of the cache.

    Args:
      cache_dir: a folder to use; by default `$XDG_CACHE_HOME/protonorm_jax`, and without that
        variable `~/.cache/protonorm_jax`.

    Returns:
      The folder, which need not exist.
    """
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "protonorm_jax"


def load_or_make(
    key: str, make: Callable[[], Dataset], cache_dir: str | os.PathLike | None = None
) -> Dataset:
    """Reads a set from the cache, or makes it and keeps it there.

    Args:
      key: what the set was asked for by; it names the file.
      make: reads the set the slow way.
      cache_dir: as in `folder`.

    Returns:
      The set.

    Raises:
      UsageError: the file in the cache is broken (delete it), or the cache cannot be written.
    """
    path = folder(cache_dir) / (re.sub(r"[^\w.+-]", "-", key) + ".npz")
    if path.exists():
        return npz.load(str(path))
    dataset = make()
    npz.save(dataset, path)
    return dataset
