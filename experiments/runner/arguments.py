"""From an experiment and the flags of the user to the command line of `protonorm sweep`."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments import Sweep
from protonorm_jax.errors import UsageError

Grids = list[dict[str, list[Any]]]

_OURS = ("--config", "--grid-file", "--overwrite")


def flags(sweep: Sweep, name: str, given: Sequence[str]) -> list[str]:
    """The flags of a sweep but `--out` and `--grid-file`; those given come last, and win.

    Args:
      sweep: the experiment.
      name: of it.
      given: flags of `protonorm sweep`, as on the command line.

    Raises:
      UsageError: a flag that the experiment has for itself, or no data.
    """
    for flag in _OURS:
        if flag in _named(given):
            raise UsageError(f"{flag} must be left out: an experiment has it for itself")
    if "data" not in sweep.base and "--data" not in _named(given):
        if not any("data" in grid for grid in sweep.grids):
            raise UsageError(f"--data must be given for {name}, see `python -m experiments {name}`")
    result = []
    for setting, value in sweep.base.items():
        result += _flag(setting, value)
    result += ["--seeds", str(sweep.seeds)]
    if sweep.tuning:
        tuning = sweep.tuning
        result += ["--tune", str(tuning.settings), "--tune-seeds", str(tuning.seeds)]
        result += ["--tune-rounds", str(tuning.rounds)]
    return [*result, *given]


def grids(sweep: Sweep, given: Sequence[str]) -> Grids:
    """The grids of a sweep, without the axes that the flags given stand in place of.

    What has one value only makes a grid what it is, as the number of clients does of pooled
    training, and stays; data never do.
    """
    replaced = {flag.removeprefix("--").replace("-", "_") for flag in _named(given)}
    replaced |= {text.partition("=")[0].replace("-", "_") for text in _axes(given)}
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


def _flag(setting: str, value: Any) -> list[str]:
    name = setting.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", str(value)]


def _named(given: Sequence[str]) -> list[str]:
    """The names of the flags among the words of a command line."""
    return [word.partition("=")[0] for word in given if word.startswith("--")]


def _axes(given: Sequence[str]) -> list[str]:
    """What is given to `--grid`."""
    after = [word for flag, word in zip(given, given[1:], strict=False) if flag == "--grid"]
    return after + [word.partition("=")[2] for word in given if word.startswith("--grid=")]


def words(sweep: Sweep, name: str, given: Sequence[str]) -> Mapping[str, Any]:
    """What is asked for, JSON-ready: equal for calls that may go on with each other's results."""
    return {
        "experiment": name,
        "flags": flags(sweep, name, given),
        "grids": grids(sweep, given),
    }
