"""What a tuned experiment tries: the same number of points for every method, drawn beforehand.

Every method gets the same learning rates in the same order, one for each of its points. The other
settings of a point are drawn from the ranges that the method's settings declare. Nothing is drawn
after the first run, and nothing depends on what came out.
"""

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from protonorm_jax import settings
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.running.grid import Grid, changed, expand

LEARNING_RATES = (0.001, 0.3)
"""The ends of the grid of learning rates, unless told otherwise."""
SEEDS_AFTER = 1_000_000
"""What the seeds of tuning runs have more than those that count."""
_SEEDS_END = 2**32


class Budget(NamedTuple):
    """What every method is given.

    Attributes:
      points: N, how many points are tried.
      seeds: K, how many runs each of them gets.
      rounds: of these runs; 0 for as many as the final ones have.
      low: the lowest learning rate.
      high: the highest one.
    """

    points: int
    seeds: int = 1
    rounds: int = 0
    low: float = LEARNING_RATES[0]
    high: float = LEARNING_RATES[1]


class Cell(NamedTuple):
    """A point of the grid, such as a method, which is tuned by itself.

    Attributes:
      changes: the settings of the grid, but for the seed.
      ranges: by setting, from where its values were drawn, JSON-ready.
      points: the settings of each point, in the order tried.
    """

    changes: dict[str, Any]
    ranges: dict[str, dict[str, Any]]
    points: list[dict[str, Any]]


class Trials(NamedTuple):
    """All that is tried, and what comes after it.

    Attributes:
      cells: of the grid.
      seeds: of the tuning runs, the same for all points.
      rounds: of the tuning runs; None where each has those of its cell.
      final_seeds: of the runs at the chosen settings.
      learning_rates: in the order tried.
    """

    cells: list[Cell]
    seeds: list[int]
    rounds: int | None
    final_seeds: list[int]
    learning_rates: list[float]

    def changes(self) -> list[dict[str, Any]]:
        """Of each tuning run, by cell, point and seed, what it has other than `base`."""
        return [
            {**cell.changes, **self._rounds(cell), **point, "seed": seed}
            for cell in self.cells
            for point in cell.points
            for seed in self.seeds
        ]

    def final_changes(self, points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Of each final run, by cell and seed, the same.

        Args:
          points: of each cell, the one to use.
        """
        return [
            {**cell.changes, **point, "seed": seed}
            for cell, point in zip(self.cells, points, strict=True)
            for seed in self.final_seeds
        ]

    def base(self, base: Config) -> Config:
        """What the changes of tuning runs are changes of."""
        rounds = base.rounds if self.rounds is None else self.rounds
        return base.replace(rounds=rounds, keep_models="none")  # Nobody asks for theirs.

    def _rounds(self, cell: Cell) -> dict[str, int]:
        if self.rounds is None or "rounds" not in cell.changes:
            return {}
        return {"rounds": self.rounds}


def draw(
    base: Config,
    grid: Grid | Sequence[Grid],
    budget: Budget,
    *,
    seeds: int = 1,
    given: Collection[str] = (),
) -> Trials:
    """Draws what is tried; equal arguments give equal points.

    Args:
      base: the settings that runs have unless the grid says otherwise.
      grid: values by name of a setting; or several such grids, one after the other.
      budget: for each point of the grid.
      seeds: how many runs at the chosen settings, with seeds from `base.seed` on.
      given: settings of the method that have been decided on, and are not drawn; those that do not
        have their default are not drawn either.

    Raises:
      UsageError: an argument that cannot be used.
    """
    grids = [grid] if isinstance(grid, Mapping) else list(grid)
    _check_budget(budget)
    for name in ("learning_rate", "seed"):
        if any(name in one for one in grids):
            instead = {"learning_rate": "--tune-learning-rates", "seed": "--seeds"}[name]
            raise UsageError(f"grid: {name} must be left out with --tune; {instead} says which")
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise UsageError(f"seeds must be an integer >= 1, got {seeds!r}")
    first = base.seed + SEEDS_AFTER
    if seeds > SEEDS_AFTER or first + budget.seeds > _SEEDS_END:
        raise UsageError(
            f"--seed must be < {_SEEDS_END - SEEDS_AFTER - budget.seeds + 1} and --seeds <= "
            f"{SEEDS_AFTER} with --tune, as tuning runs have seeds from {SEEDS_AFTER} more on, got "
            f"{base.seed} and {seeds}"
        )
    points = expand(base, grids, 1)
    learning_rates = _learning_rates(budget, base.seed)
    cells = []
    for point in points:
        del point["seed"]
        cells.append(_cell(base, point, learning_rates, given))
    varies = any("rounds" in one for one in grids)
    rounds = budget.rounds or (None if varies else base.rounds)
    return Trials(
        cells,
        list(range(first, first + budget.seeds)),
        rounds,
        list(range(base.seed, base.seed + seeds)),
        learning_rates,
    )


def problems(base: Config, trials: Trials) -> list[str]:
    """What of recorded trials was not drawn as they say; nothing if all of it was.

    Args:
      base: as it was recorded.
      trials: likewise.
    """
    result = []
    rates = trials.learning_rates
    budget = Budget(len(rates), len(trials.seeds), trials.rounds or 0, min(rates), max(rates))
    if len(rates) > 1 and rates != _learning_rates(budget, base.seed):
        result.append(f"learning_rates are not those of seed {base.seed}")
    first = base.seed + SEEDS_AFTER
    if trials.seeds != list(range(first, first + len(trials.seeds))):
        result.append(f"seeds are not those from {first} on")
    if trials.final_seeds != list(range(base.seed, base.seed + len(trials.final_seeds))):
        result.append(f"final_seeds are not those from {base.seed} on")
    for number, cell in enumerate(trials.cells):
        if cell.ranges.get("learning_rate") != {"values": rates}:
            result.append(f"the learning rates of cell {number} are not those of all")
        method = changed(base, cell.changes).method
        drawn = values_of(cell.ranges, len(rates), base.seed, method, cell.changes)
        if cell.points != drawn:
            result.append(f"the points of cell {number} are not those of seed {base.seed}")
    return result


def values_of(
    ranges: Mapping[str, Mapping[str, Any]], count: int, seed: int, method: str, changes: Mapping
) -> list[dict[str, Any]]:
    """The points of a cell, from where they are drawn.

    Each range is cut into as many equal parts as there are points, along its scale. A value is
    drawn from each part, and the values are dealt to the points in an order of their own.

    Args:
      ranges: see `Cell`.
      count: N.
      seed: of the base.
      method: its name.
      changes: of the cell.
    """
    values: dict[str, Sequence[Any]] = {}
    for name, found in ranges.items():
        if "values" in found:
            values[name] = found["values"]
        else:
            drawn = settings.Range(found["low"], found["high"], found["scale"])
            places = _places(count, seed, method, changes, name)
            values[name] = [drawn.at(place) for place in places]
    return [{name: column[i] for name, column in values.items()} for i in range(count)]


def _cell(
    base: Config, changes: dict[str, Any], learning_rates: list[float], given: Collection[str]
) -> Cell:
    """A cell, and what is tried there."""
    config = changed(base, changes)
    if not config.validation_fraction > 0:
        raise UsageError(
            "Config.validation_fraction must be > 0 with --tune, as settings are chosen by "
            f"validation accuracy, got {config.validation_fraction}"
        )
    group = settings.groups()[config.method]
    decided = {name.rpartition(".")[2] for name in changes}
    if config.method == base.method:
        plain = settings.fields(group)
        decided |= {
            name
            for name, value in base.method_settings.items()
            if name in given or value != plain[name].default
        }
    ranges: dict[str, dict[str, Any]] = {"learning_rate": {"values": learning_rates}}
    for name, found in settings.ranges(group).items():
        if name not in decided:
            ranges[name] = {
                "low": float(found.low),
                "high": float(found.high),
                "scale": found.scale,
            }
    count = len(learning_rates)
    return Cell(changes, ranges, values_of(ranges, count, base.seed, config.method, changes))


def _learning_rates(budget: Budget, seed: int) -> list[float]:
    """N of them, evenly on a logarithmic scale, in the order tried."""
    count, low, high = budget.points, budget.low, budget.high
    even = np.geomspace(low, high, count) if count > 1 else [math.sqrt(low * high)]
    rates = [low, *(float(f"{rate:.6g}") for rate in even[1:-1]), high]
    rates = rates if count > 1 else [float(f"{even[0]:.6g}")]
    if len(set(rates)) < count:
        raise UsageError(f"--tune must leave learning rates that differ, got {count}")
    order = np.argsort(_generator(seed, "learning_rate").random(count))
    return [rates[i] for i in order]


def _places(count: int, *names: Any) -> np.ndarray:
    """`[count]` numbers in [0, 1), one in each of `count` equal parts, in a random order."""
    generator = _generator(*names)
    return (np.argsort(generator.random(count)) + generator.random(count)) / count


def _generator(*names: Any) -> np.random.Generator:
    """A generator for what these names stand for: PCG64, seeded with the SHA-256 of their JSON."""
    text = json.dumps(["tune", *names], sort_keys=True)
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def _check_budget(budget: Budget) -> None:
    """Refuses what cannot be spent."""
    for name, least in (("points", 1), ("seeds", 1), ("rounds", 0)):
        value = getattr(budget, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            flag = "--tune" if name == "points" else f"--tune-{name}"
            raise UsageError(f"{flag} must be an integer >= {least}, got {value!r}")
    if not 0 < budget.low < budget.high < math.inf:
        raise UsageError(
            "--tune-learning-rates must be LOW:HIGH with 0 < LOW < HIGH, got "
            f"{budget.low}:{budget.high}"
        )
