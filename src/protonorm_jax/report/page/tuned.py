"""What was tried before settings were chosen, and what a smaller budget would have chosen."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from protonorm_jax.report.page import svg
from protonorm_jax.report.page.parts import Figure, Part, counted, listed
from protonorm_jax.report.page.results import tried_text
from protonorm_jax.report.page.tables import Cell, Column, Row, Table, number, percent, text
from protonorm_jax.statistics.tables import LOCAL
from protonorm_jax.statistics.tuning import budget_curve


def part(
    title: str,
    tuning: Mapping[str, Any],
    choices: Sequence[Mapping[str, Any]],
    done: int,
    name: str,
    palette: Mapping[str, str],
) -> Part:
    """One tuned experiment.

    Args:
      title: of it.
      tuning: what `tuning.json` holds.
      choices: what `choices.json` holds; empty while tuning goes on.
      done: tuning runs that have a result.
      name: of its files.
      palette: the CSS classes of methods that have one in other pictures.
    """
    cells = tuning.get("cells", [])
    seeds = tuning.get("seeds", [])
    rounds = tuning.get("rounds")
    given = [
        f"Each method was given {counted(int(tuning.get('tune', 0)), 'point')}, with "
        f"{counted(len(seeds), 'seed')} each ({', '.join(map(str, seeds))})"
        + (f" and {counted(rounds, 'round')}" if rounds else "")
        + ", committed before the first run. The highest mean validation accuracy chooses; test "
        "accuracy has no say. Final seeds "
        f"({', '.join(map(str, tuning.get('final_seeds', [])))}) are others."
    ]
    if not choices:
        planned = sum(len(cell.get("points", ())) for cell in cells) * max(len(seeds), 1)
        warning = f"Tuning is not over: {done} of {counted(planned, 'run')} have a result."
        return Part("", title, given, warnings=[warning], tables=[_ranges(cells, name)])
    warnings = [
        f"{_label(one['changes'])}: {listed(one['edges'])} of the chosen point lies at an edge of "
        "its range, so that better values may lie beyond."
        for one in choices
        if one.get("edges")
    ]
    every = [(_label(one["changes"]), _budget(one["tried"])) for one in choices]
    styles = _styles([label for label, _ in every], palette)
    drawn = [(label, values) for label, values in every if label in styles]
    series = [
        svg.Series(label, styles[label], list(range(1, len(values) + 1)), values)
        for label, values in drawn
    ]
    text_below = (
        "Expected test accuracy of the choice among so many points: the mean over all subsets of "
        "those tried (Dodge et al. 2019), and over the tuning seeds. Where lines cross, the "
        "ranking depends on the budget."
    )
    others = len(choices) - len(drawn)
    if others:
        text_below += f" {counted(others, 'further choice')} in the tables only."
    picture = svg.lines(
        series,
        "points tried",
        "test accuracy of the choice, %",
        "test accuracy of the choice over the tuning budget",
        dots=True,
        whole=True,
    )
    return Part(
        "",
        title,
        [*given, *_turns(drawn)],
        warnings=warnings,
        tables=[_ranges(cells, name), _chosen(choices, name)],
        legend=[(styles[label], "line", label) for label, _ in drawn],
        figures=[Figure(picture, text_below)],
        folded=[Part("", "All points that were tried", tables=[_tried(choices, name)])],
    )


def _styles(labels: Sequence[str], palette: Mapping[str, str]) -> dict[str, str]:
    """The CSS class of each label, as long as there are any: its own, or one that is free."""
    known = {**palette, LOCAL: LOCAL}
    free = (style for k in range(svg.COLOURS) if (style := f"s{k}") not in palette.values())
    found = {label: known.get(label) or next(free, None) for label in labels}
    return {label: style for label, style in found.items() if style}


def _label(changes: Mapping[str, Any]) -> str:
    """What tells a cell from the others: the method, and its other settings."""
    others = [f"{key}={value}" for key, value in changes.items() if key != "method"]
    return ", ".join([*([str(changes["method"])] if "method" in changes else []), *others]) or "all"


def _budget(tried: Sequence[Mapping[str, Any]]) -> list[float]:
    """See `budget_curve`."""
    validation, test = (
        [one.get(f"{part}_accuracy") for one in tried] for part in ("validation", "test")
    )
    return budget_curve(validation, test, [one["diverged"] for one in tried]).tolist()


def _turns(drawn: Sequence[tuple[str, Sequence[float]]]) -> list[str]:
    """Whether who leads with the whole budget would have led with smaller ones, too."""
    budgets = {len(values) for _, values in drawn}
    table = np.array([values for _, values in drawn], float) if len(budgets) == 1 else np.zeros(0)
    if len(table) < 2 or not np.isfinite(table).all():
        return []
    leads = table >= table.max(0) - 1e-9
    led = [label for (label, _), whole in zip(drawn, leads[:, -1], strict=True) if whole]
    number = leads.shape[1]
    if len(led) > 1:
        return [f"{listed(led)} are level with the whole budget of {number}."]
    alone = int(leads[leads[:, -1]][0].sum())
    if alone == number:
        return [f"{led[0]} leads with every budget from 1 to {number}."]
    return [
        f"{led[0]} leads with the whole budget, but with {alone} of the {number} budgets only: the "
        "ranking turns with the budget."
    ]


def _ranges(cells: Sequence[Mapping[str, Any]], name: str) -> Table:
    """What each method was given."""
    columns = [
        Column("method", numeric=False),
        Column("setting", numeric=False),
        Column("range", numeric=False),
        Column("points"),
    ]
    rows = []
    for cell in cells:
        label, count = _label(cell.get("changes", {})), len(cell.get("points", ()))
        for setting, found in cell.get("ranges", {}).items() or [("–", {})]:
            rows.append(
                Row([text(label), text(setting), text(_range(found)), number(count)], "", "")
            )
    return Table(f"{name}-ranges", "What each method was given", columns, rows)


def _range(found: Mapping[str, Any]) -> str:
    if "values" in found:
        return ", ".join(f"{value:.4g}" for value in found["values"])
    if {"low", "high"} <= found.keys():
        scale = str(found.get("scale", ""))
        return f"{found['low']:g} to {found['high']:g}{f', {scale}' if scale else ''}"
    return "nothing was tuned"


def _chosen(choices: Sequence[Mapping[str, Any]], name: str) -> Table:
    settings = list(dict.fromkeys(key for one in choices for key in one.get("point", {})))
    columns = [
        Column("method", numeric=False),
        *(Column(key) for key in settings),
        Column("chosen", help="number of the point, in the order tried"),
        Column("validation, %", fields=("validation_accuracy",)),
        Column("test, %", fields=("test_accuracy",)),
        Column("diverged", help="runs of all points"),
        Column("seconds", help="of all tuning runs"),
    ]
    rows = []
    for one in choices:
        edges, chosen = one.get("edges", ()), one["tried"][one["chosen"]]
        cells = [text(_label(one["changes"]))]
        for key in settings:
            cell = tried_text(one["point"].get(key))
            cells.append(cell._replace(mark="*") if key in edges else cell)
        cells += [
            Cell(f"{one['chosen'] + 1} of {len(one['tried'])}", (one["chosen"] + 1,)),
            percent(chosen.get("validation_accuracy")),
            percent(chosen.get("test_accuracy")),
            number(sum(each.get("diverged", 0) for each in one["tried"])),
            number(one.get("seconds"), ",.1f"),
        ]
        rows.append(Row(cells))
    notes = [
        "Accuracies of the chosen point are means over the tuning seeds, and no result: those of "
        "the final seeds are."
    ]
    if any(one.get("edges") for one in choices):
        notes.append("* At an edge of what was tried.")
    return Table(f"{name}-choices", "What was chosen", columns, rows, notes)


def _tried(choices: Sequence[Mapping[str, Any]], name: str) -> Table:
    settings = list(
        dict.fromkeys(key for one in choices for each in one["tried"] for key in each["point"])
    )
    columns = [
        Column("method", numeric=False),
        Column("point"),
        *(Column(key) for key in settings),
        Column("validation, %", fields=("validation_accuracy",)),
        Column("test, %", fields=("test_accuracy",)),
        Column("diverged", help="runs"),
        Column("seconds"),
    ]
    rows = []
    for one in choices:
        for place, each in enumerate(one["tried"]):
            best = place == one["chosen"]
            label = text(_label(one["changes"]))
            rows.append(
                Row(
                    [
                        label._replace(best=best),
                        number(place + 1, best=best),
                        *(tried_text(each["point"].get(key)) for key in settings),
                        percent(each.get("validation_accuracy"), best=best),
                        percent(each.get("test_accuracy")),
                        number(each.get("diverged")),
                        number(each.get("seconds"), ",.1f"),
                    ]
                )
            )
    notes = ["Bold: chosen. A point of which a run diverged counts as tried."]
    return Table(f"{name}-tried", "All points that were tried", columns, rows, notes)
