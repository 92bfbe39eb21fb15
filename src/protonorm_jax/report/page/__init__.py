"""One page of HTML that says what runs came to, complete in itself."""

import base64
import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jinja2
import rich.table
from markupsafe import Markup, escape
from rich import box

from protonorm_jax import statistics
from protonorm_jax.errors import UsageError
from protonorm_jax.report.page import described, escapes, figures, results, svg, tuned
from protonorm_jax.report.page.figures import FEATURES, PROTOTYPES, Arrays, Bounds, Drawn
from protonorm_jax.report.page.parts import Figure, Part, Section, counted, listed
from protonorm_jax.report.page.tables import Cell, Column, Row, Table, number, percent, text
from protonorm_jax.statistics import runs as recorded
from protonorm_jax.statistics.comparison import Arm, Comparison, SetApart
from protonorm_jax.statistics.intervals import FEWEST_SETS
from protonorm_jax.statistics.runs import Run
from protonorm_jax.statistics.tables import LOCAL, Result

GENERATOR = "protonorm_jax"
"""How the content of the page's `generator` begins, by which a page of ours is known."""
DEFAULT_AGAINST = "protonorm"
_MOST_PROJECTED = 4  # Arms of a comparison whose features are drawn, and whose angles.
_MOST_SLOW = 4  # Pictures by t-SNE on a page: each takes a second or two.
_MOST_SAID = 3  # Comparisons that the terminal shows.
START = 1024
"""Bytes of a page within which it says who made it."""


class Experiment(NamedTuple):
    """A tuned experiment.

    Attributes:
      name: its directory as the user gave it.
      tuning: what `tuning.json` holds.
      choices: what `choices.json` holds; empty while tuning goes on.
      done: tuning runs that have a result.
      has_begun: whether there is a sweep of final runs.
    """

    name: str
    tuning: dict[str, Any]
    choices: list[dict[str, Any]]
    done: int
    has_begun: bool = True


class Content(NamedTuple):
    """All that a page is made of.

    Attributes:
      comparisons: of the runs.
      results: of each comparison.
      apart: runs in no comparison.
      against: what the others are held against; empty if there is none.
      ranks: over data sets, where there are several; by the name of the part of the page, which is
        empty if the page has one.
      parts: names of the parts whose runs are compared among themselves alone; none if all runs
        are compared.
    """

    comparisons: list[Comparison]
    results: list[list[Result]]
    apart: list[SetApart]
    against: str
    ranks: dict[str, statistics.Ranks]
    parts: tuple[str, ...] = ()


def analyse(runs: Sequence[Run], against: str | None) -> Content:
    """What runs come to.

    Args:
      runs: of any number of directories.
      against: the method or arm that the others are held against; by default `DEFAULT_AGAINST`
        where it is one arm, else the first method that is.

    Raises:
      UsageError: there is no such arm.
    """
    found, apart = statistics.comparisons(runs)
    if against is not None and found:
        statistics.check_against(found, against)
    chosen = against or _default_against(found)
    rank = statistics.ranks(found)
    ranks = {} if rank is None else {"": rank}
    return Content(found, statistics.every_result(found, chosen), apart, chosen, ranks)


def analyse_apart(parts: Mapping[str, Sequence[Run]], against: str | None) -> Content:
    """What runs come to, those of each part compared among themselves alone.

    Holm's correction and mean ranks are of one part, too, and each has its own default of what the
    others are held against.

    Args:
      parts: runs by the name of the part.
      against: as for `analyse`; parts that do not have it have their default.

    Raises:
      UsageError: no part has such an arm.
    """
    contents, refusal = {}, None
    for name, runs in parts.items():
        try:
            contents[name] = analyse(runs, against)
        except UsageError as error:
            contents[name], refusal = analyse(runs, None), error
    if refusal is not None and all(one.against != against for one in contents.values()):
        raise refusal
    return Content(
        comparisons=[
            one._replace(title=f"{name}: {titled(one)}")
            for name, content in contents.items()
            for one in content.comparisons
        ],
        results=[own for content in contents.values() for own in content.results],
        apart=[one for content in contents.values() for one in content.apart],
        against="; ".join(
            f"{name}: {content.against}" for name, content in contents.items() if content.against
        ),
        ranks={name: content.ranks[""] for name, content in contents.items() if content.ranks},
        parts=tuple(contents),
    )


def _default_against(found: Sequence[Comparison]) -> str:
    """What others can be held against, see `analyse`; empty if there is nothing."""
    arms = [arm for one in found for arm in one.arms]
    methods = dict.fromkeys([DEFAULT_AGAINST, *(arm.method for arm in arms)])
    labels = dict.fromkeys(arm.label for arm in arms)
    possible = []
    for name in [*(name for name in methods if name != LOCAL), *labels]:
        try:
            statistics.check_against(found, name)
        except UsageError:
            continue
        possible.append(name)
        if any(
            {name in (arm.method, arm.label) for arm in one.arms} == {True, False} for one in found
        ):
            return name
    return possible[0] if possible else ""


def make(
    content: Content,
    *,
    title: str | None,
    version: str,
    arrays: Arrays,
    experiments: Sequence[Experiment] = (),
    declared: bool = True,
) -> str:
    """The page as HTML: nothing in it is fetched, and equal runs give equal bytes.

    Args:
      content: see `analyse`.
      title: of the page; by default it names the data.
      version: of this software.
      arrays: reads the arrays in a file of a run.
      experiments: tuned experiments.
      declared: whether the primary comparison was asked for, or is the default.
    """
    found = content.comparisons
    slow = _MOST_SLOW
    missing: dict[str, list[str]] = {}
    sections = []
    palette = _palette(found)
    against = bool(content.against)
    for place, (one, own) in enumerate(zip(found, content.results, strict=True), 1):
        section, lacks, used = _section(place, one, own, against, palette, arrays, slow)
        sections.append(section)
        for said in lacks:
            missing.setdefault(said, []).append(titled(one))
        slow -= used
    script = _file("sort.js")
    return (
        _templates()
        .get_template("page.html")
        .render(
            title=title or _title(found),
            generator=f"{GENERATOR} {version}",
            style=Markup(_file("style.css")),
            script=Markup(script),
            script_digest=_digest(script),
            overview=_overview(content),
            warnings=_warnings(content, experiments),
            declared=_declared(content, declared),
            comparisons=sections,
            across=[
                _across(rank, name, f"mean-ranks{f'-{place}' if place > 1 else ''}")
                for place, (name, rank) in enumerate(content.ranks.items(), 1)
            ],
            tuning=[
                tuned.part(one.name, one.tuning, one.choices, one.done, f"tuning-{place}", palette)
                for place, one in enumerate(experiments, 1)
            ],
            apart=_apart(content.apart),
            missing=[_where(said, titles, len(found)) for said, titles in missing.items()],
            runs=_all_runs(content),
            numbers=escapes.json_text(_numbers(content, experiments)),
        )
        + "\n"
    )


def is_page(start: bytes) -> bool:
    """Whether a file is a page of ours, by its first bytes."""
    mark = f'<meta name="generator" content="{GENERATOR} '.encode()
    return start.startswith(b"<!DOCTYPE html>") and mark in start[:START]


def shortly(content: Content) -> list[rich.table.Table | str]:
    """What a terminal shows of a page: main tables and verdicts of the first comparisons."""
    said: list[rich.table.Table | str] = []
    for one, own in list(zip(content.comparisons, content.results, strict=True))[:_MOST_SAID]:
        said.append(_for_terminals(results.main_table(own, {}, "", titled(one))))
        said += results.verdict(own, bool(content.against))
    more = len(content.comparisons) - _MOST_SAID
    if more > 0:
        said.append(f"{counted(more, 'further comparison')} on the page")
    if content.apart:
        said.append(f"{counted(len(content.apart), 'run')} set apart; the page says why")
    return said


def _for_terminals(table: Table) -> rich.table.Table:
    result = rich.table.Table(title=escapes.name(table.caption), box=box.SIMPLE_HEAD, padding=0)
    kept = [place for place, column in enumerate(table.columns) if column.printed]
    for column in (table.columns[place] for place in kept):
        side: Literal["left", "right"] = "right" if column.numeric else "left"
        result.add_column(column.head, justify=side, overflow="fold")
    for row in table.rows:
        cells = [row.cells[place] for place in kept]
        result.add_row(*(escapes.name(cell.text + cell.mark) for cell in cells))
    return result


def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("protonorm_jax.report.page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        # Whatever is said is one line of letters that can be seen; markup of ours stays.
        finalize=lambda value: value if isinstance(value, Markup) else escapes.name(value),
    )
    environment.filters["bodies"] = _bodies
    environment.filters["with_code"] = _with_code
    environment.filters["sorted_by"] = _sorted_by
    return environment


def _file(name: str) -> str:
    loader = jinja2.PackageLoader("protonorm_jax.report.page")
    return loader.get_source(jinja2.Environment(), name)[0].strip()


def _digest(script: str) -> str:
    """What the page's policy knows its one script by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _bodies(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows that are sorted, and then those of bounds."""
    for _, group in itertools.groupby(rows, key=lambda row: "bound" in row.style):
        yield list(group)


def _with_code(said: str) -> Markup:
    """A sentence of which what stands in backticks is code."""
    shown = str(escape(escapes.name(said)))
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", shown))


def _sorted_by(cell: Cell) -> str:
    value = cell.values[0] if cell.values else cell.text
    return "" if value is None else str(value)


def _palette(found: Sequence[Comparison]) -> dict[str, str]:
    """A colour for each label that is the same in all comparisons, if there are enough."""
    labels = sorted({arm.label for one in found for arm in one.arms if arm.method != LOCAL})
    return {label: f"s{k}" for k, label in enumerate(labels)} if len(labels) <= svg.COLOURS else {}


def _drawn(one: Comparison, own: Sequence[Result], palette: dict[str, str]) -> list[Drawn]:
    """The arms that pictures show: the best, what they are held against, and Local."""
    arms = {arm.label: arm for arm in one.arms}
    order = [each.label for each in results.ordered(own) if each.method != LOCAL]
    if not palette:
        needed = {each.difference.against for each in own if each.difference is not None}
        kept = [label for label in order if label in needed][: svg.COLOURS]
        kept += [label for label in order if label not in kept][: svg.COLOURS - len(kept)]
        order = [label for label in order if label in kept]
        palette = {label: f"s{k}" for k, label in enumerate(order)}
    methods = [Drawn(arms[label], palette[label]) for label in order]
    locals_ = [each for each in results.ordered(own) if each.method == LOCAL]
    return methods + [Drawn(arms[each.label], "local") for each in locals_[:1]]


def _section(
    place: int,
    one: Comparison,
    own: Sequence[Result],
    against: bool,
    palette: dict[str, str],
    arrays: Arrays,
    slow: int,
) -> tuple[Section, list[str], int]:
    """One comparison, what is missing of it, and how many pictures by t-SNE it has."""
    anchor = f"comparison-{place}"
    files, title = anchor, titled(one)
    drawn = _drawn(one, own, palette)
    keys = {each.arm.label: each.style for each in drawn}
    pooled = [each.mean for each in own if each.bound]
    levels = [each.yardstick for each in own if not each.bound and each.yardstick is not None]
    bounds = Bounds(
        sum(levels) / len(levels) if levels else None,
        sum(pooled) / len(pooled) if pooled else None,
    )
    left_out = len(one.arms) - len(drawn)
    names = [*figures.legend(drawn), *bounds.legend]
    parts = [
        Part(
            "results", "Results", tables=[results.main_table(own, keys, f"{files}-results", title)]
        )
    ]
    difference = results.differences_table(own, keys, f"{files}-differences", title)
    if difference is not None:
        parts.append(Part("differences", "Differences", tables=[difference]))
    curves = figures.curves(drawn, bounds, left_out)
    cost = results.cost_table(own, keys, f"{files}-cost", title)
    if curves:
        parts.append(
            Part(
                "curves",
                "Accuracy over rounds and numbers sent",
                legend=names,
                figures=curves,
                exploratory=True,
            )
        )
    parts.append(Part("cost", "Cost", tables=[cost], exploratory=True))
    clients = results.clients_table(own, keys, f"{files}-clients", title)
    spread = figures.clients(drawn, bounds)
    if clients is not None:
        parts.append(
            Part(
                "clients",
                "Clients",
                tables=[clients],
                legend=bounds.legend if spread else (),
                figures=[each._replace(across=True) for each in spread],
                exploratory=True,
            )
        )
    every = [run for arm in one.arms for run in arm.runs]
    holdings = figures.classes(every)
    if holdings is not None:
        parts.append(Part("classes", "Who holds which classes", figures=[holdings]))
    maps, hidden = figures.angles(drawn, arrays, _MOST_PROJECTED)
    if maps:
        more = [f"Also recorded, and not drawn: {listed(hidden)}."] if hidden else []
        scale = Figure(svg.angle_scale(), "Angle between two prototypes.")
        parts.append(
            Part(
                "angles", "Angles between prototypes", more, small=[*maps, scale], exploratory=True
            )
        )
    points, notes, used = figures.features(drawn, arrays, _MOST_PROJECTED, slow)
    if points or notes:
        parts.append(
            Part("features", "Features in two dimensions", notes, small=points, exploratory=True)
        )
    other = results.predictors_table(own, keys, f"{files}-predictors", title)
    parts.append(Part("predictors", "All predictors", tables=[other], exploratory=True))
    parts.append(described.part(one, files))
    section = Section(
        anchor,
        title,
        results.verdict(own, against),
        _section_warnings(one, own),
        parts,
    )
    return section, _lacks(one, own, bool(maps), bool(points), clients is not None), used


def titled(one: Comparison) -> str:
    """The title of a comparison, which says what the data are."""
    data = escapes.short(one.conditions["data"], 40)
    said = one.title.startswith(data) or f": {data}" in one.title
    return one.title if said else f"{data}: {one.title}"


def _section_warnings(one: Comparison, own: Sequence[Result]) -> list[str]:
    texts = []
    if one.fixed_partition:
        texts.append(
            "On this fixed partition, which is the same for every seed, intervals cover the "
            "randomness of training alone, not that of who holds what."
        )
    if not any(run.summary.get("selected_round") for arm in one.arms for run in arm.runs):
        texts.append(
            "There are no validation samples, so that no round could be selected: what is quoted "
            "is the last round."
        )
    fewest = min(len(each.seeds) for each in own if not each.bound)
    if fewest < 3:
        texts.append(
            f"Some arms have {counted(fewest, 'seed')} only: too little to tell a method from luck."
        )
    return [*texts, *(f"{note[0].upper()}{note[1:]}." for note in one.notes)]


def _lacks(
    one: Comparison, own: Sequence[Result], maps: bool, points: bool, clients: bool
) -> list[str]:
    """What this comparison does not show, and how to get it."""
    runs = [run for arm in one.arms for run in arm.runs]
    texts = []
    if not any(each.bound for each in own):
        texts.append(
            "no pooled runs, the upper bound (`protonorm run --method local --num-clients 1 "
            f"--pooled-clients {one.conditions.get('num_clients')}`)."
        )
    if not any(each.method == LOCAL for each in own):
        texts.append("no Local, the lower bound (`--method local`, the other settings as here).")
    if not any(run.config.get("validation_fraction") for run in runs):
        texts.append("no validation samples (`--validation-fraction 0.2`).")
    without = [run for run in runs if not run.clients and not recorded.has_diverged(run)]
    if without:
        texts.append(
            f"clients.npz in {counted(len(without), 'run')}, such as {without[0].name}, recorded "
            "before runs kept each client's right answers: run them again."
        )
    if not clients and not without:
        texts.append("accuracies of clients.")
    if not maps:
        texts.append(f"angles between prototypes: no run has {PROTOTYPES}.")
    if not points:
        texts.append(f"features: no run has {FEATURES} (`--keep-features 500`).")
    if any(recorded.held(run) is None for run in runs):
        texts.append("each client's samples by class in some manifests, which are older.")
    return texts


def _where(said: str, titles: Sequence[str], number: int) -> str:
    """What is missing, and where unless it is so everywhere."""
    if len(titles) == number:
        return f"{said[0].upper()}{said[1:]}"
    return f"{'; '.join(titles)}: {said}"


def _overview(content: Content) -> list[str]:
    found = content.comparisons
    used = [run for one in found for arm in [*one.arms, *one.bounds] for run in arm.runs]
    count = len({run.name for run in used})
    diverged = len({run.name for run in used if recorded.has_diverged(run)})
    arms = sum(len(one.arms) for one in found)
    if not found:
        return ["None of these runs can be compared."]
    lost = f", {diverged} of which diverged," if diverged else ""
    sentence = (
        f"{counted(count, 'run')}{lost} in {counted(len(found), 'comparison')} of "
        f"{counted(arms, 'arm')}."
    )
    if content.apart:
        sentence += f" {counted(len(content.apart), 'run')} set apart, with the reason."
    return [sentence]


def _warnings(content: Content, experiments: Sequence[Experiment]) -> list[str]:
    texts = [f"{one.name}: tuning is not over." for one in experiments if not one.choices]
    status = [str(one.run.summary.get("status")) for one in content.apart]
    unfinished = [one for one in status if one not in ("finished", "failed")]
    if unfinished:
        each = listed([f"{unfinished.count(one)} {one}" for one in dict.fromkeys(unfinished)])
        texts.append(
            f"Not all runs are finished ({each}): what follows is of those that are, and may "
            "change."
        )
    return texts


def _title(found: Sequence[Comparison]) -> str:
    sets = list(dict.fromkeys(escapes.short(one.conditions["data"], 40) for one in found))
    named = listed(sets[:3] if len(sets) < 4 else [*sets[:2], f"{len(sets) - 2} more data sets"])
    return f"Results on {named}" if sets else "Results"


def _declared(content: Content, asked: bool) -> list[tuple[str, str]]:
    runs = [run for one in content.comparisons for arm in one.arms for run in arm.runs]
    selected = sum(run.summary.get("selected_round") is not None for run in runs)
    lost = sum(recorded.has_diverged(run) for run in runs)
    if selected == 0:
        which = "the last round, as no run has validation samples"
    elif selected + lost >= len(runs):
        which = "the round with the best validation accuracy, the first of equals"
    else:
        which = (
            "the round with the best validation accuracy, the first of equals; where a run has no "
            "validation samples, the last (said there)"
        )
    facts = [
        (
            "primary outcome",
            "test accuracy over all samples of all clients, by the predictor of the method's own "
            f"paper, in {which}",
        ),
        ("unit", "the seed: each run is one observation"),
    ]
    if content.against:
        by = "" if asked else " (the default; --against names another)"
        facts.append(
            (
                "primary comparison",
                f"{content.against} with each other arm{by}: difference of the primary outcome, "
                "paired by seed where data and partition digests agree; Student's t, p values "
                f"corrected by Holm over all comparisons of one data set{_in_one(content)}",
            )
        )
    facts += [
        (
            "intervals",
            "[low, high] and ± are 95 % t intervals of the mean over seeds; from 10 seeds on "
            "bootstrap-t intervals stand beside them",
        ),
        (
            "yardstick",
            "what clients get right by always answering their own most frequent class; an accuracy "
            "means little unless it is well above",
        ),
        (
            "bounds",
            "pooled: every client trains on all samples (upper); local: nothing is exchanged",
        ),
        (
            "divergence",
            "a seed whose loss is not finite counts with the yardstick, and is marked †",
        ),
        (
            "comparable",
            "equal data digest, partition settings, family, rounds and fractions"
            f"{_in_one(content)}; the rest is apart, with the reason",
        ),
        ("exploratory", "everything but the primary comparison, and without p values"),
    ]
    return facts


def _in_one(content: Content) -> str:
    return " and of one directory" if content.parts else ""


def _across(rank: statistics.Ranks, name: str, file: str) -> Part:
    """Mean ranks over data sets, of a part of the page."""
    order = sorted(range(len(rank.labels)), key=lambda k: rank.means[k])
    columns = [
        Column("arm", numeric=False),
        Column("mean rank"),
        Column(
            "interquartile mean, %",
            help="of test accuracy, all seeds on all data sets",
            fields=("interquartile_mean", "low", "high"),
        ),
        *(Column(name, help="rank by mean test accuracy") for name in rank.data_sets),
    ]
    lowest = min(rank.means)
    rows = [
        Row(
            [
                text(rank.labels[k]),
                number(rank.means[k], ".2f", best=rank.means[k] == lowest),
                results.with_interval(rank.interquartile[k], rank.intervals[k]),
                *(number(ranks[k], ".3g") for ranks in rank.ranks),
            ]
        )
        for k in order
    ]
    notes = [
        "1 is the highest mean test accuracy; equal ones share the mean of their ranks.",
        "Interquartile mean: of the middle half of all seeds on all data sets, with its 95 % "
        "bootstrap interval, seeds drawn within data sets.",
    ]
    if rank.left_out:
        notes.append(f"Not in all data sets: {listed(rank.left_out)}.")
    caption = f"{name}: mean ranks over data sets" if name else "Mean ranks over data sets"
    table = Table(file, caption, columns, rows, notes)
    sets = counted(len(rank.data_sets), "data set")
    if rank.critical_difference is None or rank.alike is None:
        said = f"With {sets} there is no critical difference: that takes {FEWEST_SETS}."
        return Part("across", "", [said], tables=[table])
    picture = svg.critical_difference(
        [(rank.labels[k], rank.means[k]) for k in order],
        rank.critical_difference,
        rank.alike,
        "mean ranks with the critical difference",
    )
    caption = (
        f"Mean ranks over {sets}; bars join arms within Nemenyi's critical difference, or all "
        "where Friedman's test finds no difference (Demšar 2006)."
    )
    return Part("across", "", tables=[table], figures=[Figure(picture, caption, True)])


def _apart(apart: Sequence[SetApart]) -> Table:
    columns = [
        Column("run", numeric=False),
        Column("method", numeric=False),
        Column("seed"),
        Column("reason", numeric=False),
    ]
    rows = [
        Row(
            [
                text(one.run.name),
                text(one.run.config.get("method")),
                number(one.run.config.get("seed"), "d"),
                Cell(one.reason, (one.reason,), style="wide"),
            ]
        )
        for one in apart
    ]
    return Table("set-apart", "Runs in no comparison", columns, rows)


def _all_runs(content: Content) -> Table:
    columns = [
        Column("run", numeric=False),
        Column("comparison", help="in the order of the page", fields=("comparison", "title")),
        Column("arm", numeric=False),
        Column("seed"),
        Column("test accuracy, %", fields=("test_accuracy",)),
        Column("round", help="that is quoted"),
        Column("yardstick, %", fields=("yardstick",)),
        Column("status", numeric=False),
        Column("data digest", numeric=False),
        Column("partition digest", numeric=False),
        Column("config digest", numeric=False),
        Column("training, s"),
    ]
    rows = []
    for place, one in enumerate(content.comparisons, 1):
        for arm in [*one.arms, *one.bounds]:
            rows += [_run_row(place, one, arm, run) for run in arm.runs]
    return Table("runs", "Every run that counts", columns, rows)


def _run_row(place: int, one: Comparison, arm: Arm, run: Run) -> Row:
    found = recorded.outcome(run)
    digests = [run.manifest.get(f"{name}_digest") for name in ("data", "partition", "config")]
    return Row(
        [
            text(run.name),
            Cell(str(place), (place, titled(one)), note=titled(one)),
            text(arm.label),
            number(run.config.get("seed"), "d"),
            percent(found.value, 2, mark="†" if found.diverged else ""),
            number(found.round, "d"),
            percent(recorded.yardstick(run), 2),
            text("diverged" if found.diverged else run.summary.get("status")),
            *(
                Cell(str(digest or "–")[:12], (digest,), style="mono", note=str(digest or ""))
                for digest in digests
            ),
            number(run.summary.get("seconds"), ",.1f"),
        ]
    )


def _numbers(content: Content, experiments: Sequence[Experiment]) -> dict[str, Any]:
    """All figures of the page, JSON-ready."""
    return {
        "format": 1,
        "against": content.against or None,
        "comparisons": [
            {
                "title": titled(one),
                "conditions": one.conditions,
                "fixed_partition": one.fixed_partition,
                "results": statistics.plain(own),
                "runs": {
                    arm.label: {str(run.config.get("seed")): run.name for run in arm.runs}
                    for arm in [*one.arms, *one.bounds]
                },
            }
            for one, own in zip(content.comparisons, content.results, strict=True)
        ],
        "ranks": statistics.plain(content.ranks),
        "set_apart": [{"run": one.run.name, "reason": one.reason} for one in content.apart],
        "choices": [{"directory": one.name, "choices": one.choices} for one in experiments],
    }
