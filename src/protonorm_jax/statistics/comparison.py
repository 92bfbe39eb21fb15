"""Which runs may be compared: those under the same conditions, sorted into arms; the rest apart."""

import collections
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from protonorm_jax.statistics.runs import Run, has_diverged, outcome

SELECTING = (
    *("inexact_pixels", "image_size", "group_labels", "classes", "num_samples", "test_data"),
)
"""Settings that say which samples there are; where the data's digest is known, it says so."""
# How clients take part: of no consequence to one client that has all samples.
_TAKING_PART = ("participation", "dropout", "failures", "stragglers", "straggler_work")
_FREE_FOR_BOUNDS = ("rounds", "eval_every", *_TAKING_PART)
CONDITIONS = (
    *("num_clients", "partition", "alpha", "classes_per_client", "min_samples", "train_fraction"),
    *("validation_fraction", "sizes", "split", "evaluate_on", "family", "rounds", "eval_every"),
    *_TAKING_PART,
)
"""Settings that all runs of a comparison share, beside the data's digest."""
# Settings that change no result, or only in the last bits; and what belongs to other things.
_WITHOUT_EFFECT = (
    *(
        "eval_batch_size",
        "keep_state",
        "keep_features",
        "keep_models",
        "checkpoint_every",
        "devices",
    ),
    *("vmap_clients", "relative_to", "methods_file", "pooled_clients", "seed"),
    *("method", "method_settings", "data"),
)
_FIXED = ("data", "file:")
_SHOWN_OF_A_DIGEST = 8


class SetApart(NamedTuple):
    """A run that is in no comparison.

    Attributes:
      run: which.
      reason: why, in words.
    """

    run: Run
    reason: str


class Arm(NamedTuple):
    """What is compared: a method with its settings, run with several seeds.

    Attributes:
      label: the method, and what tells it from other arms, as in `protonorm, scale=20`.
      method: its name; of bounds too.
      settings: all settings that are no conditions, of training and of the method.
      shown: those of them that the label names.
      runs: one a seed, by seed.
      tuned: the names of the settings that were tuned.
    """

    label: str
    method: str
    settings: dict[str, Any]
    shown: dict[str, Any]
    runs: list[Run]
    tuned: tuple[str, ...] = ()


class Comparison(NamedTuple):
    """Runs under the same conditions.

    Attributes:
      title: what tells it from other comparisons, as in `alpha=0.1`; the data where there are none.
      conditions: what its runs share: `data`, `data_digest`, how samples are dealt, family, rounds,
        fractions.
      fixed_partition: whether every seed has the same partition, so that intervals cover the
        randomness of training alone.
      arms: what is compared.
      bounds: what is shown beside them and never compared: runs with pooled clients.
      notes: what is not the same in all runs though it should not matter, such as versions.
    """

    title: str
    conditions: dict[str, Any]
    fixed_partition: bool
    arms: list[Arm]
    bounds: list[Arm]
    notes: list[str]


def comparisons(runs: Iterable[Run]) -> tuple[list[Comparison], list[SetApart]]:
    """Sorts runs into comparisons, in the order in which their conditions first appear.

    Runs are comparable whose data have the same digest, and whose `CONDITIONS` are the same. Within
    a comparison, runs with equal settings but for the seed are one arm. A run is set apart that has
    not come to its end (one that has diverged has), has no accuracy, or has the settings and the
    seed of another one.

    Args:
      runs: of any number of directories; of two that are the same, the first counts.
    """
    apart: list[SetApart] = []
    groups: dict[Any, list[Run]] = {}
    pooled: list[Run] = []
    for run in runs:
        reason = _unusable(run)
        if reason:
            apart.append(SetApart(run, reason))
        elif run.config.get("pooled_clients"):
            pooled.append(run)
        else:
            groups.setdefault(_key(conditions_of(run)), []).append(run)
    found = [conditions_of(group[0]) for group in groups.values()]
    bounds = _attached(pooled, found, apart)
    titles = _titles(found)
    result = []
    for number, group in enumerate(groups.values()):
        arms = _arms(group, apart)
        beside = _arms(bounds[number], apart, beside=found[number])
        every = [*arms, *beside]
        notes = [*_selection_notes(group), *_tuning_notes(arms), *_differing_versions(every)]
        fixed = _has_fixed_partition(group)
        result.append(Comparison(titles[number], found[number], fixed, arms, beside, notes))
    return result, apart


def conditions_of(run: Run) -> dict[str, Any]:
    """What must be equal in runs that are compared, without settings that mean nothing here."""
    config = run.config
    digest = run.manifest.get("data_digest")
    result = {"data": config.get("data"), "data_digest": digest}
    result |= {name: config[name] for name in SELECTING if config.get(name)}
    kind = str(config.get("partition"))
    without = _meaningless(config, kind)
    result |= {name: config.get(name) for name in CONDITIONS if name not in without}
    if kind.startswith(_FIXED) and not config.get("validation_fraction"):
        result["partition_digest"] = run.manifest.get("partition_digest")
    result["validation_fraction"] = config.get("validation_fraction") or 0.0
    if config.get("evaluate_on") == "both":  # The clients' own samples count.
        result["evaluate_on"] = "own"
    return result


def _meaningless(config: Mapping[str, Any], kind: str) -> set[str]:
    """The conditions that have no effect on a run."""
    without = set()
    if kind != "dirichlet":
        without.add("alpha")
    if kind != "pathological":
        without.add("classes_per_client")
    if kind.startswith(_FIXED):
        without |= {"min_samples", "train_fraction", "sizes"}
    if not config.get("stragglers"):
        without.add("straggler_work")
    return without


def _key(conditions: Mapping[str, Any], without: Sequence[str] = ()) -> str:
    """Equal for equal conditions; a digest counts, and not how one comes to what it is of."""
    without = [*without, *(["data", *SELECTING] if conditions["data_digest"] else [])]
    if conditions.get("partition_digest"):
        without.append("partition")
    kept = {name: value for name, value in conditions.items() if name not in without}
    return _text(kept)


def _text(value: Any) -> str:
    """The same text for the same settings, whole numbers written as floats or not."""
    if isinstance(value, Mapping):
        return json.dumps({name: _text(one) for name, one in value.items()}, sort_keys=True)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True)


def _unusable(run: Run) -> str:
    """Why a run is in no comparison, or nothing."""
    summary = run.summary
    status, rounds = summary.get("status"), summary.get("rounds") or 0
    if status == "failed" and not has_diverged(run):
        return f"failed after round {rounds}: {summary['error']}"
    if status not in ("finished", "failed"):
        begun = f"{status} after round {rounds} of {run.config.get('rounds')}"
        return begun if run.rows or rounds else f"{status}"
    if outcome(run).value is None:
        if status == "failed":
            return "diverged, and its yardstick is not recorded"
        return "no accuracy on test samples is recorded"
    return ""


def _attached(
    pooled: Sequence[Run], found: Sequence[Mapping[str, Any]], apart: list[SetApart]
) -> list[list[Run]]:
    """Of each comparison, the runs with pooled clients that share its conditions.

    But for the number of clients, which is that of the clients pooled, and for how long and how
    clients train; where some comparisons share that too, of these.
    """
    result: list[list[Run]] = [[] for _ in found]
    for run in pooled:
        own = conditions_of(run) | {"num_clients": run.config["pooled_clients"]}
        loose = ("partition_digest", *_FREE_FOR_BOUNDS)
        near = [
            number for number, other in enumerate(found) if _key(own, loose) == _key(other, loose)
        ]
        strict = ("partition_digest",)
        exact = [number for number in near if _key(own, strict) == _key(found[number], strict)]
        for number in exact or near:
            result[number].append(run)
        if not near:
            apart.append(SetApart(run, "pooled clients of conditions that no other run has"))
    return result


def _arms(
    runs: Sequence[Run], apart: list[SetApart], *, beside: Mapping[str, Any] | None = None
) -> list[Arm]:
    """Runs by their settings; what is there twice is set apart.

    Args:
      runs: under the same conditions.
      apart: is added to.
      beside: for runs with pooled clients, the conditions of the arms that they are shown with.
    """
    groups: dict[str, dict[int, Run]] = {}
    for run in runs:
        settings = {"method": run.config.get("method")} | _settings(run) | _freed(run, beside)
        seed = int(run.config.get("seed", 0))
        first = groups.setdefault(_text(settings), {}).setdefault(seed, run)
        if first is not run and not any(run is one.run for one in apart):
            apart.append(SetApart(run, _twice(run, first)))
    members = [[group[seed] for seed in sorted(group)] for group in groups.values()]
    mixed = len({group[0].cell is None for group in members}) > 1
    result = []
    for group, shown in zip(members, _shown([group[0] for group in members]), strict=True):
        first, method = group[0], str(group[0].config.get("method"))
        shown |= _freed(first, beside)
        parts = [method]
        if beside is not None:
            parts = ["pooled", *([f"method={method}"] if method != "local" else [])]
        parts += [f"{name}={value_text(value)}" for name, value in shown.items()]
        parts += ["tuned"] if mixed and first.cell is not None else []
        result.append(Arm(", ".join(parts), method, _settings(first), shown, group, tuned(first)))
    return result


def _freed(run: Run, beside: Mapping[str, Any] | None) -> dict[str, Any]:
    """Of a run with pooled clients, what it need not share with the arms beside it and does not."""
    if beside is None:
        return {}
    own = conditions_of(run)
    return {
        name: own[name]
        for name in _FREE_FOR_BOUNDS
        if name in own and _text(own[name]) != _text(beside.get(name))
    }


def _twice(run: Run, first: Run) -> str:
    """Why the second of two runs with the same settings and seed does not count."""
    reason = f"same settings and seed as {first.name}, which counts"
    one, other = outcome(first), outcome(run)
    if one.value != other.value or one.diverged != other.diverged:
        reason += f" with {one.value:.4f}, this one had {other.value:.4f}"
    return reason


def tuned(run: Run) -> tuple[str, ...]:
    """The names of the settings of a run that were tuned."""
    if run.cell is None:
        return ()
    cell = {_plain(name) for name in run.cell}
    return tuple(
        _plain(name) for name in run.changes if _plain(name) not in cell and name != "seed"
    )


def _plain(name: str) -> str:
    """The name of a setting without that of its method, as in `fedtgp.margin`."""
    return name.rpartition(".")[2]


def training_settings(run: Run) -> dict[str, Any]:
    """The settings that are no conditions, have an effect, and belong to no method."""
    left = {*CONDITIONS, *SELECTING, *_WITHOUT_EFFECT}
    return {name: value for name, value in run.config.items() if name not in left}


def _settings(run: Run) -> dict[str, Any]:
    return training_settings(run) | dict(run.config.get("method_settings") or {})


def _shown(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The settings that tell arms apart.

    These are the settings of training in which any two arms differ, and those of the method in
    which arms of one method do; what was tuned only where nothing else tells arms apart.

    Args:
      runs: one of each arm.
    """
    training = [training_settings(run) for run in runs]
    own = [dict(run.config.get("method_settings") or {}) for run in runs]
    chosen = [set(tuned(run)) for run in runs]
    by_method: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        by_method.setdefault(str(run.config.get("method")), []).append(index)

    def named(indices: Sequence[int], values: Sequence[dict[str, Any]]) -> list[str]:
        """In which settings these differ, those aside that were tuned."""
        names = dict.fromkeys(name for index in indices for name in values[index])
        return [
            name
            for name in names
            if len({_text(values[one].get(name)) for one in indices if name not in chosen[one]}) > 1
        ]

    shown: list[dict[str, Any]] = [{} for _ in runs]
    everywhere = named(range(len(runs)), training)
    for indices in by_method.values():
        wanted = [*everywhere, *named(indices, own)]
        alike: dict[str, list[int]] = {}
        for index in indices:
            values = training[index] | own[index]
            names = [name for name in wanted if name in values and name not in chosen[index]]
            shown[index] = {name: values[name] for name in names}
            label = _text(shown[index]) + str(runs[index].cell is None)
            alike.setdefault(label, []).append(index)
        for same in alike.values():
            for name in dict.fromkeys(name for index in same for name in sorted(chosen[index])):
                found = {index: (training[index] | own[index]).get(name) for index in same}
                if len({_text(value) for value in found.values()}) > 1:
                    for index, value in found.items():
                        shown[index][name] = value
    return shown


def value_text(value: Any) -> str:
    """A setting as labels and titles have it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _titles(every: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells conditions from the others; the data's digest if nothing else does."""
    names = dict.fromkeys(name for one in every for name in one if name != "data_digest")
    differing = [name for name in names if len({_text(one.get(name)) for one in every}) > 1]
    titles = [
        ", ".join(
            str(one[name]) if name == "data" else f"{name}={_short(name, one[name])}"
            for name in differing
            if name in one
        )
        or str(one["data"])
        for one in every
    ]
    return [
        f"{title} (SHA-256 {_short('digest', one['data_digest'])})"
        if titles.count(title) > 1
        else title
        for title, one in zip(titles, every, strict=True)
    ]


def _short(name: str, value: Any) -> str:
    text = value_text(value)
    return text[:_SHOWN_OF_A_DIGEST] if name.endswith("digest") else text


def _has_fixed_partition(runs: Sequence[Run]) -> bool:
    """Whether all seeds have the same clients, as data or a file name them."""
    return str(runs[0].config.get("partition")).startswith(_FIXED)


def _selection_notes(runs: Sequence[Run]) -> list[str]:
    """Which runs are quoted with their last round though there are validation samples."""
    without = [
        run.name
        for run in runs
        if run.config.get("validation_fraction")
        and run.summary.get("selected_round") is None
        and not has_diverged(run)
    ]
    if not without:
        return []
    return [f"no round could be selected, so that the last counts: {', '.join(without)}"]


def _tuning_notes(arms: Sequence[Arm]) -> list[str]:
    """Whether some arms were tuned and others not, or with more points."""
    points: dict[int, list[str]] = collections.defaultdict(list)
    for arm in arms:
        choice = arm.runs[0].choice or {}
        count = len(choice.get("tried", ())) if arm.runs[0].cell is not None else 0
        points[count].append(arm.label)
    if len(points) < 2:
        return []
    said = [f"{count} ({'; '.join(labels)})" for count, labels in sorted(points.items())]
    return [f"not all arms were tuned with equally many points: {', '.join(said)}"]


def _differing_versions(arms: Sequence[Arm]) -> list[str]:
    """Versions, commits and devices that are not the same in all runs, and which are where."""
    seen: dict[str, dict[str, dict[str, int]]] = {}
    for arm in arms:
        for run in arm.runs:
            for name, value in _made_with(run).items():
                counts = seen.setdefault(name, {}).setdefault(str(value), {})
                counts[arm.label] = counts.get(arm.label, 0) + 1
    notes = []
    for name, values in seen.items():
        if len(values) > 1:
            said = [
                f"{value} ({'; '.join(f'{label}: {count}' for label, count in counts.items())})"
                for value, counts in values.items()
            ]
            notes.append(f"{name} is not the same in all runs: {', '.join(said)}")
    return notes


def _made_with(run: Run) -> dict[str, Any]:
    """What a run was made with that should not matter much."""
    manifest = run.manifest
    commit, file = manifest.get("git_commit"), run.config.get("methods_file") or {}
    return {
        **manifest.get("versions", {}),
        **({"commit": str(commit)[:12]} if commit else {}),
        "kind of device": manifest.get("device", {}).get("kind"),
        **({"file of methods": str(file.get("digest"))[:12]} if file else {}),
    }
