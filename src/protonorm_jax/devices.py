"""Which devices a run uses, and how much memory they have."""

import os

import jax
import psutil

from protonorm_jax.data import cache
from protonorm_jax.errors import UsageError

# With several CPU devices in one process, XLA gives up on a collective after 40 s. Devices whose
# clients have more work keep the others waiting for longer than that.
_PATIENCE = (
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=3600",
    "--xla_cpu_collective_call_terminate_timeout_seconds=86400",
)


def prepare_cpu(num_devices: int) -> None:
    """Lets jax see the CPU as `num_devices` devices, each of which trains clients of its own.

    That is faster than one device with all cores: nets as small as these do not fill two. Without
    effect once jax has started, for fewer than two devices, and where the user has set the number.
    Flags of the user's own in `XLA_FLAGS` stay and win.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    chosen = jax.config.jax_num_cpu_devices != -1  # type: ignore[attr-defined]
    if num_devices < 2 or chosen or "xla_force_host_platform_device_count" in flags:
        return
    try:
        jax.config.update("jax_num_cpu_devices", num_devices)
    except RuntimeError:
        return  # Jax has started already.
    new = [flag for flag in _PATIENCE if flag.split("=")[0] not in flags]
    os.environ["XLA_FLAGS"] = " ".join([flags, *new]).strip()
    # XLA's thread pool must hold a thread for each device, or a collective may wait for ever.
    os.environ.setdefault("NPROC", str(max(2 * num_devices, num_cores())))


def num_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose(count: int) -> list[jax.Device]:
    """The first `count` devices of this process, all of them for 0.

    Raises:
      UsageError: there are fewer.
    """
    present = jax.local_devices()
    if count > len(present):
        raise UsageError(
            f"Config.devices must be <= {len(present)}, the {present[0].platform} devices that "
            f"jax sees, got {count}"
        )
    return present[: count or len(present)]


def free_bytes(devices: list[jax.Device]) -> int:
    """Memory left on one of `devices`, in bytes; CPU devices share that of the machine."""
    if devices[0].platform == "cpu":
        return psutil.virtual_memory().available // len(devices)
    stats = devices[0].memory_stats() or {}
    return stats.get("bytes_limit", 2**63) - stats.get("bytes_in_use", 0)


def cache_programs() -> None:
    """Keeps compiled programs in the user's cache folder, unless jax has been told where already.

    The folder is `xla` in that of `data.cache.folder`.
    """
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(cache.folder() / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
