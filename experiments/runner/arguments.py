"""From an experiment and the flags of the user to the command line of `protonorm sweep`."""

import contextlib
import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments import Sweep
from protonorm_jax.errors import UsageError

Grids = list[dict[str, list[Any]]]

_OURS = ("--config", "--grid-file", "--overwrite")


def flags(sweep: Sweep, name: str, given: Sequence[str]) -> list[str]:
    """The flags of a sweep but `--out` and `--grid-file`, those given in place of its own.

    Args:
      sweep: the experiment.
      name: of it.
      given: flags of `protonorm sweep`, as on the command line.

    Raises:
      UsageError: a flag that the experiment has for itself, or no data.
    """
    named = _named(given)
    for flag in _OURS:
        if flag in named:
            raise UsageError(f"{flag} must be left out: an experiment has it for itself")
    if "--data" not in named and not any("data" in one for one in (sweep.base, *sweep.grids)):
        raise UsageError(f"--data must be given for {name}, as its file says")
    own = dict(sweep.base) | {"seeds": sweep.seeds}
    if sweep.tuning:
        own |= {"tune": sweep.tuning.settings, "tune_seeds": sweep.tuning.seeds}
        own |= {"tune_rounds": sweep.tuning.rounds}
    replaced = _settings(given)
    flags = [_flag(setting, value) for setting, value in own.items() if setting not in replaced]
    return [*itertools.chain(*flags), *given]


def grids(sweep: Sweep, given: Sequence[str]) -> Grids:
    """The grids of a sweep, without the axes that the flags given stand in place of.

    What has one value only makes a grid what it is, as the number of clients does of pooled
    training, and stays; data never do.
    """
    replaced = _settings(given)
    result: Grids = []
    for grid in sweep.grids:
        own = {
            name: list(values)
            for name, values in grid.items()
            if name not in replaced or (len(values) == 1 and name != "data")
        }
        if own not in result:
            result.append(own)
    return result


@contextlib.contextmanager
def grid_file(grids: Grids) -> Iterator[Path]:
    """Within, a file for `--grid-file`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grid.json"
        path.write_text(json.dumps(grids), encoding="utf-8")
        yield path


def words(sweep: Sweep, name: str, given: Sequence[str]) -> dict[str, Any]:
    """What is asked for, JSON-ready: equal for calls that may go on with each other's results."""
    return {
        "experiment": name,
        "flags": flags(sweep, name, given),
        "grids": grids(sweep, given),
    }


def _flag(setting: str, value: Any) -> list[str]:
    name = setting.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", str(value)]


def _settings(given: Sequence[str]) -> set[str]:
    """The names of the settings that a command line sets or varies."""
    names = [flag.removeprefix("--").removeprefix("no-") for flag in _named(given)]
    names += [text.partition("=")[0] for text in _axes(given)]
    return {name.replace("-", "_") for name in names}


def _named(given: Sequence[str]) -> list[str]:
    """The names of the flags among the words of a command line."""
    return [word.partition("=")[0] for word in given if word.startswith("--")]


def _axes(given: Sequence[str]) -> list[str]:
    """What is given to `--grid`."""
    after = [word for flag, word in itertools.pairwise(given) if flag == "--grid"]
    return after + [word.partition("=")[2] for word in given if word.startswith("--grid=")]
