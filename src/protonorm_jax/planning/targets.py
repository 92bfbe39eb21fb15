"""Chips that programs are compiled for without any being there, and what is published of them."""

import importlib.util
import os
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from protonorm_jax import settings
from protonorm_jax.errors import UsageError

GIB = 2**30
HERE = "here"


class Chip(NamedTuple):
    """What there is to know of a kind of chip.

    Attributes:
      memory: bytes that programs may use.
      products: floating-point operations a second, of products of bfloat16.
      bandwidth: bytes a second between its memory and its cores.
      fast_memory: bytes that it can keep nearer to them from one step to the next.
    """

    memory: int
    products: float
    bandwidth: float
    fast_memory: int = 0


CHIPS = {
    "TPU v4": Chip(int(30.75 * GIB), 275e12, 1200e9, 160 * 2**20),
    "TPU v5 lite": Chip(int(15.75 * GIB), 197e12, 819e9, 128 * 2**20),
    "TPU v6 lite": Chip(int(31.25 * GIB), 918e12, 1638e9, 128 * 2**20),
    "NVIDIA H100 80GB HBM3": Chip(int(0.75 * 79.65 * GIB), 989e12, 3350e9, 50 * 2**20),
}
"""By `jax.Device.device_kind`; the memory as the compiler has it, on a GPU as jax takes it if not
told otherwise; the rest as published."""

TOPOLOGIES: dict[str, dict[str, Any]] = {
    "v5e:1x1": {"chips_per_host_bounds": (1, 1, 1)},
    "v5e:2x2": {},
    "v5e:2x4": {"chips_per_host_bounds": (2, 4, 1)},
    "v4:2x2x1": {"chip_config_name": "megacore"},  # Its two cores as one device, as jax has them.
    "v6e:1x1": {"chips_per_host_bounds": (1, 1, 1)},
}
"""Names of slices, and what else the compiler must be told to see them as one machine would."""

PLANNED = {"h100:1": ("gpu", "NVIDIA H100 80GB HBM3", 1)}
"""What is planned for and not compiled: by name the platform, the kind of device, and how many."""


class PlannedDevice(NamedTuple):
    """A device to plan for; it says what a `jax.Device` would."""

    platform: str
    device_kind: str
    id: int
    process_index: int = 0


# Without them libtpu asks the network where it is, complains, or waits for a chip's owner.
_ALONE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


class Target(NamedTuple):
    """What programs are compiled for.

    Attributes:
      name: one of `TOPOLOGIES` or `PLANNED`.
      devices: of which none is there; good for compiling alone, or `PlannedDevice` not even that.
      chip: what each of them is.
    """

    name: str
    devices: list[jax.Device]
    chip: Chip

    def choose(self, count: int) -> list[jax.Device]:
        """The first `count` of its devices; all of them for 0.

        Raises:
          UsageError: there are fewer.
        """
        if count > len(self.devices):
            raise UsageError(
                f"Config.devices must be <= {len(self.devices)}, the chips of {self.name}, got "
                f"{count}"
            )
        return self.devices[: count or None]


def absent(name: str) -> Target:
    """A target of which no chip is there, nor is one claimed that is.

    To be called before jax has started; it sees the CPU alone afterwards, and keeps no programs.

    Raises:
      UsageError: there is no such topology, the compiler is not installed, or it cannot be used.
    """
    if name in PLANNED:
        jax.config.update("jax_platforms", "cpu")
        platform, kind, count = PLANNED[name]
        planned: list[Any] = [PlannedDevice(platform, kind, number) for number in range(count)]
        return Target(name, planned, CHIPS[kind])
    if name not in TOPOLOGIES:
        known = *TOPOLOGIES, *PLANNED
        raise UsageError(
            f"--target must be one of {HERE}, {', '.join(known)}, got {name!r}"
            f"{settings.hint(name, known)}"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise UsageError(
            "--target must be here without the package libtpu, which "
            f"pip install 'protonorm_jax[aot]' brings, got {name}"
        )
    # The compiler is loaded, but no client of chips is made: a training beside keeps its own.
    os.environ.update(_ALONE, ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    jax.config.update("jax_platforms", "cpu")
    # What would be kept of these programs cannot be read again without a client of chips.
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        found = topologies.get_topology_desc(name, "tpu", **TOPOLOGIES[name]).devices
    except Exception as error:  # Of any kind, as jax and libtpu have their own.
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UsageError(
            f"--target must be a topology that libtpu knows, got {name}: {reason}"
        ) from error
    devices: list[Any] = list(found)
    return Target(name, devices, CHIPS[devices[0].device_kind])


def leave_out_absent() -> None:
    """Keeps jax from asking libtpu for chips where it has found none itself.

    Asked in vain, libtpu prints many lines. To be called before jax has started; without effect
    where libtpu is not installed, where there are chips (jax chooses them as it is imported), and
    where the user has chosen.
    """
    chosen = jax.config.jax_platforms is not None or "JAX_PLATFORM_NAME" in os.environ  # type: ignore[attr-defined]
    if chosen or importlib.util.find_spec("libtpu") is None:
        return
    if importlib.util.find_spec("jax_plugins") is None:
        jax.config.update("jax_platforms", "cpu")
        return
    for variable, value in _ALONE.items():  # Another chip may be there: libtpu is asked, but quiet.
        os.environ.setdefault(variable, value)
