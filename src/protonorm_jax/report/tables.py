"""Tables and lines for people."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from protonorm_jax import metrics

_MEANINGS = {
    "best": "round with the best test accuracy, as the reference codes report it; it flatters",
    "round": "the one that validation samples select; accuracies are those of this round",
    "common": "on the test samples that all clients share",
    "majority": "guessing each client's most frequent class",
    "std": "over clients",
    "angle": "smallest between prototypes, in degrees",
    "floats up": "all clients, last round",
}


def comparison_table(summaries: Sequence[dict[str, Any]]) -> Table:
    """Recorded runs side by side, the yardstick among them; fits into 80 columns.

    A column stands for a predictor, or the angle, only if one of the runs has it.
    """
    predictors = _predictors(summaries)
    columns = [(key, head, ".3f") for key, head in _accuracy_columns(predictors, summaries)]
    selects = _selects(summaries)
    if selects:
        columns.insert(0, ("selected_round", "round", "d"))
    columns.append(("majority_accuracy", "majority", ".3f"))
    if set(predictors) <= {"prototype", "head"} and not selects:  # There is no room for all.
        columns.append(("", "std", ".3f"))
    if any(summary.get("min_angle") is not None for summary in summaries):
        columns.append(("min_angle", "angle", ".1f"))
    columns += [("floats_up", "floats up", ",d"), ("seconds", "run s", ".1f")]
    meanings = [f"{head}: {_MEANINGS[head]}" for _, head, _ in columns if head in _MEANINGS]
    table = Table(
        title=f"Accuracy {' and '.join(map(_by, predictors))}, {_rounds(summaries)}",
        caption="; ".join(dict.fromkeys(meanings)),
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("method", no_wrap=True)
    for _, head, _ in columns:
        table.add_column(head, justify="right", no_wrap=True)
    for summary in summaries:
        own = [name for name in predictors if summary.get(f"{name}_accuracy") is not None]
        main = own[0] if own else "head"
        keys = [key or f"{main}_accuracy_std" for key, _, _ in columns]
        cells = [_number(summary.get(key), one[2]) for key, one in zip(keys, columns, strict=True)]
        table.add_row(summary["method"], *cells)
    return table


def _predictors(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The predictors that any of these rows or summaries have, in the order of columns."""
    return metrics.predictors({key: None for row in rows for key in row})


def _accuracy_columns(
    predictors: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """Keys and heads: last and best of the prototypes and the head, of others the last alone.

    And the last on the common test set, where a row has it. Where rounds are selected, the
    selected one stands for both.
    """
    columns = []
    if _selects(rows):
        for name in predictors:
            columns.append((f"{name}_accuracy_selected", name))
            common = f"{metrics.column(name, metrics.COMMON)}_selected"
            if any(common in row for row in rows):
                columns.append((common, "common"))
        return columns
    for name in predictors:
        columns.append((f"{name}_accuracy", name))
        common = metrics.column(name, metrics.COMMON)
        if any(common in row for row in rows):
            columns.append((common, "common"))
        if name in ("prototype", "head"):
            columns.append((f"{name}_accuracy_best", "best"))
    return columns


def _selects(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether validation samples select the round that counts."""
    return any("selected_round" in row for row in rows)


def _rounds(rows: Sequence[Mapping[str, Any]]) -> str:
    return "selected round" if _selects(rows) else "last and best round"


def _by(predictor: str) -> str:
    return {"prototype": "by nearest prototype", "head": "by head"}.get(
        predictor, f"of the {predictor}"
    )


def plan_table(programs: Sequence[dict[str, Any]], name: str = "") -> Table:
    """What `sweep_plan.description` says.

    Args:
      programs: as there.
      name: of the sweep, if it has one.
    """
    runs = sum(program["runs"] for program in programs)
    table = Table(
        title=f"{name}{': '[: 2 * bool(name)]}{runs} run{'s'[: runs != 1]}, "
        f"{len(programs)} program{'s'[: len(programs) > 1]} to compile",
        caption="floats: of a client in a round, at most; server steps: of a round, at most",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    for name in programs[0]["fixed"]:
        table.add_column(name)
    names = ("runs", "at a time", "calls", "devices", "runs each", "vmapped", "MiB a device")
    for name in (*names, "floats up", "floats down", "server steps"):
        table.add_column(name, justify="right")
    for program in programs:
        figures = (
            program["runs"],
            program["runs_per_program"],
            -(-program["runs"] // program["runs_per_program"]),
            program["devices"],
            program["runs_each"],
            program["vmap_runs"],
        )
        table.add_row(
            *("-" if value is None else str(value) for value in program["fixed"].values()),
            *map(str, figures),
            f"{program['bytes_per_device'] / 2**20:,.1f}",
            *(f"{program[name]:,}" for name in ("floats_up", "floats_down", "server_steps")),
        )
    return table


def compiled_table(rows: Sequence[dict[str, Any]], target: str) -> Table:
    """What compiled programs need and cost.

    Args:
      rows: of each, see `ahead.Compiled.description`; with a name for the `program`.
      target: what they were compiled for.
    """
    table = Table(
        title=f"{len(rows)} compiled programs for {target}",
        caption="MiB of a device, but host: of this process at most, in which others are compiled "
        "beside; args: with results not written over them; GFLOP, MB and ms: of a round on the "
        "busiest device, ms at least by published peaks; fit: runs at a time; pad %: what tiles "
        "add, of the bytes of arguments above 1 MiB; *: was in the cache of programs",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("program", overflow="fold")
    names = ("compile s", "host", "args", "temp", "code", "peak", "free %", "GFLOP", "MB", "ms")
    for name in (*names, "fit", *["pad %"][: any(row["padded"] for row in rows)]):
        table.add_column(name, justify="right")
    for row in rows:
        memory, cost = row["memory"], row["round"] or {}
        sizes = (row["host_bytes"], memory["arguments"] + memory["results"])
        sizes = (*sizes, *(memory[name] for name in ("temporaries", "code", "total")))
        seconds: Any = cost.get("seconds")
        table.add_row(
            f"{row['program']} {row['name']}",
            f"{row['seconds']:.1f}{'*' if row['cached'] else ''}",
            *(f"{size / 2**20:,.1f}" for size in sizes),
            f"{100 * row['free_share']:.1f}",
            f"{cost['flops'] / 1e9:,.3g}" if cost else "",
            f"{cost['bytes'] / 1e6:,.0f}" if cost else "",
            "-" if cost and seconds is None else f"{1000 * seconds:.3g}" if cost else "",
            "" if row["runs_that_fit"] is None else f"{row['runs_that_fit']:,}",
            *([f"{100 * row['padded']['share']:.1f}"] if row["padded"] else []),
        )
    return table


def least_table(rows: Sequence[dict[str, Any]], target: str) -> Table:
    """What programs cost at least, counted from shapes.

    Args:
      rows: of each what `sweep.description` says, with a name for the `program`, its `rounds`, and
        what they cost `least`.
      target: what they are planned for.
    """
    table = Table(
        title=f"What rounds cost at least on {target}, nothing compiled",
        caption="GFLOP, MB and ms: of a round of all runs that go on at a time, on the busiest "
        "device: products alone, and what must be moved; ms and hours at least by published peaks; "
        "hours: of all rounds of all runs",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("program")
    for name in ("rounds", "calls", "GFLOP", "MB", "ms", "hours"):
        table.add_column(name, justify="right")
    for row in rows:
        cost = row["least"]
        table.add_row(
            row["program"],
            str(row["rounds"]),
            str(-(-row["runs"] // row["runs_per_program"])),
            f"{cost['flops'] / 1e9:,.3g}",
            f"{cost['bytes'] / 1e6:,.0f}",
            "-" if cost["seconds"] is None else f"{1000 * cost['seconds']:.3g}",
            "-" if cost["hours"] is None else f"{cost['hours']:.3g}",
        )
    return table


def padded_lines(rows: Sequence[dict[str, Any]], most: float = 0.25) -> list[str]:
    """Which large arguments of compiled programs lose more than this share to tiles, in words."""
    return [
        f"{row['program']} {row['name']}: {one['name']} takes {one['bytes'] / 2**20:,.1f} MiB, in "
        f"{100 * one['share']:.0f} % of which no number lies: {one['layout']}"
        for row in rows
        for one in (row["padded"]["arguments"] if row["padded"] else [])
        if one["share"] > most
    ]


def sweep_table(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> Table:
    """Mean and standard error over the seeds of each point of a sweep.

    Args:
      rows: of `results.jsonl`.
      names: of the settings besides the seed that the sweep varies.
    """
    names = [name for name in names if len({str(row.get(name)) for row in rows}) > 1]
    table = Table(
        title=f"Accuracy, {_rounds(rows)}, mean ± standard error over seeds",
        caption="; ".join(
            (
                "selected: by validation samples"
                if _selects(rows)
                else f"best: {_MEANINGS['best']}",
                f"majority: {_MEANINGS['majority']}",
                "floats: all clients, last round",
                "s/round: of all runs that train side by side, evaluations included",
            )
        ),
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    failures = any(row["status"] != "finished" for row in rows)
    for name in names:
        table.add_column(name, overflow="fold")
    for name in ("runs", *(["failed"] if failures else [])):
        table.add_column(name, justify="right", no_wrap=True)
    columns = [*_accuracy_columns(_predictors(rows), rows), ("majority_accuracy", "majority")]
    for head in (*(head for _, head in columns), "floats up", "floats down", "s/round"):
        table.add_column(head, justify="right", overflow="fold")
    points: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        points.setdefault(tuple(row.get(name) for name in names), []).append(row)
    for point, members in points.items():
        finished = [row for row in members if row["status"] == "finished"]
        counts = [len(finished), *([len(members) - len(finished)] if failures else [])]
        table.add_row(
            *("-" if value is None else str(value) for value in point),
            *map(str, counts),
            *(
                # Without zeros before the point there is room for all predictors.
                re.sub(r"\b0\.", ".", mean_and_error(_present(finished, key)))
                for key, _ in columns
            ),
            *(_mean(_present(finished, key), ",.0f") for key in ("floats_up", "floats_down")),
            _mean([row["seconds"] / row["rounds"] for row in finished if "seconds" in row], ".3g"),
        )
    return table


def range_words(found: Mapping[str, Any]) -> str:
    """From where the values of a setting are drawn that is tuned, as `0.1 to 100 (log)`.

    Args:
      found: `low`, `high` and `scale`; or `values`.
    """
    if "values" in found:
        values = found["values"]
        return f"{len(values)} from {min(values):g} to {max(values):g}"
    scale = " (log)" if found["scale"] == "log" else ""
    return f"{found['low']:g} to {found['high']:g}{scale}"


def trials_table(description: Mapping[str, Any]) -> Table:
    """What is tried, see `tuning.json`."""
    seeds, cells = description["seeds"], description["cells"]
    rounds = description["rounds"]
    table = Table(
        title=f"{description['tune']} settings tried in each of {len(cells)} "
        f"cell{'s'[: len(cells) > 1]}, {len(seeds)} run{'s'[: len(seeds) > 1]} each"
        f"{f' of {rounds} rounds' if rounds else ''}; {len(description['final_seeds'])} at the one "
        "that is chosen",
        caption="drawn before the first run; chosen by mean validation accuracy",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    for name in ("cell", "settings that are tuned"):
        table.add_column(name, overflow="fold")
    for name in ("tried", "runs"):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in cells:
        ranges = [f"{name} {range_words(found)}" for name, found in cell["ranges"].items()]
        count = len(cell["points"])
        table.add_row(
            _settings(cell["changes"]), "; ".join(ranges), str(count), str(count * len(seeds))
        )
    return table


def choices_table(choices: Sequence[Mapping[str, Any]]) -> Table:
    """What was chosen, see `choices.json`."""
    table = Table(
        title="Chosen by mean validation accuracy",
        caption="at the edge: of what was tried, beyond which there may be better; seconds: of "
        "training, of runs side by side each its part",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    for name in ("cell", "chosen"):
        table.add_column(name, overflow="fold")
    for name in ("validation", "tried", "diverged", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("at the edge", overflow="fold")
    for one in choices:
        tried = one["tried"]
        table.add_row(
            _settings(one["changes"]),
            _settings(one["point"]),
            _number(tried[one["chosen"]]["validation_accuracy"], ".3f"),
            str(len(tried)),
            str(sum(point["diverged"] > 0 for point in tried)),
            f"{one['seconds']:.1f}",
            ", ".join(one["edges"]) or "-",
        )
    return table


def _settings(values: Mapping[str, Any]) -> str:
    """Settings by name on one line; the method by its name alone."""
    words = [str(values["method"])] if "method" in values else []
    words += [f"{name}={value}" for name, value in values.items() if name != "method"]
    return ", ".join(words) or "all"


def verification_lines(
    rounds: Sequence[tuple[int, Sequence[Any]]],
    files: Mapping[str, Sequence[Any]],
    changes: Sequence[str],
) -> list[str]:
    """What `verify.Verification` holds, row by row; equal rows in a row are one line.

    Args:
      rounds: for each recorded row, its round and what differs.
      files: by file, what differs in it.
      changes: what is not as it was when the run was recorded.
    """
    lines = [f"not as recorded: {change}" for change in changes]
    for same, several in itertools.groupby(rounds, key=lambda pair: not pair[1]):
        group = list(several)
        if same:
            first, last = group[0][0], group[-1][0]
            which = f"round {first}" if first == last else f"rounds {first} to {last}"
            lines.append(f"{which}: bit-identical ({len(group)} row{'s'[: len(group) > 1]})")
            continue
        for round_index, differences in group:
            worst = [one for one in differences if not one.within]
            verdict = "DIFFERENT" if worst else "within tolerance"
            lines.append(f"round {round_index}: {verdict}: {_differences(worst or differences)}")
    for name, differences in files.items():
        worst = [one for one in differences if not one.within]
        verdict = "DIFFERENT" if worst else "within tolerance"
        text = f"{verdict}: {_differences(worst or differences)}" if differences else ""
        lines.append(f"{name}: {text or 'bit-identical'}")
    return lines


def _differences(differences: Sequence[Any]) -> str:
    shown = [f"{one.name} {one.recorded} -> {one.now}" for one in differences[:3]]
    more = len(differences) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def mean_and_error(values: Sequence[float]) -> str:
    """Mean and standard error of the mean as `0.912±0.004`; the error needs two values."""
    if not values:
        return "-"
    mean = np.mean(values)
    if len(values) == 1:
        return f"{mean:.3f}"
    return f"{mean:.3f}±{np.std(values, ddof=1) / np.sqrt(len(values)):.3f}"


def _present(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """The values that there are; processes that do not write know nothing of their runs."""
    return [row[key] for row in rows if row.get(key) is not None]


def _mean(values: Sequence[float], form: str) -> str:
    return format(np.mean(values), form) if values else "-"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def records_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    """Recorded runs, a row each.

    Args:
      rows: of each the values by name, None where there is none.
      columns: the names in order.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for name in columns:
        numbers = all(isinstance(row[name], int | float | None) for row in rows)
        table.add_column(name.replace("_", " "), justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*(_value(row[name]) for name in columns))
    return table


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _number(value, ".4g") if isinstance(value, float | None) else str(value)


def methods_table(rows: Sequence[dict[str, Any]]) -> Table:
    """All methods, what they send and where they come from.

    Args:
      rows: of each method `name`, `up`, `down`, `settings` (names) and `source`.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for name in ("method", "up a client", "down a client", "settings", "source"):
        table.add_column(name, overflow="fold")
    for row in rows:
        names = ", ".join(row["settings"])
        table.add_row(row["name"], row["up"], row["down"], names or "-", row["source"])
    return table


def settings_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The settings of one method.

    Args:
      rows: of each setting `name`, `default`, `reference`, `allowed`, `traced`, `tuned` and `help`.
    """
    table = Table(
        caption="published code: what --fidelity reference takes, where it is not the default; "
        "one program: runs of a sweep that differ in it share a compiled program; tuned: from "
        "where sweep --tune draws it",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    names = ("setting", "default", "published code", "allowed", "one program", "tuned", "meaning")
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        shared = "yes" if row["traced"] else "no"
        figures = (row["default"], row["reference"], row["allowed"], shared, row["tuned"] or "-")
        table.add_row(row["name"], *figures, row["help"])
    return table
