"""A sweep as it is planned: its runs sorted by program; recorded, and planned again from that."""

import functools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from protonorm_jax import config, methods, settings
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import deal, samples
from protonorm_jax.planning import plan as planning
from protonorm_jax.planning.plan import Plan
from protonorm_jax.planning.targets import Target
from protonorm_jax.running import conditions, forms, manifests, reading
from protonorm_jax.running import directory as places
from protonorm_jax.running.grid import changed
from protonorm_jax.types import Dataset


class Sweep(NamedTuple):
    """A planned sweep.

    Attributes:
      base: the settings that runs have unless they say otherwise.
      changes: of each run, the settings in which it may differ.
      groups: of each program, the numbers of its runs.
      plans: of each program.
    """

    base: Config
    changes: list[dict[str, Any]]
    groups: list[list[int]]
    plans: list[Plan]


def plan(
    base: Config,
    changes: Sequence[dict[str, Any]],
    dataset: Dataset | samples.DataSets | None = None,
    *,
    runs_per_program: int | Sequence[int] = 0,
    vmap_runs: int = 0,
    num_shards: int = 1,
    target: Target | None = None,
) -> Sweep:
    """Sorts runs by what must be compiled for them, and plans each of the programs.

    Args:
      base: the settings that runs have unless they say otherwise.
      changes: of each run, see `grid.expand`.
      dataset: used instead of loading `Config.data`; or where to get that from.
      runs_per_program: see `plan.make`; or one for each program.
      vmap_runs: see `plan.make`.
      num_shards: how many jobs share the sweep; as far as `runs_per_program` leaves that open, so
        many runs train side by side that there is something for each.
      target: see `plan.make`.

    Raises:
      UsageError: settings that cannot be used, or too little memory.
    """
    configs = [changed(base, change) for change in changes]
    if any(one.keep_state for one in configs):
        raise UsageError("Config.keep_state must be false in a sweep, got True")
    by_program: dict[Config, list[int]] = {}
    for number, one in enumerate(configs):
        by_program.setdefault(deal.common(one), []).append(number)
    groups = list(by_program.values())
    if isinstance(runs_per_program, int):
        runs_per_program = [runs_per_program] * len(groups)
    sets = dataset if isinstance(dataset, samples.DataSets) else samples.DataSets(dataset)
    plans = []
    for group, count in zip(groups, runs_per_program, strict=True):
        make = functools.partial(
            planning.make,
            [configs[number] for number in group],
            sets,
            vmap_runs=vmap_runs,
            target=target,
        )
        made = make(runs_per_program=count)
        most = max(1, len(group) // math.ceil(num_shards / len(groups)))
        if count == 0 and made.runs_per_program > most:
            made = make(runs_per_program=most)
        plans.append(made)
    return Sweep(base, list(changes), groups, plans)


def resume(
    directory: Path,
    *,
    num_devices: int | None = None,
    dataset: Dataset | samples.DataSets | None = None,
) -> Sweep:
    """Plans the rest of a recorded sweep; `sweep.train` it with `resumed`.

    Args:
      directory: of the sweep.
      num_devices: `Config.devices` from now on; None leaves it as it was.
      dataset: used instead of loading `Config.data`; or where to get that from.

    Raises:
      UsageError: there is no sweep, or data or flags of jax are not as they were.
    """
    described = reading.read(directory / places.SWEEP, forms.sweep)
    check_origin(described, directory)
    planned = replan(described, directory, num_devices=num_devices, dataset=dataset)
    _check_conditions(planned, described, directory)
    return planned


def replan(
    described: Mapping[str, Any],
    directory: Path,
    *,
    num_devices: int | None = None,
    dataset: Dataset | samples.DataSets | None = None,
) -> Sweep:
    """Plans a recorded sweep again, whatever has become of what it depends on.

    Args:
      described: what `sweep.json` holds.
      directory: of the sweep.
      num_devices: `Config.devices` from now on; None leaves it as it was.
      dataset: used instead of loading `Config.data`; or where to get that from.

    Raises:
      UsageError: there is no plan; if the data are other ones, it says so.
    """
    base, changes = settled(described, described["runs"], num_devices)
    if "method_settings" not in described["base"]:
        changes = [config.without_unset(one.get("method", base.method), one) for one in changes]
    known = described.get("data_digests") or [None]
    with conditions.blaming_data(known[0], changed(base, changes[0]), dataset, directory):
        return plan(
            base,
            changes,
            dataset,
            runs_per_program=described["runs_per_program"],
            vmap_runs=described["vmap_runs"],
        )


def check_origin(described: Mapping[str, Any], directory: Path) -> None:
    """Refuses to go on without the files of methods of a sweep, or under other flags of jax.

    Args:
      described: with what `origin` returns.
      directory: of the sweep.

    Raises:
      UsageError: they are not as they were.
    """
    conditions.check_flags(described, directory)
    for recorded in [described["base"], *described.get("methods_files", [])]:
        manifests.check_methods_file(recorded)


def settled(
    described: Mapping[str, Any],
    changes: Sequence[Mapping[str, Any]],
    num_devices: int | None = None,
) -> tuple[Config, list[dict[str, Any]]]:
    """Recorded settings, and changes of them, whose relative paths are those of then.

    Args:
      described: with what `origin` returns.
      changes: as they were recorded.
      num_devices: `Config.devices` from now on; None leaves it as it was.

    Raises:
      UsageError: settings that cannot be used.
    """
    base = config.from_recorded(described["base"])
    if num_devices is not None:
        base = base.replace(devices=num_devices)
    bases = dict.fromkeys(settings.paths(Config), described.get("directory"))
    return base, [config.with_bases(one, bases) for one in changes]


def _check_conditions(sweep: Sweep, described: Mapping[str, Any], directory: Path) -> None:
    """Refuses to go on with a sweep on other data, or other shares of them.

    Raises:
      UsageError: they are not as they were.
    """
    known = zip(sweep.plans, described.get("data_digests", ()), data_digests(sweep), strict=False)
    for planned, then, now in known:
        conditions.check_data(then, now, planned.runs[0].config.data, directory)
    for before, initial in zip(described.get("initial_digests", ()), _initial(sweep), strict=False):
        conditions.check_initial(before, initial, directory)
    then = described.get("partition_digests", ())
    for one, other in zip(then, _partition_digests(sweep), strict=False):
        conditions.check_partition(one, other, directory)


def description(sweep: Sweep) -> list[dict[str, Any]]:
    """For each program what distinguishes it, its runs, and what it is expected to need."""
    names = reading.swept(sweep.changes)

    def fixed(planned: Plan, changes: Mapping[str, Any]) -> dict[str, Any]:
        """What the runs of a program have in common that others may not have."""
        varied = deal.varied(planned.program.config.method)
        return {name: changes[name] for name in changes if name.rpartition(".")[2] not in varied}

    every = [
        fixed(planned, sweep.changes[group[0]])
        for planned, group in zip(sweep.plans, sweep.groups, strict=True)
    ]
    shown = [name for name in names if any(name in one for one in every)]
    return [
        {
            "fixed": {name: own.get(name) for name in shown},
            "runs": len(planned.runs),
            "runs_per_program": planned.runs_per_program,
            "devices": len(planned.devices),
            "runs_each": planned.spread.runs_each,
            "vmap_runs": planned.spread.vmap_runs,
            "client_devices": planned.spread.client_devices,
            "bytes_per_device": planned.memory.total(),
            **planned.added._asdict(),
        }
        for planned, own in zip(sweep.plans, every, strict=True)
    ]


def notes(sweep: Sweep) -> list[str]:
    """What there is to say of the samples of all runs, in words."""
    first, *rest = (run.notes for planned in sweep.plans for run in planned.runs)
    return [note for note in first if all(note in others for others in rest)]


def run_name(number: int) -> str:
    """The name of a run, and of its folder."""
    return f"{number:04d}"


def configs(sweep: Sweep) -> list[list[Config]]:
    """Of each program, the settings of its runs."""
    return [[run.config for run in planned.runs] for planned in sweep.plans]


def data_digests(sweep: Sweep) -> list[str]:
    """Of each program, that of its data, made once for programs with the same."""
    known: dict[int, str] = {}
    for planned in sweep.plans:
        if id(planned.dataset.images) not in known:
            known[id(planned.dataset.images)] = conditions.data_digest(planned.dataset)
    return [known[id(planned.dataset.images)] for planned in sweep.plans]


def _partition_digests(sweep: Sweep) -> list[str]:
    """Of each run, in the order of the runs."""
    result = [""] * len(sweep.changes)
    for planned, group in zip(sweep.plans, sweep.groups, strict=True):
        for run, number in zip(planned.runs, group, strict=True):
            result[number] = conditions.partition_digest(run.partition)
    return result


def _initial(sweep: Sweep) -> list[str | None]:
    """Of each program, the digest of the nets that its clients start with; None if drawn."""
    return [one.initial.digest if one.initial else None for one in sweep.plans]


def to_record(sweep: Sweep, digests: Sequence[str]) -> dict[str, Any]:
    """All that is needed to plan a sweep again, and to know that it is the same."""
    return {
        **origin(sweep.base, sweep.changes),
        "runs": sweep.changes,
        "runs_per_program": [planned.runs_per_program for planned in sweep.plans],
        "vmap_runs": max(planned.spread.vmap_runs for planned in sweep.plans),
        "data_digests": list(digests),
        "partition_digests": _partition_digests(sweep),
        **({"initial_digests": _initial(sweep)} if any(_initial(sweep)) else {}),
    }


def origin(base: Config, changes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What runs are changes of, JSON-ready, and what else their bits depend on but their data."""
    return {
        "base": manifests.recorded_config(base),
        "methods_files": [
            {"method": name, "methods_file": file._asdict()}
            for name, file in methods.METHODS.files.items()
            if any(change.get("method") == name for change in changes)
        ],
        "directory": os.getcwd(),
        "flags": conditions.flags(),
    }
