"""What was run: conditions, settings, versions and digests of one comparison."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from protonorm_jax.report.page.parts import Part, counted, listed
from protonorm_jax.report.page.tables import Cell, Column, Row, Table
from protonorm_jax.statistics.comparison import Arm, Comparison
from protonorm_jax.statistics.runs import Run

_DIGITS = 12  # Of a digest that are shown.
_MOST_SEEDS = 12  # With a digest each; more are in the table of all runs.
_WORDS = {
    "num_clients": "clients",
    "train_fraction": "training share",
    "validation_fraction": "validation share",
}


def part(comparison: Comparison, name: str) -> Part:
    """What a comparison is of.

    Args:
      comparison: whose.
      name: of its files.
    """
    runs = [run for arm in [*comparison.arms, *comparison.bounds] for run in arm.runs]
    facts = [
        (_WORDS.get(key, key.replace("_", " ")), shown(value))
        for key, value in comparison.conditions.items()
        if value not in (None, "")
    ]
    facts.append(("partition digests", _partitions(comparison.arms)))
    facts += _made_with(runs)
    same, differing = _settings([*comparison.arms, *comparison.bounds])
    folded = []
    if differing:
        arms = [*comparison.arms, *comparison.bounds]
        columns = [Column("arm", numeric=False), *(Column(key, numeric=False) for key in differing)]
        rows = [
            Row(
                [
                    Cell(arm.label, (arm.label,)),
                    *(_cell(arm.settings.get(key)) for key in differing),
                ]
            )
            for arm in arms
        ]
        table = Table(f"{name}-settings", "Settings in which arms differ", columns, rows)
        folded.append(Part("", "Settings in which arms differ", tables=[table]))
    if same:
        folded.append(
            Part("", "Settings that all arms share", facts=[(k, shown(v)) for k, v in same.items()])
        )
    return Part("settings", "What was run", facts=facts, folded=folded)


def shown(value: Any) -> str:
    """A setting or a condition in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping | list):
        return json.dumps(value)
    return "–" if value is None else str(value)


def _cell(value: Any) -> Cell:
    return Cell(shown(value), (value if isinstance(value, int | float | str) else shown(value),))


def _settings(arms: Sequence[Arm]) -> tuple[dict[str, Any], list[str]]:
    """The settings that all arms share, and the names of the others."""
    names = list(dict.fromkeys(name for arm in arms for name in arm.settings))
    same: dict[str, Any] = {}
    differing = []
    for name in names:
        values = {json.dumps(arm.settings.get(name), sort_keys=True, default=str) for arm in arms}
        if len(values) == 1:
            same[name] = arms[0].settings[name]
        else:
            differing.append(name)
    return same, differing


def _partitions(arms: Sequence[Arm]) -> str:
    """The digest of each seed's partition, and whether all arms have it."""
    by_seed: dict[int, dict[str, int]] = {}
    for arm in arms:
        for run in arm.runs:
            digest = str(run.manifest.get("partition_digest") or "not recorded")[:_DIGITS]
            counts = by_seed.setdefault(int(run.config.get("seed", 0)), {})
            counts[digest] = counts.get(digest, 0) + 1
    digests = {digest for counts in by_seed.values() for digest in counts}
    if len(digests) == 1:
        return f"{digests.pop()} (every seed)"
    said = []
    for seed, counts in sorted(by_seed.items())[:_MOST_SEEDS]:
        each = [
            digest + (f" in {counted(count, 'run')}" if len(counts) > 1 else "")
            for digest, count in counts.items()
        ]
        said.append(f"seed {seed}: {listed(each)}")
    more = len(by_seed) - len(said)
    return "; ".join(said) + (f"; and {counted(more, 'further seed')}" if more else "")


def _made_with(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Versions, devices, commits and dates, with how many runs where they differ."""
    manifests = [run.manifest for run in runs]

    def versions(one: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {value}" for name, value in one.get("versions", {}).items())

    def device(one: Mapping[str, Any]) -> str:
        own = one.get("device", {})
        return f"{own['count']} × {own['kind']}" if {"count", "kind"} <= own.keys() else ""

    def commit(one: Mapping[str, Any]) -> str:
        return str(one.get("git_commit") or "")

    facts = [
        ("versions", _tallied(map(versions, manifests))),
        ("device", _tallied(map(device, manifests))),
        ("commit", _tallied(map(commit, manifests))),
    ]
    dates = sorted(str(one["started"])[:10] for one in manifests if one.get("started"))
    if dates:
        facts.append(
            ("started", dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}")
        )
    return [(name, value) for name, value in facts if value]


def _tallied(values: Iterable[str]) -> str:
    counts: dict[str, int] = {}
    for value in values:
        counts[value or "not recorded"] = counts.get(value or "not recorded", 0) + 1
    if list(counts) == ["not recorded"]:
        return ""
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{value} ({counted(count, 'run')})" for value, count in counts.items())
