"""Which experiments there are."""

import difflib
import importlib
from collections.abc import Mapping
from pathlib import Path

from experiments import Sweep, Timing
from protonorm_jax.errors import UsageError

FOLDER = Path(__file__).parent.parent
SIZE_NAMES = ("quick", "small", "full")


def names() -> list[str]:
    """All of them: every file of the folder but those with a leading underscore."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def sizes(name: str) -> Mapping[str, Sweep | Timing]:
    """The sizes of an experiment.

    Raises:
      UsageError: there is no such experiment.
    """
    _check(name)
    return importlib.import_module(f"experiments.{name}").SIZES


def one(name: str, size: str) -> Sweep | Timing:
    """An experiment in one size.

    Raises:
      UsageError: there is no such experiment, or not in this size.
    """
    found = sizes(name)
    if size not in found:
        raise UsageError(f"--size must be {' or '.join(found)} for {name}, got {size!r}")
    return found[size]


def described(name: str) -> str:
    """The whole docstring of an experiment.

    Raises:
      UsageError: there is no such experiment.
    """
    _check(name)
    return importlib.import_module(f"experiments.{name}").__doc__ or ""


def _check(name: str) -> None:
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UsageError(f"NAME must be one of {', '.join(names())}, got {name!r}{hint}")
