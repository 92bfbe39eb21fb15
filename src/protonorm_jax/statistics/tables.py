"""What a comparison comes to: a result for each arm, and mean ranks over data sets."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from protonorm_jax.errors import UsageError
from protonorm_jax.statistics import intervals
from protonorm_jax.statistics.comparison import Arm, Comparison, training_settings
from protonorm_jax.statistics.intervals import Interval
from protonorm_jax.statistics.runs import (
    Run,
    clients_right,
    column,
    has_diverged,
    outcome,
    predictors,
    quoted,
    yardstick,
)

LOCAL = "local"
"""The method without any exchange, that others are held against."""
FEWEST_SAMPLES = 20
"""Test samples of a client that counts among the worst or the best."""


class Difference(NamedTuple):
    """An arm less the one that it is held against, by seed.

    Attributes:
      against: label of the other arm.
      pairs: how many seeds both have, with the same partition.
      seeds: which.
      values: of each pair the difference.
      mean: of these.
      interval: Student's, of the mean.
      bootstrap: bootstrap-t, from `intervals.FEWEST_TO_RESAMPLE` pairs on.
      p: of a mean of zero, two-sided, Student's.
      holm: the same after Holm's correction.
      holm_over: the number of comparisons that it was corrected over.
      unpaired: seeds that only one has, or with another partition, and which.
    """

    against: str
    pairs: int
    seeds: list[int]
    values: list[float]
    mean: float | None
    interval: Interval | None
    bootstrap: Interval | None
    p: float | None
    holm: float | None
    holm_over: int
    unpaired: list[str]


class Clients(NamedTuple):
    """How clients fare, in the round that a run is quoted with; means over the seeds.

    None where not all seeds have recorded it. Clients without test samples are left out.

    Attributes:
      mean: of the clients' accuracies, each counted once.
      spread: standard deviation of the clients' accuracies.
      worst_tenth: mean accuracy of the worst tenth, rounded up, of the clients with
        `FEWEST_SAMPLES`.
      best_tenth: likewise of the best.
      counted: how many clients of a seed have so many, at the mean.
      worse_than_local: share of clients with fewer right answers than under Local with the same
        seed and partition.
      local: label of that arm.
      pairs: the seeds for which there is one.
    """

    mean: float | None
    spread: float | None
    worst_tenth: float | None
    best_tenth: float | None
    counted: float | None
    worse_than_local: float | None
    local: str | None
    pairs: int


class Reach(NamedTuple):
    """What it takes to reach the mean, over seeds, that Local ends with.

    Attributes:
      local: label of that arm.
      target: its mean.
      rounds: median over the seeds of the first evaluated round that reaches the target; None if
        half of them or more do not. One that has diverged does not.
      floats: median over the seeds of the floats sent up and down until then.
      reached: how many seeds reach it.
      seeds: of how many.
    """

    local: str
    target: float
    rounds: float | None
    floats: float | None
    reached: int
    seeds: int


class Seconds(NamedTuple):
    """What an arm took: means over its runs, and the tuning in all.

    Attributes:
      training: and evaluation.
      compilation: of the program.
      tuning: of all runs that chose its settings; None if it was not tuned.
    """

    training: float | None
    compilation: float | None
    tuning: float | None


class Result(NamedTuple):
    """What an arm comes to. All accuracies are shares in [0, 1]; what is not known is None.

    Attributes:
      label: of the arm.
      method: its name.
      bound: whether it is shown only, and not compared.
      seeds: of its runs.
      values: of each seed, the primary outcome.
      diverged: seeds that have, which count with the yardstick.
      mean: of the values.
      deviation: standard deviation of the values, divided by n - 1.
      interval: Student's, of the mean.
      bootstrap: bootstrap-t, from `intervals.FEWEST_TO_RESAMPLE` seeds on.
      yardstick: mean accuracy of guessing each client's most frequent class.
      validation: mean accuracy on validation samples, in the round quoted.
      train: likewise on training samples.
      predictors: likewise on test samples, of each of the method's predictors, its own first.
      best_by_test: mean over the seeds of the best round by the test samples themselves: what
        published codes quote, and no result.
      clients: see `Clients`.
      difference: to the arm it is held against; None for that one itself, and for bounds.
      improvement: probability that a seed of it is above one of the arm it is held against.
      reach: see `Reach`; None without Local.
      seconds: see `Seconds`.
    """

    label: str
    method: str
    bound: bool
    seeds: list[int]
    values: list[float]
    diverged: list[int]
    mean: float
    deviation: float | None
    interval: Interval | None
    bootstrap: Interval | None
    yardstick: float | None
    validation: float | None
    train: float | None
    predictors: dict[str, float | None]
    best_by_test: float | None
    clients: Clients
    difference: Difference | None
    improvement: float | None
    reach: Reach | None
    seconds: Seconds


class Ranks(NamedTuple):
    """How arms rank by their mean outcomes over data sets; 1 is the best.

    Attributes:
      data_sets: their names, of several parts of one the first.
      labels: of the arms that all data sets have.
      ranks: of each data set the ranks of these.
      means: of each arm, its mean rank.
      interquartile: of each arm, the interquartile mean of all seeds on all data sets.
      intervals: of each arm, that of its interquartile mean.
      critical_difference: Nemenyi's, from `intervals.FEWEST_SETS` data sets on.
      alike: groups of labels that are within it, best first; all in one unless Friedman's test
        finds a difference. None without a critical difference.
      left_out: labels of arms that some data set lacks.
    """

    data_sets: list[str]
    labels: list[str]
    ranks: list[list[float]]
    means: list[float]
    interquartile: list[float]
    intervals: list[Interval | None]
    critical_difference: float | None
    alike: list[list[str]] | None
    left_out: list[str]


def check_against(comparisons: Sequence[Comparison], against: str) -> None:
    """Refuses what is no arm, or several, in every comparison.

    Raises:
      UsageError: names what there is.
    """
    labels = list(dict.fromkeys(arm.label for one in comparisons for arm in one.arms))
    methods = list(dict.fromkeys(arm.method for one in comparisons for arm in one.arms))
    known = list(dict.fromkeys([*methods, *labels]))
    if against not in known:
        raise UsageError(
            f"--against must be a method or an arm of the runs, {'; '.join(known)}, got {against!r}"
        )
    for one in comparisons:
        own = _named(one.arms, against)
        for arm in one.arms:
            if len(own) > 1 and arm not in own and _counterpart(arm, own) is None:
                raise UsageError(
                    f"--against must be one arm, {'; '.join(each.label for each in own)}, got "
                    f"{against!r}, which is {len(own)} of them"
                )


def every_result(comparisons: Sequence[Comparison], against: str) -> list[list[Result]]:
    """Of each comparison its results, Holm's correction over all comparisons of one data set.

    Args:
      comparisons: of any number of data sets.
      against: a method, or the label of an arm, that the others are held against.
    """
    found = [_uncorrected(one, against) for one in comparisons]
    for numbers in _by_data_set(comparisons):
        places = [
            (number, index)
            for number in numbers
            for index, result in enumerate(found[number])
            if result.difference is not None
        ]
        differences = [found[number][index].difference for number, index in places]
        adjusted = intervals.holm([one.p for one in differences if one is not None])
        for (number, index), holm in zip(places, adjusted, strict=True):
            result = found[number][index]
            assert result.difference is not None
            corrected = result.difference._replace(holm=holm, holm_over=len(places))
            found[number][index] = result._replace(difference=corrected)
    return found


def results(comparison: Comparison, against: str) -> list[Result]:
    """The result of each arm, then of each bound; Holm's correction over these arms alone.

    Args:
      comparison: whose.
      against: a method, or the label of an arm, that the others are held against.
    """
    return every_result([comparison], against)[0]


def _uncorrected(comparison: Comparison, against: str) -> list[Result]:
    others = _named(comparison.arms, against)
    locals_ = [arm for arm in comparison.arms if arm.method == LOCAL]
    result = []
    for arm in comparison.arms:
        other = None if arm in others and len(others) == 1 else _counterpart(arm, others)
        result.append(_result(arm, other if other is not arm else None, _counterpart(arm, locals_)))
    return result + [_result(bound, None, None, bound=True) for bound in comparison.bounds]


def _named(arms: Sequence[Arm], name: str) -> list[Arm]:
    """The arm with a label, or the arms of a method."""
    return [arm for arm in arms if arm.label == name] or [arm for arm in arms if arm.method == name]


def _counterpart(arm: Arm, others: Sequence[Arm]) -> Arm | None:
    """The one of the others that is trained most like an arm; None if several are."""
    if not others:
        return None

    def apart(other: Arm) -> int:
        own, its = training_settings(arm.runs[0]), training_settings(other.runs[0])
        free = {*arm.tuned, *other.tuned}
        return sum(own.get(name) != its.get(name) for name in {*own, *its} - free)

    counts = [apart(other) for other in others]
    nearest = [one for one, count in zip(others, counts, strict=True) if count == min(counts)]
    return nearest[0] if len(nearest) == 1 else None


def _result(arm: Arm, other: Arm | None, local: Arm | None, *, bound: bool = False) -> Result:
    outcomes = [outcome(run) for run in arm.runs]
    values = _values(arm)
    first = next((run for run in arm.runs if not has_diverged(run)), arm.runs[0])
    return Result(
        label=arm.label,
        method=arm.method,
        bound=bound,
        seeds=[_seed(run) for run in arm.runs],
        values=values,
        diverged=[_seed(run) for run, one in zip(arm.runs, outcomes, strict=True) if one.diverged],
        mean=float(np.mean(values)),
        deviation=intervals.deviation(values),
        interval=intervals.t_interval(values),
        bootstrap=intervals.bootstrap_t(values),
        yardstick=_mean([yardstick(run) for run in arm.runs]),
        validation=_mean(_accuracies(arm, part="validation")),
        train=_mean(_accuracies(arm, part="train")),
        predictors={name: _mean(_accuracies(arm, name)) for name in predictors(first)},
        best_by_test=_mean([run.summary.get(f"{column(run)}_best") for run in arm.runs]),
        clients=_clients(arm, local),
        difference=None if other is None else _difference(arm, other),
        improvement=None if other is None else intervals.improvement(values, _values(other)),
        reach=None if local is None else _reach(arm, local),
        seconds=_seconds(arm),
    )


def _seed(run: Run) -> int:
    return int(run.config.get("seed", 0))


def _values(arm: Arm) -> list[float]:
    """The primary outcomes, which comparisons have only runs with."""
    found = [outcome(run).value for run in arm.runs]
    return [float(value) for value in found if value is not None]


def _accuracies(arm: Arm, name: str = "", part: str = "") -> list[float | None]:
    """As `column` names it, in the round quoted; of runs that have diverged, the yardstick's."""
    return [
        yardstick(run, part) if has_diverged(run) else quoted(run, column(run, name, part))
        for run in arm.runs
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean, or None if a value is not known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _seconds(arm: Arm) -> Seconds:
    def mean(name: str) -> float | None:
        return _mean([run.summary.get(name) for run in arm.runs])

    choice = next((run.choice for run in arm.runs if run.choice is not None), {})
    return Seconds(mean("seconds"), mean("compile_seconds"), choice.get("seconds"))


def _pairs(arm: Arm, other: Arm) -> tuple[list[tuple[Run, Run]], list[str]]:
    """Runs with the same seed and the same partition; and of the other seeds why they are none."""
    mine, theirs = ({_seed(run): run for run in one.runs} for one in (arm, other))
    pairs, unpaired = [], []
    for seed in sorted(mine.keys() | theirs.keys()):
        if seed not in mine or seed not in theirs:
            lacking = arm if seed not in mine else other
            unpaired.append(f"seed {seed}: no run of {lacking.label}")
            continue
        one, another = mine[seed], theirs[seed]
        digests = [run.manifest.get("partition_digest") for run in (one, another)]
        if None in digests:
            unpaired.append(f"seed {seed}: the partition's digest is not recorded")
        elif digests[0] != digests[1]:
            unpaired.append(f"seed {seed}: another partition")
        else:
            pairs.append((one, another))
    return pairs, unpaired


def _difference(arm: Arm, other: Arm) -> Difference:
    pairs, unpaired = _pairs(arm, other)
    found = [(outcome(one).value, outcome(another).value) for one, another in pairs]
    values = [one - another for one, another in found if one is not None and another is not None]
    return Difference(
        against=other.label,
        pairs=len(values),
        seeds=[_seed(one) for one, _ in pairs],
        values=values,
        mean=float(np.mean(values)) if values else None,
        interval=intervals.t_interval(values) if values else None,
        bootstrap=intervals.bootstrap_t(values) if values else None,
        p=intervals.t_test(values) if values else None,
        holm=None,
        holm_over=0,
        unpaired=unpaired,
    )


def _clients(arm: Arm, local: Arm | None) -> Clients:
    found = [_of_clients(run) for run in arm.runs]
    figures = {
        name: _mean([one.get(name) for one in found])
        for name in ("mean", "spread", "worst_tenth", "best_tenth", "counted")
    }
    shares: list[float | None] = []
    for one, another in _pairs(arm, local)[0] if local is not None and local is not arm else ():
        mine, theirs = clients_right(one), clients_right(another)
        if mine is None or theirs is None or mine[0].shape != theirs[0].shape:
            shares.append(None)
            continue
        tested = mine[1] > 0
        shares.append(float((mine[0] < theirs[0])[tested].mean()) if tested.any() else None)
    share = _mean(shares)
    return Clients(
        **figures,
        worse_than_local=share,
        local=local.label if share is not None and local is not None else None,
        pairs=len(shares) if share is not None else 0,
    )


def _of_clients(run: Run) -> Mapping[str, float | None]:
    """The figures of one run, see `Clients`; nothing where they are not recorded."""
    found = clients_right(run)
    if found is None or not found[1].any():
        return {}
    right, count = found
    accuracy = right[count > 0] / count[count > 0]
    enough = count >= FEWEST_SAMPLES
    ordered = np.sort(right[enough] / count[enough])
    tenth = math.ceil(len(ordered) / 10)
    return {
        "mean": float(accuracy.mean()),
        "spread": float(accuracy.std()),
        "worst_tenth": float(ordered[:tenth].mean()) if tenth else None,
        "best_tenth": float(ordered[-tenth:].mean()) if tenth else None,
        "counted": float(len(ordered)),
    }


def _reach(arm: Arm, local: Arm) -> Reach:
    target = float(np.mean(_values(local)))
    rounds, floats = [], []
    for run in arm.runs:
        name = column(run)
        rows = [] if has_diverged(run) else run.rows
        first = next((row for row in rows if (row.get(name) or -1.0) >= target - 1e-12), None)
        rounds.append(math.inf if first is None else float(first["round"]))
        floats.append(math.inf if first is None else _floats(first))
    known = [one for one in floats if one is not None]
    return Reach(
        local=local.label,
        target=target,
        rounds=_finite(statistics.median(rounds)),
        floats=_finite(statistics.median(known)) if len(known) == len(floats) else None,
        reached=sum(map(math.isfinite, rounds)),
        seeds=len(rounds),
    )


def _floats(row: Mapping[str, Any]) -> float | None:
    """What was sent until then, both ways; older rows do not say."""
    ways = [row.get(f"floats_{way}_total") for way in ("up", "down")]
    return None if None in ways else float(sum(ways))  # type: ignore[arg-type]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _by_data_set(comparisons: Sequence[Comparison]) -> list[list[int]]:
    """The numbers of the comparisons of each data set.

    Neither seeds nor partitions nor parts make another one: data of the same digest are one, and
    so are those that come from the same place.
    """
    groups: list[tuple[set[str], list[int]]] = []
    for number, one in enumerate(comparisons):
        names = {str(one.conditions["data"]), str(one.conditions["data_digest"])} - {"None"}
        same = [group for group in groups if group[0] & names]
        numbers = [own for group in same for own in group[1]]
        joined = names.union(*(group[0] for group in same)), [*numbers, number]
        groups = [group for group in groups if group not in same] + [joined]
    return sorted(numbers for _, numbers in groups)


def ranks(comparisons: Sequence[Comparison]) -> Ranks | None:
    """Mean ranks over data sets, of the arms that all of them have.

    Of several comparisons of one data set, such as with several partitions or with parts of it, the
    ranks are averaged first.

    Args:
      comparisons: of any number of data sets.

    Returns:
      None with fewer than two data sets or two arms.
    """
    by_set = [[comparisons[number] for number in one] for one in _by_data_set(comparisons)]
    every = [[arm.label for arm in one.arms] for one in comparisons]
    known = list(dict.fromkeys(label for labels in every for label in labels))
    labels = [label for label in known if all(label in own for own in every)]
    if len(by_set) < 2 or len(labels) < 2:
        return None
    found, strata = [], []
    for several in by_set:
        values = [
            [_values(next(arm for arm in one.arms if arm.label == label)) for label in labels]
            for one in several
        ]
        strata += values
        means = [[float(np.mean(one)) for one in own] for own in values]
        found.append(intervals.mean_ranks(means).mean(axis=0))
    samples = [list(own) for own in zip(*strata, strict=True)]
    table = np.array(found)
    mean_rank, difference, alike = table.mean(axis=0).tolist(), None, None
    if len(table) >= intervals.FEWEST_SETS:
        difference = intervals.critical_difference(len(labels), len(table))
        wide = difference if _differ(table) else math.inf
        alike = [[labels[index] for index in group] for group in intervals.alike(mean_rank, wide)]
    return Ranks(
        data_sets=[str(several[0].conditions["data"]) for several in by_set],
        labels=labels,
        ranks=table.tolist(),
        means=mean_rank,
        interquartile=[intervals.interquartile_mean(own) for own in samples],
        intervals=[intervals.interquartile_interval(own) for own in samples],
        critical_difference=difference,
        alike=alike,
        left_out=[label for label in known if label not in labels],
    )


def _differ(table: np.ndarray) -> bool:
    """Whether Friedman's test finds a difference; of two methods, Nemenyi's alone decides."""
    return table.shape[1] < 3 or intervals.differ(-table)


def plain(value: Any) -> Any:
    """The same as dicts, lists, text and numbers: JSON-ready."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: plain(one) for name, one in value._asdict().items()}
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value
