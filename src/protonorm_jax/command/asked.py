"""What a command line asks to be trained: a sweep, of one run at least, or a tuned experiment."""

import argparse
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from protonorm_jax.command import flags
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import samples
from protonorm_jax.planning.targets import Target
from protonorm_jax.running import points, shards, sweep, tuning


class Asked(NamedTuple):
    """What is asked for.

    Attributes:
      base: the settings that runs have unless they say otherwise.
      grids: see `sweep.expand`.
      seeds: runs of each point.
      sizes: the numbers `runs_per_program` and `vmap_runs`, see `planning.plan.make`.
      budget: of the tuning; None for a sweep.
      given: settings of the method that are not tuned.
      shard: which job's share of a sweep; None for all of it.
    """

    base: Config
    grids: Sequence[sweep.Grid]
    seeds: int
    sizes: dict[str, Any]
    budget: points.Budget | None
    given: list[str]
    shard: shards.Shard | None


def read(parsed: argparse.Namespace) -> Asked:
    """Reads the flags of a sweep.

    Raises:
      UsageError: a setting that cannot be used, here or in a sweep.
    """
    base = flags.chosen(parsed)
    grids = sweep.read_grid(parsed.grid_file) if parsed.grid_file else [{}]
    for text in parsed.grid:
        name, values = flags.grid_axis(text)
        if any(name in grid for grid in grids):
            raise UsageError(f"--grid must name each setting once, got {name} again")
        grids = [{**grid, name: values} for grid in grids]
    given = flags.given_settings(parsed)
    for name in given:
        if any("method" in grid for grid in grids):
            raise UsageError(
                f"--{name.replace('_', '-')} must be given as --grid {base.method}.{name}="
                f"{base.method_settings[name]} in a sweep over methods"
            )
    sizes = {"runs_per_program": parsed.runs_per_program, "vmap_runs": parsed.vmap_runs}
    asked = Asked(base, grids, parsed.seeds, sizes, _budget(parsed, base), given, _shard(parsed))
    # Refuses what it can before jax starts.
    if asked.budget:
        points.draw(base, grids, asked.budget, seeds=asked.seeds, given=given)
    else:
        sweep.expand(base, grids, asked.seeds)
    return asked


def _budget(parsed: argparse.Namespace, base: Config) -> points.Budget | None:
    """What the tuning may take; None without `--tune`."""
    if parsed.tune is None:
        for name in ("tune_seeds", "tune_rounds", "tune_learning_rates"):
            if getattr(parsed, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')} must be left out without --tune")
        return None
    if "learning_rate" in parsed:
        raise UsageError(
            f"--learning-rate must be left out with --tune, got {base.learning_rate}; "
            "--tune-learning-rates says which are tried"
        )
    low, high = parsed.tune_learning_rates or points.LEARNING_RATES
    seeds = 1 if parsed.tune_seeds is None else parsed.tune_seeds
    return points.Budget(parsed.tune, seeds, parsed.tune_rounds or 0, low, high)


def _shard(parsed: argparse.Namespace) -> shards.Shard | None:
    """Which job's share is asked for; None without `--shard`."""
    if parsed.shard is None:
        return None
    for name in ("tune", "overwrite"):
        if getattr(parsed, name):
            raise UsageError(f"--{name} must be left out with --shard, got --shard {parsed.shard}")
    if not parsed.out:
        raise UsageError(
            f"--out must be given with --shard, the same for all jobs, got --shard {parsed.shard}"
        )
    return shards.parse(parsed.shard, os.environ)


def plan_sweep(
    asked: Asked, target: Target | None = None, sets: samples.DataSets | None = None
) -> sweep.Sweep:
    """Plans a sweep.

    Args:
      asked: without a budget.
      target: see `planning.plan.make`.
      sets: where to get the data from.

    Raises:
      UsageError: settings that cannot be used, or too little memory.
    """
    changes = sweep.expand(asked.base, asked.grids, asked.seeds)
    num_shards = asked.shard.num_shards if asked.shard else 1
    sizes = {"num_shards": num_shards, **asked.sizes}
    return sweep.plan(asked.base, changes, sets, target=target, **sizes)


def plan_tuned(asked: Asked, target: Target | None = None) -> tuning.Experiment:
    """Plans a tuned experiment.

    Args:
      asked: with a budget.
      target: see `planning.plan.make`.

    Raises:
      UsageError: settings that cannot be used, or too little memory.
    """
    assert asked.budget is not None
    options: dict[str, Any] = {"seeds": asked.seeds, "given": asked.given, **asked.sizes}
    return tuning.plan(asked.base, asked.grids, asked.budget, target=target, **options)
