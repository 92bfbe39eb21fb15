"""What the bits of a run depend on beside its settings: data, who holds them, flags of jax."""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import samples
from protonorm_jax.types import Dataset, Partition

# Flags of jax that change results, each also an environment variable in capitals.
_FLAGS = (
    "jax_enable_x64",
    "jax_threefry_partitionable",
    "jax_default_prng_impl",
    "jax_random_seed_offset",
    "jax_default_matmul_precision",
    "jax_softmax_custom_jvp",
    "jax_disable_most_optimizations",
    "jax_optimization_level",
    "jax_exec_time_optimization_effort",
)
# What in `XLA_FLAGS` is about the number of devices, patience, and what is written for people.
_HARMLESS = (
    "--xla_force_host_platform_device_count",
    "--xla_cpu_collective_",
    "--xla_dump_",
    "--xla_hlo_profile",
    "--xla_gpu_cuda_data_dir",
)
# Of other libraries, which jax's products go through.
_VARIABLES = ("NVIDIA_TF32_OVERRIDE",)


def data_digest(dataset: Dataset) -> str:
    """SHA-256 of pixels, their shape, and labels, as 64 hex digits.

    Equal for equal samples in equal order, wherever they come from.
    """
    digest = hashlib.sha256()
    digest.update(f"{list(dataset.images.shape)}\n".encode())
    digest.update(np.ascontiguousarray(dataset.labels, "<i4").data)
    digest.update(np.ascontiguousarray(dataset.images, np.uint8).data)
    return digest.hexdigest()


def partition_digest(partition: Partition) -> str:
    """SHA-256 of who holds which samples for what and in which order, as 64 hex digits."""
    digest = hashlib.sha256()
    sides = [(partition.train, partition.train_count), (partition.test, partition.test_count)]
    if partition.validation is not None and partition.validation_count is not None:
        sides.append((partition.validation, partition.validation_count))
    for rows, counts in sides:
        digest.update(np.ascontiguousarray(counts, "<i4").data)
        for row, count in zip(rows, counts, strict=True):
            digest.update(np.ascontiguousarray(row[:count], "<i4").data)
    return digest.hexdigest()


def flags() -> dict[str, Any]:
    """The flags of jax and of XLA that change bits, JSON-ready, as they stand in this process."""
    values = {name: getattr(jax.config, name) for name in _FLAGS if hasattr(jax.config, name)}
    plain = (bool, int, float, str, type(None))
    values = {
        name: value if isinstance(value, plain) else str(value) for name, value in values.items()
    }
    given = os.environ.get("XLA_FLAGS", "").split()
    values["XLA_FLAGS"] = " ".join(sorted(one for one in given if not one.startswith(_HARMLESS)))
    return values | {name: os.environ.get(name) for name in _VARIABLES}


def changed_flags(recorded: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The flags that are not as they were: by name, the value then and now.

    Args:
      recorded: a manifest, or what stands for one in a sweep; older ones lack flags.
    """
    then = dict(recorded.get("flags", {}))
    key = recorded.get("key")
    if isinstance(key, Mapping) and "partitionable" in key:
        then.setdefault("jax_threefry_partitionable", key["partitionable"])
    return {name: (then[name], now) for name, now in flags().items() if then.get(name, now) != now}


def check_flags(recorded: Mapping[str, Any], directory: Path) -> None:
    """Refuses to go on with a run under flags that would give it other bits.

    Args:
      recorded: see `changed_flags`.
      directory: of the run.

    Raises:
      UsageError: a flag is not as it was.
    """
    for name, (then, now) in changed_flags(recorded).items():
        variable = f" (in the environment {name.upper()})" if name.islower() else ""
        raise UsageError(
            f"{name}{variable} must be {then!r}, as when {str(directory)!r} was recorded, got "
            f"{now!r}"
        )


def check_data(then: str | None, now: str, spec: str, directory: Path) -> None:
    """Refuses to go on with a run on other data.

    Args:
      then: the recorded digest; older records have none.
      now: that of the data at hand.
      spec: where they come from.
      directory: of the run.

    Raises:
      UsageError: the data differ.
    """
    rule = f"data must be those that {str(directory)!r} was recorded with"
    _check_digest(then, now, rule, f"other ones in {spec!r}")


def check_initial(then: str | None, now: str | None, directory: Path) -> None:
    """Refuses to go on with a run whose clients start with other nets.

    Args:
      then: the recorded digest; None where nets are drawn.
      now: that of the nets at hand.
      directory: of the run.

    Raises:
      UsageError: the nets differ.
    """
    rule = f"Config.init_from must hold the models that {str(directory)!r} was recorded with"
    _check_digest(then, now, rule, "others")


@contextlib.contextmanager
def blaming_data(
    then: str | None,
    config: Config,
    dataset: Dataset | samples.DataSets | None,
    directory: Path,
) -> Iterator[None]:
    """Says of a plan that cannot be made that the data have changed, if they have.

    Args:
      then: the recorded digest; older records have none.
      config: of the run.
      dataset: used instead of loading `Config.data`; or where to get that from.
      directory: of the run.

    Raises:
      UsageError: why there is no plan.
    """
    try:
        yield
    except UsageError:
        found = None
        if then is not None:
            sets = dataset if isinstance(dataset, samples.DataSets) else samples.DataSets(dataset)
            with contextlib.suppress(UsageError):
                found = sets.of(config).dataset
        if found is not None:
            check_data(then, data_digest(found), config.data, directory)
        raise


def check_partition(then: str | None, now: str, directory: Path) -> None:
    """Refuses to go on with a run whose clients hold other samples.

    Args:
      then: the recorded digest; older records have none.
      now: that of the partition at hand.
      directory: of the run.

    Raises:
      UsageError: the partitions differ.
    """
    rule = f"partition must be the one that {str(directory)!r} was recorded with"
    _check_digest(then, now, rule, "another one")


def _check_digest(then: str | None, now: str | None, rule: str, found: str) -> None:
    """Refuses another digest than the recorded one, in the words of a rule and of what was found.

    Raises:
      UsageError: they differ.
    """
    if then is not None and then != now:
        raise UsageError(
            f"{rule}, SHA-256 {then}, got {found}, SHA-256 {now}; what is recorded stays as it is"
        )
