"""Experiments as files: each says what is run, how long that takes, and what came of it.

    python -m experiments --list
    python -m experiments scale                    # runs one, in runs/paper-quick/scale
    python -m experiments scale --size full --dry-run --stand-in
    python -m experiments --all                    # what `make paper-quick` does

A file of this folder is a docstring and `SIZES`, data alone. The sizes are

    quick  minutes on two cores, on data that the package ships: shows that it runs, and the
           direction of large effects
    small  hours on two cores, on real data that `--data` names, fewer samples and small nets
    full   for accelerators: original data, nets and rounds as the papers have them

All runs set validation samples apart, and are judged by the round that these choose.
`__main__` is the command, `runner` what it does; `bench` measures speed and memory.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Grid = Mapping[str, Sequence[Any]]
"""Values by name of a setting, all combinations of which are run."""


class Tuning(NamedTuple):
    """How settings are chosen for every cell of a sweep, by its validation samples.

    Attributes:
      settings: how many are tried.
      seeds: of each of them; final runs have other ones.
      rounds: of each of them.
    """

    settings: int
    seeds: int
    rounds: int


class Sweep(NamedTuple):
    """What `protonorm sweep` is to run.

    Attributes:
      base: settings of all runs, by name. Without `data` the command line must name them.
      grids: one after the other.
      seeds: of each point.
      tuning: how its learning rate and the settings of its method are chosen; None leaves them at
        their defaults.
    """

    base: Mapping[str, Any]
    grids: Sequence[Grid] = ({},)
    seeds: int = 1
    tuning: Tuning | None = None


class Timing(NamedTuple):
    """What alignment is to be timed on: `runner.cost`.

    Attributes:
      counts: of prototypes.
      repetitions: of each measurement; medians are given.
    """

    counts: Sequence[int]
    repetitions: int
