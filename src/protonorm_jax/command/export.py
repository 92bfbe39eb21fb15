"""The command `protonorm export`: a data set and who holds what, as other codes read it."""

import argparse
from pathlib import Path
from typing import Any

from protonorm_jax.command import flags
from protonorm_jax.command.console import Console
from protonorm_jax.command.paths import path
from protonorm_jax.config import Config
from protonorm_jax.data import pfllib
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import samples
from protonorm_jax.types import Partition

_PARTITIONS = {"dirichlet": "dir", "pathological": "pat"}
"""What PFLlib calls our partitions, where it has a name for them."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command but for `--debug`."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--to", metavar="pfllib:DIR", required=True, help="new or empty directory for the folder"
    )
    group.add_argument(
        "--config",
        type=path,
        metavar="FILE",
        help="start from the settings in a TOML, YAML or JSON file, such as a run's config.json",
    )
    flags.add_settings(parser, sections=("data",), names=("seed",))
    flags.add_methods(parser)


def command(parsed: argparse.Namespace) -> int:
    """Deals the samples as a run with these settings would, and writes them.

    Args:
      parsed: the command line.

    Returns:
      The exit code.

    Raises:
      UsageError: a setting or the data cannot be used, or the place is taken.
    """
    chosen = flags.chosen(parsed)
    layout, _, place = parsed.to.partition(":")
    if layout != "pfllib" or not place:
        raise UsageError(f"--to must be pfllib:DIR, got {parsed.to!r}")
    pfllib.check_free(Path(place).expanduser())
    selected = samples.DataSets().of(chosen)
    partition = samples.share(chosen, selected).partition
    directory = pfllib.save(selected.dataset, partition, place, described(chosen, partition))
    num_train, num_test = partition.train_count.sum(), partition.test_count.sum()
    Console().say(
        f"{len(partition.train)} clients with {num_train} training and {num_test} test samples "
        f"are in {directory}"
    )
    return 0


def described(chosen: Config, partition: Partition) -> dict[str, Any]:
    """How the samples were dealt, in the words of PFLlib's `config.json`."""
    sizes = partition.train_count + partition.test_count
    return {
        "non_iid": chosen.partition != "iid",
        "balance": bool(sizes.max() - sizes.min() <= 1),
        "partition": _PARTITIONS.get(chosen.partition),
        **({"alpha": chosen.alpha} if chosen.partition == "dirichlet" else {}),
        "batch_size": chosen.batch_size,
    }
