"""The tables of one comparison, and what they say in words."""

from collections.abc import Mapping, Sequence

from protonorm_jax.report.page.parts import counted, listed
from protonorm_jax.report.page.tables import Cell, Column, Row, Table, number, percent, signed, text
from protonorm_jax.statistics.intervals import Interval
from protonorm_jax.statistics.tables import FEWEST_SAMPLES, LOCAL, Difference, Result

_DIVERGED, _NO_SEED = "†", "no run"
_MOST_IN_WORDS = 5  # Differences that the verdict names; the table has all.
_ARM = Column("arm", numeric=False)


def ordered(results: Sequence[Result]) -> list[Result]:
    """The methods by their mean, best first, then Local."""
    methods = [one for one in results if not one.bound]
    return sorted(methods, key=lambda one: (one.method == LOCAL, -one.mean))


def main_table(results: Sequence[Result], keys: Mapping[str, str], name: str, title: str) -> Table:
    """The primary outcome of each arm, with the bounds and the yardstick below.

    Args:
      results: of one comparison.
      keys: CSS class of the colour of each arm that has one.
      name: of its files.
      title: of the comparison.
    """
    arms = ordered(results)
    bootstrap = any(one.bootstrap for one in results)
    validated = any(one.validation is not None for one in results)
    columns = [
        _ARM,
        Column("seeds", help="runs that count, those that diverged among them"),
        Column(
            "test accuracy, %",
            help="mean over seeds, ± half of the 95 % t interval",
            fields=("test_accuracy", "low", "high", "standard_deviation"),
        ),
        Column("95 % t interval", fields=("t_low", "t_high"), printed=False),
        *(
            [Column("bootstrap-t", fields=("bootstrap_low", "bootstrap_high"), printed=False)]
            if bootstrap
            else []
        ),
        Column("above yardstick", help="points", fields=("above_yardstick",)),
        *([Column("validation, %", fields=("validation_accuracy",))] if validated else []),
    ]
    highest = max((round(one.mean, 3) for one in arms), default=None)

    def row(one: Result, label: str, style: str) -> Row:
        best = not one.bound and round(one.mean, 3) == highest
        # That of pooled clients is another one, of clients that hold everything.
        above = None if one.yardstick is None or one.bound else one.mean - one.yardstick
        cells = [
            Cell(label, (one.label,)),
            _seeds(one),
            _accuracy(one, best),
            _interval_cell(one.interval),
            *([_interval_cell(one.bootstrap)] if bootstrap else []),
            _points(above),
            *([percent(one.validation)] if validated else []),
        ]
        return Row(cells, style, keys.get(one.label, ""))

    rows = [row(one, one.label, "") for one in arms if one.method != LOCAL]
    pooled = [one for one in results if one.bound]
    rows += [row(one, f"{one.label} (upper bound)", "bound") for one in pooled]
    if not pooled:
        rows.append(_lacking("pooled (upper bound)", columns, "bound"))
    locals_ = [one for one in arms if one.method == LOCAL]
    rows += [row(one, f"{one.label} (lower bound)", "bound") for one in locals_]
    if not locals_:
        rows.append(_lacking("local (lower bound)", columns, "bound"))
    yardsticks = [one.yardstick for one in arms if one.yardstick is not None]
    level = sum(yardsticks) / len(yardsticks) if yardsticks else None
    empty = [Cell("", (None,))] * (len(columns) - 3)
    cells = [Cell("yardstick", ("yardstick",)), Cell("", (None,)), percent(level), *empty]
    rows.append(Row(cells, "bound"))
    return Table(
        name, f"{title}: test accuracy", columns, rows, _main_notes(arms, pooled, bootstrap)
    )


def _main_notes(arms: Sequence[Result], pooled: Sequence[Result], bootstrap: bool) -> list[str]:
    notes = [
        "Mean over seeds ± half of its 95 % t interval; without ± there is one seed, or all are "
        "equal. Bold: the highest mean, which is no test."
    ]
    if bootstrap:
        notes.append("Bootstrap-t: 95 % interval of the mean, from 10 seeds on.")
    for one in pooled:
        above = [other.label for other in arms if other.mean > one.mean]
        if above:
            notes.append(
                f"{one.label} is no upper bound here, with {listed(_few(above))} above it: "
                "it does not know which classes a client has, which on skewed clients can be worth "
                "more than samples; or its training is too short, or its settings do not suit it."
            )
    for one in [*arms, *pooled]:
        if one.diverged:
            notes.append(
                f"{_DIVERGED} {one.label}: {len(one.diverged)} of "
                f"{counted(len(one.seeds), 'seed')} diverged "
                f"({', '.join(map(str, one.diverged))}) and {_count(one)} with the yardstick."
            )
    return notes


def _count(one: Result) -> str:
    return "counts" if len(one.diverged) == 1 else "count"


def _lacking(label: str, columns: Sequence[Column], style: str) -> Row:
    cells = [Cell(label, (label.partition(" ")[0],)), Cell(_NO_SEED, (0,))]
    return Row([*cells, *[Cell("–", (None,))] * (len(columns) - 2)], style)


def _seeds(one: Result) -> Cell:
    mark = f"{_DIVERGED}{len(one.diverged)}" if one.diverged else ""
    return Cell(str(len(one.seeds)), (len(one.seeds),), mark=mark)


def _accuracy(one: Result, best: bool) -> Cell:
    half = "" if one.interval is None else f" ± {(one.interval.high - one.mean) * 100:.1f}"
    ends = (None, None) if one.interval is None else tuple(one.interval)
    mark = _DIVERGED if one.diverged else ""
    shown = f"{one.mean * 100:.1f}{half}"
    return Cell(shown, (one.mean, *ends, one.deviation), best, mark)


def _interval_cell(interval: Interval | None) -> Cell:
    if interval is None:
        return Cell("–", (None, None))
    return Cell(_level(interval), tuple(interval))


def with_interval(value: float, interval: Interval | None) -> Cell:
    """A share and its interval, in percent."""
    ends = (None, None) if interval is None else tuple(interval)
    return Cell(f"{value * 100:.1f} {_level(interval)}".strip(), (value, *ends))


def _points(value: float | None, **rest: str) -> Cell:
    """A difference of shares, in percentage points, with its sign."""
    if value is None:
        return Cell("–", (None,))
    return Cell(signed(f"{value * 100:+.1f}"), (value,), **rest)  # type: ignore[arg-type]


def differences_table(
    results: Sequence[Result], keys: Mapping[str, str], name: str, title: str
) -> Table | None:
    """What the arm that the others are held against has more than each of them; None without one.

    Args:
      results: of one comparison.
      keys: CSS class of the colour of each arm that has one.
      name: of its files.
      title: of the comparison.
    """
    pairs = [(one, one.difference) for one in ordered(results) if one.difference is not None]
    if not pairs:
        return None
    bootstrap = any(difference.bootstrap for _, difference in pairs)
    columns = [
        Column("difference", numeric=False, fields=("minuend", "subtrahend")),
        Column("pairs", help="seeds that both have, with the same partition"),
        Column("points", help="mean over pairs", fields=("difference",)),
        Column("95 % t interval", fields=("low", "high")),
        *([Column("bootstrap-t", fields=("bootstrap_low", "bootstrap_high"))] if bootstrap else []),
        Column("p (Holm)", help="Student's, of a mean of zero, after Holm's correction"),
        Column("P(higher)", help="probability that a seed of the first is above one of the second"),
    ]
    rows = []
    for one, difference in pairs:
        flipped = flip(difference)
        higher = None if one.improvement is None else 1 - one.improvement
        cells = [
            Cell(f"{difference.against} − {one.label}", (difference.against, one.label)),
            number(difference.pairs),
            _points(flipped.mean),
            _signed_interval(flipped.interval),
            *([_signed_interval(flipped.bootstrap)] if bootstrap else []),
            Cell(p_text(difference.holm), (difference.holm,)),
            number(higher, ".2f"),
        ]
        rows.append(Row(cells, "", keys.get(one.label, "")))
    over = max(difference.holm_over for _, difference in pairs)
    notes = [
        "Percentage points of test accuracy, by seed and only where both runs have the same "
        f"partition. Holm's correction is over {counted(over, 'comparison')}: all of this data set."
    ]
    notes += _unpaired(pairs)
    notes.append("P(higher) is exploratory: over all pairs of seeds, ties count half.")
    return Table(name, f"{title}: differences in test accuracy", columns, rows, notes)


def _unpaired(pairs: Sequence[tuple[Result, Difference]]) -> list[str]:
    """What is not paired, the same reasons together."""
    found: dict[str, list[str]] = {}
    for one, difference in pairs:
        if difference.unpaired:
            reasons = "; ".join(difference.unpaired[:6])
            more = len(difference.unpaired) - 6
            reasons += f"; and {more} more" if more > 0 else ""
            found.setdefault(reasons, []).append(one.label)
    return [f"Not paired with {listed(labels)}: {why}." for why, labels in found.items()]


def flip(difference: Difference) -> Difference:
    """The other way round: what the arm held against has more."""

    def turned(interval: Interval | None) -> Interval | None:
        return None if interval is None else Interval(-interval.high, -interval.low)

    return difference._replace(
        mean=None if difference.mean is None else -difference.mean,
        values=[-value for value in difference.values],
        interval=turned(difference.interval),
        bootstrap=turned(difference.bootstrap),
    )


def _signed_interval(interval: Interval | None) -> Cell:
    return Cell("–", (None, None)) if interval is None else Cell(_ends(interval), tuple(interval))


def _ends(interval: Interval) -> str:
    low, high = (signed(f"{end * 100:+.1f}") for end in interval)
    return f"[{low}, {high}]"


def p_text(value: float | None) -> str:
    """A p value with two digits."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.01 else f"{value:.2f}"


def clients_table(
    results: Sequence[Result], keys: Mapping[str, str], name: str, title: str
) -> Table | None:
    """How clients fare under each arm; None where no run has recorded it."""
    arms = [one for one in [*ordered(results), *_bounds(results)] if one.clients.mean is not None]
    if not arms:
        return None
    columns = [
        _ARM,
        Column("mean over clients, %", fields=("mean_over_clients",)),
        Column("spread", help="standard deviation over clients, points"),
        Column("worst tenth, %", fields=("worst_tenth",)),
        Column("best tenth, %", fields=("best_tenth",)),
        Column("worse than local, %", help="share of clients", fields=("worse_than_local",)),
    ]
    rows = []
    for one in arms:
        own = one.clients
        cells = [
            Cell(one.label, (one.label,)),
            *map(percent, (own.mean, own.spread, own.worst_tenth, own.best_tenth)),
            percent(own.worse_than_local, 0),
        ]
        rows.append(Row(cells, "", keys.get(one.label, "")))
    fewest = min((one.clients.counted or 0 for one in arms), default=0)
    notes = [
        "Each client counts once, in the round that is quoted; means over seeds. Worst and best "
        f"tenth: of the clients with at least {FEWEST_SAMPLES} test samples, rounded up; "
        f"of a seed, {fewest:.0f} or more have so many.",
        "Worse than local: share of clients with fewer right answers than under Local with the "
        "same seed and partition.",
    ]
    return Table(name, f"{title}: clients", columns, rows, notes)


def _bounds(results: Sequence[Result]) -> list[Result]:
    return [one for one in results if one.bound]


def cost_table(results: Sequence[Result], keys: Mapping[str, str], name: str, title: str) -> Table:
    """What each arm needs to reach Local, and what it took."""
    arms = [*ordered(results), *_bounds(results)]
    reach = [one.reach for one in arms if one.reach is not None]
    tuned = any(one.seconds.tuning is not None for one in arms)
    columns = [
        _ARM,
        *(
            [
                Column("rounds to Local", fields=("rounds_to_local",)),
                Column("numbers sent to Local", fields=("floats_to_local",)),
                Column("seeds that reach it", fields=("reached", "of")),
            ]
            if reach
            else []
        ),
        Column("training, s", help="mean over seeds, evaluation included"),
        Column("compilation, s"),
        *([Column("tuning, s", help="all tuning runs")] if tuned else []),
    ]
    rows = []
    for one in arms:
        own, target = one.seconds, one.reach
        cells = [Cell(one.label, (one.label,))]
        if reach and target is None:
            cells += [Cell("–", (None,))] * 3
        elif target is not None:
            never = Cell("not reached", (None,))
            cells += [
                never if target.rounds is None else number(target.rounds, ",.0f"),
                _floats(target.floats, target.rounds is not None),
                Cell(f"{target.reached} of {target.seeds}", (target.reached, target.seeds)),
            ]
        cells += [number(own.training, ",.1f"), number(own.compilation, ",.1f")]
        cells += [number(own.tuning, ",.0f")] if tuned else []
        rows.append(Row(cells, "", keys.get(one.label, "")))
    notes = []
    if reach:
        levels = listed(sorted({f"{one.target * 100:.1f} %" for one in reach}))
        notes.append(
            f"To Local: until the mean that Local ends with ({levels}) is first reached; medians "
            "over seeds. Numbers sent: up and down, all clients."
        )
    notes.append(
        "Seconds are of the machine that ran them, and of runs side by side in one program they "
        "are the program's."
    )
    return Table(name, f"{title}: cost", columns, rows, notes)


def _floats(value: float | None, reached: bool) -> Cell:
    if value is None:
        return Cell("–" if reached else "not reached", (None,))
    return number(value, ",.0f")


def predictors_table(
    results: Sequence[Result], keys: Mapping[str, str], name: str, title: str
) -> Table:
    """All accuracies that runs have, and what the reference codes would quote."""
    arms = [*ordered(results), *_bounds(results)]
    names = list(dict.fromkeys(each for one in arms for each in one.predictors))
    columns = [
        _ARM,
        *(Column(f"{each}, %", fields=(f"{each}_test",)) for each in names),
        Column("validation, %", fields=("validation",)),
        Column("training, %", fields=("training",)),
        Column("best round by test ‡, %", fields=("best_round_by_test",)),
    ]
    rows = []
    for one in arms:
        own = next(iter(one.predictors), None)
        cells = [
            Cell(one.label, (one.label,)),
            *(percent(one.predictors.get(each), best=each == own) for each in names),
            *(percent(value) for value in (one.validation, one.train)),
            percent(one.best_by_test, style="optimistic"),
        ]
        rows.append(Row(cells, "", keys.get(one.label, "")))
    notes = [
        "Means over seeds, in the round that is quoted. Bold: by the method's own predictor, which "
        "is the primary outcome.",
        "‡ The best round chosen by the test samples themselves: the habit of the reference codes, "
        "optimistic, and no result.",
    ]
    if any(one.diverged for one in arms):
        notes.append(
            "Seeds that diverged count with the yardstick on test samples, with the best of the "
            "rounds before under ‡, and are left out of validation and training."
        )
    return Table(name, f"{title}: all predictors", columns, rows, notes)


def verdict(results: Sequence[Result], primary: bool) -> list[str]:
    """What a comparison comes to, in sentences made of its numbers.

    Args:
      results: of it.
      primary: whether there is an arm that the others are held against.
    """
    arms = ordered(results)
    sentences = [_leader(arms), *_levels(arms), *_losses(arms)]
    pairs = [(one, one.difference) for one in arms if one.difference is not None]
    for one, difference in pairs[:_MOST_IN_WORDS]:
        sentences.append(_difference_in_words(one, difference))
    if len(pairs) > _MOST_IN_WORDS:
        more = len(pairs) - _MOST_IN_WORDS
        sentences.append(f"{counted(more, 'further difference')} {_are(more)} in the table.")
    if primary and not pairs:
        alone = "There is no second arm to hold it against."
        several = "No arm here is the one that others are held against (--against)."
        sentences.append(alone if len(arms) == 1 else several)
    return sentences


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _leader(arms: Sequence[Result]) -> str:
    best = max(arms, key=lambda one: one.mean)
    seeds = counted(len(best.seeds), "seed")
    interval = f", 95 % t interval {_level(best.interval)}" if best.interval else ""
    figure = f"{best.mean * 100:.1f} % ({seeds}{interval})"
    if len(arms) == 1:
        return f"{best.label} has a mean test accuracy of {figure}."
    equal = [one for one in arms if one is not best and round(one.mean - best.mean, 6) == 0]
    if equal:
        names = listed(_few([best.label, *(one.label for one in equal)]))
        return f"{names} share the highest mean test accuracy, {figure}."
    lost = " There is no method above Local." if best.method == LOCAL else ""
    return f"{best.label} has the highest mean test accuracy of {len(arms)} arms: {figure}.{lost}"


def _level(interval: Interval | None) -> str:
    if interval is None:
        return ""
    low, high = (signed(f"{end * 100:.1f}") for end in interval)
    return f"[{low}, {high}]"


def _levels(arms: Sequence[Result]) -> list[str]:
    """Where Local and the yardstick lie, and who is not above them."""
    sentences = []
    own = [one.mean for one in arms if one.method == LOCAL]
    if own:
        level = max(own)
        below = [one.label for one in arms if one.method != LOCAL and one.mean <= level]
        sentences.append(_level_in_words("Local", level, below))
    known = [(one, one.yardstick) for one in arms if one.yardstick is not None]
    if known:
        level = sum(value for _, value in known) / len(known)
        below = [one.label for one, value in known if one.mean <= value]
        sentences.append(_level_in_words("The yardstick", level, below))
    return [" ".join(sentences)] if sentences else []


def _losses(arms: Sequence[Result]) -> list[str]:
    """Which arms have lost seeds."""
    lost = [f"{one.label} {len(one.diverged)} of {len(one.seeds)}" for one in arms if one.diverged]
    few = lost if len(lost) <= 4 else [*lost[:3], f"{len(lost) - 3} more arms"]
    return [f"Seeds that diverged, and count with the yardstick: {listed(few)}."] if lost else []


def _level_in_words(name: str, level: float, below: Sequence[str]) -> str:
    rest = f"; not above it: {listed(_few(below))}" if below else ""
    return f"{name} is at {level * 100:.1f} %{rest}."


def _few(labels: Sequence[str]) -> list[str]:
    """Labels in quotes where they have commas themselves; of many the first."""
    quoted = [f"“{label}”" if "," in label else label for label in labels]
    return quoted if len(quoted) <= 4 else [*quoted[:3], f"{len(quoted) - 3} more"]


def _difference_in_words(one: Result, difference: Difference) -> str:
    flipped = flip(difference)
    said = f"{difference.against} − {one.label}: "
    if flipped.mean is None:
        return f"{said}no seed has both with the same partition, so there is no difference."
    said += f"{signed(f'{flipped.mean * 100:+.1f}')} points"
    if flipped.interval is None:
        pairs = counted(difference.pairs, "pair")
        return f"{said}, {pairs}, which is too little for an interval."
    return (
        f"{said} {_ends(flipped.interval)}, p (Holm) {p_text(difference.holm)}, "
        f"{counted(difference.pairs, 'pair')}."
    )


def tried_text(value: object) -> Cell:
    """A setting as tables have it."""
    return text(f"{value:.4g}" if isinstance(value, float) else value)
