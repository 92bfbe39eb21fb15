"""How settings decide who deals the samples: at random, a file, or the data themselves."""

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from protonorm_jax import settings
from protonorm_jax.errors import UsageError

PARTITIONS = ("dirichlet", "pathological", "iid")
FIXED = ("data", "file:")
"""Partitions that say who holds what themselves: nothing is left to be dealt."""
DEALING = (
    "partition",
    "num_clients",
    "alpha",
    "classes_per_client",
    "min_samples",
    "train_fraction",
    "sizes",
)
"""The settings that say how samples are dealt to clients."""


def who_deals(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves to data and files what these decide: clients that they name, and the test part."""
    result = dict(given)
    partition = settings.fields(cls)["partition"].default
    if str(given.get("data", "")).startswith("pfllib:"):
        result.setdefault("partition", "data")
    if str(result.get("partition", partition)).startswith((*FIXED, "groups:")):
        result.setdefault("num_clients", 0)
    if given.get("test_data"):
        result.setdefault("split", "own")
    return result


def check_dealing(config: Any) -> None:
    """Refuses a partition that there is not, and settings that contradict clients that are fixed.

    Raises:
      UsageError: names the field, the rule and the value.
    """
    kind, _, argument = config.partition.partition(":")
    named = kind in ("file", "groups") and argument
    if config.partition not in (*PARTITIONS, "data") and not named:
        known = ", ".join((*PARTITIONS, "file:FILE", "groups:FILE"))
        hint = settings.hint(config.partition, PARTITIONS)
        raise UsageError(f"Config.partition must be one of {known}, got {config.partition!r}{hint}")
    if config.data.startswith("pfllib:") and config.partition != "data":
        raise UsageError(
            f"Config.partition must be left out for {config.data}, which says itself who holds "
            f"what, got {config.partition!r}"
        )
    if not config.num_clients and config.partition in PARTITIONS:
        raise UsageError("Config.num_clients must be >= 1, got 0")
    sigma_of(config.sizes)
    for name, reason in _meaningless(config).items():
        value = getattr(config, name)
        if value != settings.fields(type(config))[name].default:
            raise UsageError(f"Config.{name} must be left out {reason}, got {value!r}")
    if config.pooled_clients and not config.num_clients:
        raise UsageError(
            "Config.num_clients must be >= 1 with pooled_clients: as many as are to hold all "
            f"samples, got {config.num_clients}"
        )
    if config.test_data and config.split != "own":
        raise UsageError(f"Config.split must be own with test_data, got {config.split!r}")
    if config.sizes and config.partition not in ("iid", "dirichlet"):
        raise UsageError(
            "Config.sizes must be left out for partition pathological, where the classes that a "
            f"client holds decide how many samples it gets, got {config.sizes!r}"
        )


def sigma_of(sizes: str) -> float | None:
    """The SIGMA of `lognormal:SIGMA`; None where sizes are not asked for.

    Raises:
      UsageError: something else is asked for.
    """
    if not sizes:
        return None
    kind, _, text = sizes.partition(":")
    with contextlib.suppress(ValueError):
        if kind == "lognormal" and 0 <= float(text) <= 10:
            return float(text)
    raise UsageError(f"Config.sizes must be lognormal:SIGMA with SIGMA in [0, 10], got {sizes!r}")


def check_given(config: Any, names: Iterable[str]) -> None:
    """Refuses settings that were given though the clients are fixed, even with their defaults.

    Args:
      config: the settings.
      names: of those that were given, and not only left as they are.

    Raises:
      UsageError: names the field, the rule and the value.
    """
    for name, reason in _meaningless(config).items():
        if name in names:
            value = getattr(config, name)
            raise UsageError(f"Config.{name} must be left out {reason}, got {value!r}")


def _meaningless(config: Any) -> dict[str, str]:
    """The settings that mean nothing to these clients, and why."""
    place = config.data if config.partition == "data" else config.partition
    decided = f"for {place}, which says itself who holds what"
    result: dict[str, str] = {}
    if config.partition.startswith(FIXED):
        names = [name for name in DEALING if name not in ("partition", "num_clients")]
        result = dict.fromkeys(names, decided)
    if config.partition.startswith("groups:"):
        result = dict.fromkeys(("alpha", "classes_per_client", "sizes"), decided)
    if config.partition == "data":
        result |= dict.fromkeys(("test_data", "split"), decided)
    elif config.split == "own":
        reason = "with split own, where the test part is what is not trained on"
        result = {"train_fraction": reason} | result
    return result


def without_dealers(
    config: Any, values: dict[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
    """The values of a config that is to be changed, but for what its data or partition decided.

    As these may change, and a default is not told from a setting that was left out.
    """
    before, dropped = config.partition, []
    if changes.get("data", config.data) != config.data and before in ("data", "dirichlet"):
        dropped.append("partition")
    if changes.get("partition", before) != before or dropped:
        plain = settings.fields(type(config))["num_clients"].default
        if before.startswith((*FIXED, "groups:")) or config.num_clients == plain:
            dropped.append("num_clients")
    if changes.get("test_data", config.test_data) != config.test_data:
        dropped.append("split")
    return {name: value for name, value in values.items() if name not in dropped}
