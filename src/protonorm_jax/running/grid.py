"""Grids of settings: what runs a sweep is of."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from protonorm_jax import documents, settings
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError

Grid = Mapping[str, Sequence[Any]]
"""Values by name of a setting."""


def expand(base: Config, grid: Grid | Sequence[Grid], seeds: int = 1) -> list[dict[str, Any]]:
    """All combinations of a grid, each with several seeds.

    An axis is a field of `Config`, a setting of every method in the grid (`scale`), or a setting of
    one of them (`fedtgp.margin`), which multiplies the points of that method alone.

    Args:
      base: the settings that runs have unless the grid says otherwise.
      grid: values by name of a setting; or several such grids, one after the other.
      seeds: how many, from `base.seed` on; 1 for a grid of seeds.

    Returns:
      For each run the settings in which it may differ from `base`, `seed` last.

    Raises:
      UsageError: an unknown setting, a value that it cannot have, or one that is there twice.
    """
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise UsageError(f"seeds must be an integer >= 1, got {seeds!r}")
    changes: list[dict[str, Any]] = []
    for one in [grid] if isinstance(grid, Mapping) else grid:
        _check_axes(base, one, seeds)
        for point in _points(base, one):
            first = point.pop("seed", base.seed)
            for seed in range(first, first + seeds) if seeds > 1 else [first]:
                changes.append(_checked(base, {**point, "seed": seed}))
    seen = set()
    for change in changes:
        config = changed(base, change)
        if config in seen:
            raise UsageError(f"grid must have each run once, got {change} twice")
        seen.add(config)
    return changes


def changed(base: Config, change: Mapping[str, Any]) -> Config:
    """The settings of a run that differs from `base` in `change`, see `expand`.

    Raises:
      UsageError: an unknown setting, or a value that it cannot have.
    """
    return base.replace(**{name.rpartition(".")[2]: value for name, value in change.items()})


def _points(base: Config, grid: Grid) -> Iterator[dict[str, Any]]:
    """All combinations; a method meets the values of its own axes alone."""
    for choice in itertools.product(*(range(len(values)) for values in grid.values())):
        index = dict(zip(grid, choice, strict=True))
        method = grid["method"][index["method"]] if "method" in grid else base.method
        foreign = [name for name in grid if "." in name and not name.startswith(f"{method}.")]
        if not any(index[name] for name in foreign):
            yield {name: grid[name][index[name]] for name in grid if name not in foreign}


def _checked(base: Config, change: Mapping[str, Any]) -> dict[str, Any]:
    """The same changes, their values in their own types."""
    config = changed(base, change)
    values = config.to_dict() | config.to_dict()["method_settings"]
    return {name: values[name.rpartition(".")[2]] for name in change}


def _check_axes(base: Config, grid: Grid, seeds: int) -> None:
    """Refuses axes that mean nothing, or not the same for all methods of the grid."""
    for name, values in grid.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not len(values):
            raise UsageError(f"grid: {name} must have a list of values, got {values!r}")
    if "seed" in grid and seeds > 1:
        raise UsageError(f"seeds must be 1 for a grid of seeds, got {seeds}")
    names = [base.replace(method=name).method for name in grid.get("method", [base.method])]
    if "method" in grid:
        plain = Config(method=base.method).method_settings
        for name, value in base.method_settings.items():
            if value != plain[name]:
                raise UsageError(
                    f"{name} must be given as an axis of its method in a grid of methods, such as "
                    f"{base.method}.{name}={value}, got a plain setting"
                )
    for axis in grid:
        owner, dot, name = axis.rpartition(".")
        if dot and owner not in names:
            raise UsageError(
                f"grid: {axis} must be of a method in the grid, {', '.join(names)}, got {owner!r}"
                f"{settings.hint(owner, names)}"
            )
        for method in [owner] if dot else names:
            known = settings.fields(settings.groups()[method])
            if name in known or (not dot and name in settings.fields(Config)):
                continue
            if dot:
                raise UsageError(
                    f"grid: {owner} has no setting {name!r}{settings.hint(name, known)}"
                )
            having = [
                one for one in settings.groups() if name in settings.fields(settings.groups()[one])
            ]
            if having:
                raise UsageError(
                    f"grid: {name} must be a setting of every method in the grid, {method} has "
                    f"none; {having[0]}.{name} is for {having[0]} alone"
                )
            everything = [*settings.fields(Config), *known]
            raise UsageError(
                f"grid: {name!r} must be a setting{settings.hint(name, everything)}, got none"
            )


def read_grid(path: str | Path) -> list[Grid]:
    """Reads a file with one grid, values by name of a setting, or a list of grids.

    In TOML and YAML the list is under the name `grids`. Settings of one method may be in a table of
    the method's name.

    Args:
      path: of a TOML, YAML or JSON file, told by its ending.

    Raises:
      UsageError: it is missing, or not such a file.
    """
    form = documents.form_of(path)
    try:
        found = documents.read(path).value
    except (OSError, ValueError) as error:
        raise UsageError(
            f"grid must be a readable {form} file, got {str(path)!r}: {error}"
        ) from error
    if isinstance(found, dict) and list(found) == ["grids"]:
        found = found["grids"]
    grids = found if isinstance(found, list) else [found]
    if not grids or not all(isinstance(grid, dict) for grid in grids):
        raise UsageError(f"grid must hold values by setting or a list of such, got {str(path)!r}")
    return [_flat(grid, path) for grid in grids]


def _flat(grid: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """A grid, the axes in tables of methods with the method before a dot."""
    result: dict[str, Any] = {}
    for name, values in grid.items():
        own = (
            {f"{name}.{key}": one for key, one in values.items()}
            if isinstance(values, dict)
            else {}
        )
        for axis, one in (own or {name: values}).items():
            if axis in result:
                raise UsageError(f"grid must have {axis} once, got it again in {str(path)!r}")
            result[axis] = one
    return result
