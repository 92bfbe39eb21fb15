"""Pictures of one comparison: curves, clients, classes, angles and features."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy

from protonorm_jax.report.clients import joined
from protonorm_jax.report.page import embeddings, svg
from protonorm_jax.report.page.parts import Figure, counted, listed
from protonorm_jax.report.pictures import pairwise_angles
from protonorm_jax.statistics import runs as recorded
from protonorm_jax.statistics.comparison import Arm
from protonorm_jax.statistics.runs import Run

PROTOTYPES, FEATURES = "prototypes.npz", "features.npz"
Arrays = Callable[[Run, str], Mapping[str, np.ndarray]]
"""The arrays in a file of a run; none if it is not there."""

_MOST_PLACES = 160  # Of a curve: so many can be told apart.
_FEWEST_IN_A_BAND = 3  # Of two seeds the interval is 13 standard errors wide.
_MOST_MARKS = 40  # Prototypes that are drawn among features.
_MOST_CLASSES = 200  # Of a map of angles: more are not told apart.


class Drawn(NamedTuple):
    """An arm that pictures show.

    Attributes:
      arm: of the comparison.
      style: CSS class of its colour.
    """

    arm: Arm
    style: str


class Bounds(NamedTuple):
    """The levels between which methods are read, means over seeds; None where not known.

    Attributes:
      yardstick: guessing each client's most frequent class.
      pooled: training with all clients' samples.
    """

    yardstick: float | None
    pooled: float | None

    @property
    def lines(self) -> list[tuple[str, str, float]]:
        """Label, CSS class and value of those that there are."""
        named = (("yardstick", "yardstick", self.yardstick), ("pooled", "pooled", self.pooled))
        return [(label, style, value) for label, style, value in named if value is not None]

    @property
    def legend(self) -> list[tuple[str, str, str]]:
        """As of `Part`."""
        return [("", f"reference {style}", label) for label, style, _ in self.lines]


def legend(drawn: Sequence[Drawn]) -> list[tuple[str, str, str]]:
    """As of `Part`."""
    return [(one.style, "line", one.arm.label) for one in drawn]


def curves(drawn: Sequence[Drawn], bounds: Bounds, left_out: int) -> list[Figure]:
    """Test accuracy over rounds, and over the numbers sent.

    Args:
      drawn: the arms.
      bounds: the levels beside them.
      left_out: arms that are not among them.
    """
    every = [(one, _curve(one.arm.runs)) for one in drawn]
    found = [(one, curve) for one, curve in every if curve is not None]
    if not found:
        return []
    counts = {len(one.arm.runs) for one, _ in found}
    bands = "Bands are 95 % t intervals of the mean over seeds." if max(counts) > 2 else ""
    few = (
        f"With fewer than {_FEWEST_IN_A_BAND} seeds there is no band."
        if min(counts) < _FEWEST_IN_A_BAND
        else ""
    )
    lost = (
        "A seed that diverged counts with the yardstick from then on."
        if any(recorded.has_diverged(run) for one, _ in found for run in one.arm.runs)
        else ""
    )
    others = f"{counted(left_out, 'further arm')} in the tables only." if left_out else ""
    by_round = [
        svg.Series(one.arm.label, one.style, curve.rounds, curve.mean, curve.low, curve.high)
        for one, curve in found
    ]
    by_floats = [
        svg.Series(one.arm.label, one.style, curve.floats, curve.mean, curve.low, curve.high)
        for one, curve in found
        if curve.floats is not None and curve.floats[-1] > 0
    ]
    silent = [one for one, curve in found if curve.floats is not None and curve.floats[-1] == 0]
    result = [
        Figure(
            svg.lines(
                by_round,
                "round",
                "test accuracy, %",
                "test accuracy over rounds",
                references=bounds.lines,
                whole=True,
            ),
            " ".join(
                filter(
                    None,
                    ("Test accuracy of each method's own predictor.", bands, few, lost, others),
                )
            ),
        )
    ]
    if by_floats:
        levels = [
            (one.arm.label, f"{one.style} silent", float(curve.mean[-1]))
            for one, curve in found
            if one in silent and np.isfinite(curve.mean[-1])
        ]
        names = listed([one.arm.label for one in silent])
        nothing = f" What sends nothing ({names}) has its level at the end." if silent else ""
        result.append(
            Figure(
                svg.lines(
                    by_floats,
                    "numbers sent so far, up and down, all clients",
                    "test accuracy, %",
                    "test accuracy over the numbers sent",
                    references=[*bounds.lines, *levels],
                    log_x=True,
                ),
                f"The same against what was sent.{nothing}",
            )
        )
    return result


class _Curve(NamedTuple):
    """Of an arm: `rounds` `[n]`, mean and band of its seeds, and the mean numbers sent."""

    rounds: np.ndarray
    mean: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None
    floats: np.ndarray | None


def _curve(runs: Sequence[Run]) -> _Curve | None:
    """What the seeds of an arm have in common over the rounds; None without any."""
    series = [{row["round"]: row.get(recorded.column(run)) for row in run.rows} for run in runs]
    whole = [set(one) for run, one in zip(runs, series, strict=True) if not _lost(run)]
    rounds = sorted(set.intersection(*whole)) if whole else sorted(set().union(*series))
    if not rounds:
        return None
    if len(rounds) > _MOST_PLACES:
        kept = np.linspace(0, len(rounds) - 1, _MOST_PLACES).round().astype(int)
        rounds = [rounds[k] for k in kept]
    values = np.array(
        [
            [
                _value(one, index, recorded.yardstick(run) if _lost(run) else None)
                for index in rounds
            ]
            for run, one in zip(runs, series, strict=True)
        ],
        float,
    )
    mean = values.mean(0)
    low = high = None
    if len(values) >= _FEWEST_IN_A_BAND:
        error = values.std(0, ddof=1) / np.sqrt(len(values))
        half = scipy.special.stdtrit(len(values) - 1, 0.975) * error
        low, high = mean - half, mean + half
    return _Curve(np.array(rounds, float), mean, low, high, _floats(runs, rounds))


def _lost(run: Run) -> bool:
    return recorded.has_diverged(run)


def _value(series: Mapping[int, float | None], index: int, beyond: float | None) -> float:
    """The value of a round; after the last one that a diverged run has, `beyond`."""
    value = series.get(index)
    if value is None and beyond is not None and index > max(series, default=0):
        value = beyond
    return np.nan if value is None else value


def _floats(runs: Sequence[Run], rounds: Sequence[int]) -> np.ndarray | None:
    """The mean over seeds of all numbers sent up to each round, where rows have them."""
    every = []
    for run in runs:
        sent = {
            row["round"]: row["floats_up_total"] + row["floats_down_total"]
            for row in run.rows
            if row.get("floats_up_total") is not None and row.get("floats_down_total") is not None
        }
        if set(rounds) <= sent.keys():
            every.append([sent[index] for index in rounds])
    return np.mean(every, axis=0) if every else None


def clients(drawn: Sequence[Drawn], bounds: Bounds) -> list[Figure]:
    """How the accuracies of clients are distributed, of each arm those of all seeds."""
    groups = []
    for one in drawn:
        shares = [_shares(run) for run in one.arm.runs]
        known = [values for values in shares if values is not None]
        if known:
            groups.append(svg.Group(one.arm.label, one.style, np.concatenate(known).tolist()))
    if not groups:
        return []
    caption = (
        "A dot for each client of each seed: its own test samples, in the round that is quoted. "
        "The box goes from quartile to quartile with the median in it, the line from the lowest to "
        "the highest tenth. Small clients weigh as much as large ones here."
    )
    description = "distribution of the clients' test accuracies"
    picture = svg.distributions(
        groups, "test accuracy of a client, %", description, references=bounds.lines
    )
    return [Figure(picture, caption)]


def _shares(run: Run) -> np.ndarray | None:
    """The accuracy of each client that has test samples."""
    found = recorded.clients_right(run)
    if found is None:
        return None
    right, count = found
    return right[count > 0] / count[count > 0]


def classes(runs: Sequence[Run]) -> Figure | None:
    """Who holds which classes, of the first seed that says so; None if none does."""
    every = ((run, recorded.held(run)) for run in _by_seed(runs))
    run, held = next(((run, held) for run, held in every if held is not None), (None, None))
    if run is None or held is None:
        return None
    counts = held.train
    digests = {one.manifest.get("partition_digest") for one in runs}
    which = (
        f"seed {run.config.get('seed')}; other seeds deal anew" if len(digests) > 1 else "all seeds"
    )
    caption = (
        f"Training samples of each client by class, of {which}. Areas are in proportion to "
        f"samples; the largest stands for {int(counts.max(initial=0)):,}."
        if max(counts.shape) <= 60
        else f"Training samples of each client by class, of {which}. Colours are by the logarithm."
    )
    if (each := joined(counts)[1]) > 1:
        caption += f" Each column is {each:,} clients."
    return Figure(
        svg.bubbles(counts, held.names, "training samples of each client by class"), caption, True
    )


def _by_seed(runs: Sequence[Run]) -> list[Run]:
    return sorted(runs, key=lambda run: (run.config.get("seed", 0), run.name))


def angles(drawn: Sequence[Drawn], arrays: Arrays, most: int) -> tuple[list[Figure], list[str]]:
    """Angles between prototypes before and after the server aligns them.

    Args:
      drawn: the arms.
      arrays: of a run.
      most: arms of which they are drawn.

    Returns:
      Pictures, and the labels of arms that have prototypes but none drawn.
    """
    result: list[Figure] = []
    left_out = []
    for one in drawn:
        for run in _by_seed(one.arm.runs):
            found = arrays(run, PROTOTYPES)
            if {"class_means", "prototypes", "known"} <= found.keys() and found["known"].any():
                if len(result) < most:
                    result.append(_angle_maps(one.arm.label, run, found))
                else:
                    left_out.append(one.arm.label)
                break
    return result, left_out


def _angle_maps(label: str, run: Run, found: Mapping[str, np.ndarray]) -> Figure:
    known = np.flatnonzero(found["known"])[:_MOST_CLASSES]
    pictures, said = [], []
    for name, title in (
        ("class_means", "averaged by the server"),
        ("prototypes", "sent to clients"),
    ):
        matrix = pairwise_angles(found[name][known])
        pairs = matrix[np.triu_indices(len(known), 1)]
        pairs = pairs[np.isfinite(pairs)]
        if len(pairs):
            said.append(f"{title} {pairs.min():.1f}° at least, {pairs.mean():.1f}° at the mean")
        pictures.append(
            svg.angles(
                matrix, known.tolist(), title, f"angles between prototypes of {label}, {title}"
            )
        )
    caption = f"{label}, seed {run.config.get('seed')}: {'; '.join(said)}."
    return Figure(svg.pair(pictures), caption)


def features(
    drawn: Sequence[Drawn], arrays: Arrays, most: int, most_slow: int
) -> tuple[list[Figure], list[str], int]:
    """Features of test samples in two dimensions, with prototypes where there are any.

    Args:
      drawn: the arms.
      arrays: of a run.
      most: arms of which they are drawn.
      most_slow: pictures by t-SNE that may still be made.

    Returns:
      Pictures, what is not drawn and why, and how many pictures were made by t-SNE.
    """
    result: list[Figure] = []
    notes, number, slow = [], 0, 0
    for one in drawn:
        run = next((r for r in _by_seed(one.arm.runs) if arrays(r, FEATURES)), None)
        if run is None:
            continue
        if number == most:
            notes.append(f"{one.arm.label} has features, too; {most} arms are drawn.")
            continue
        found = _scatter(one.arm.label, run, arrays, tsne=slow < most_slow)
        if isinstance(found, str):
            notes.append(f"{one.arm.label}, {run.name}: {found}.")
            continue
        number += 1
        slow += slow < most_slow
        result.append(found)
    if slow < number:
        notes.append(f"t-SNE is slow, and done for {slow} of these runs.")
    return result, notes, slow


def _scatter(label: str, run: Run, arrays: Arrays, *, tsne: bool) -> Figure | str:
    """The pictures of one run, or why there are none."""
    found, server = arrays(run, FEATURES), arrays(run, PROTOTYPES)
    places = embeddings.chosen(len(found["features"]))
    points, labels = found["features"][places], found["labels"][places]
    known, prototypes = np.zeros(0, int), np.zeros((0, points.shape[1]), points.dtype)
    if (
        {"prototypes", "known"} <= server.keys()
        and server["prototypes"].shape[1:] == points.shape[1:]
        and server["known"].sum() <= _MOST_MARKS
    ):
        known = np.flatnonzero(server["known"])
        prototypes = server["prototypes"][known]
    reason = embeddings.usable(points, prototypes)
    if reason:
        return reason
    marks = " Numbered marks are prototypes." if len(known) else ""
    lengths = np.linalg.norm(prototypes, axis=1)
    if len(known) > 1 and lengths.min() > 0 and np.ptp(lengths) <= 1e-3 * lengths.max():
        # Theirs says nothing: only their directions count, and they are sent with another one.
        prototypes = prototypes / lengths.mean() * np.median(np.linalg.norm(points, axis=1))
        marks = (
            " Numbered marks are prototypes; all of them are equally long, and drawn with the "
            "median length of the features."
        )
    num_classes = int(max(labels.max(), known.max(initial=0))) + 1
    pictures = [
        svg.scatter(
            flat.points,
            labels,
            flat.prototypes,
            known.tolist(),
            num_classes,
            flat.name,
            f"features of {label} by {flat.name}",
        )
        for flat in embeddings.flatten(points, prototypes, tsne=tsne)
    ]
    colours = " Colours are classes." if num_classes <= 10 else " Hues are classes."
    caption = f"{label}, seed {run.config.get('seed')}: {len(points)} test samples.{colours}{marks}"
    return Figure(svg.pair(pictures), caption)
