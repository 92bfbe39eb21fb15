"""Which devices a run uses, and how much memory they have."""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil
from jax.experimental import multihost_utils

from protonorm_jax.data import cache
from protonorm_jax.errors import UsageError

# With several CPU devices in one process, XLA gives up on a collective after 40 s. Devices whose
# clients have more work keep the others waiting for longer than that.
_PATIENCE = (
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=3600",
    "--xla_cpu_collective_call_terminate_timeout_seconds=86400",
)
_WAYS = ("host_to_device", "device_to_device", "device_to_host")
# Settings of jax, and their values with which programs can be compiled ahead of time and fed.
_SETTINGS: dict[str, tuple[Any, ...]] = {
    "jax_disable_jit": (False,),
    "jax_check_tracer_leaks": (False,),
    **{f"jax_transfer_guard_{way}": ("allow", "log", None) for way in _WAYS},
}


def connect(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    *,
    detected: bool = False,
    num_devices: int = 0,
) -> None:
    """Joins this process with the others of a job, if there are any; before jax starts.

    What is left out is read from `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID`.

    Args:
      coordinator: `host:port` where the first process listens.
      num_processes: how many there are.
      process_id: which one this is, from 0.
      detected: find all of that in the environment, as jax does for TPU pods, Slurm, Open MPI
        and Kubernetes.
      num_devices: CPU devices that all processes together are to have; 0 for one of each core.

    Raises:
      UsageError: something is missing or out of range.
    """
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    num_processes = _variable("JAX_NUM_PROCESSES", num_processes)
    process_id = _variable("JAX_PROCESS_ID", process_id)
    given = (coordinator, num_processes, process_id)
    if not detected and all(value is None for value in given):
        return
    names = ("--coordinator", "--num-processes", "--process-id")
    if not detected:
        missing = [name for name, value in zip(names, given, strict=True) if value is None]
        if missing:
            raise UsageError(
                f"{' and '.join(missing)} must be given too, as for each of several processes"
            )
        assert coordinator is not None and num_processes is not None and process_id is not None
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdigit():
            raise UsageError(f"--coordinator must be HOST:PORT, got {coordinator!r}")
        if not 0 <= process_id < num_processes:
            raise UsageError(f"--process-id must be in [0, {num_processes}), got {process_id}")
    # Otherwise jax keeps SIGTERM for itself.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(*given, heartbeat_timeout_seconds=30)
    except (ValueError, RuntimeError) as error:
        raise UsageError(
            f"--distributed must find the other processes, got {str(error).splitlines()[0]}"
        ) from error
    prepare_cpu(num_devices // (num_processes or 1) or num_cores())


def _variable(name: str, given: int | None) -> int | None:
    """What is given, or else the number in an environment variable, if there is one."""
    text = os.environ.get(name)
    if given is not None or text is None:
        return given
    if not text.isdigit():
        raise UsageError(f"{name} must be an integer >= 0, got {text!r}")
    return int(text)


def prepare_cpu(num_devices: int) -> None:
    """Lets jax see the CPU as `num_devices` devices, each of which trains clients of its own.

    That is faster than one device with all cores: nets as small as these do not fill two. Without
    effect once jax has started, for fewer than two devices, and where the user has set the number.
    Flags of the user's own in `XLA_FLAGS` stay and win.

    XLA's thread pool is left at one thread for each core or device, whichever are more. With twice
    as many (`NPROC`) a round takes a quarter longer, as the threads displace each other; and none
    is missing for a collective as long as every call of a program waits for the one before it.

    LAPACK, where a method needs it, gets one thread, for any number of devices: its results depend
    on how many it has, and those of several devices displace each other.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # Read when it is first used.
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


def num_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_settings() -> None:
    """Refuses settings of jax under which nothing can be run.

    Raises:
      UsageError: one of them; or a platform that is not there.
    """
    for name, allowed in _SETTINGS.items():
        value = getattr(jax.config, name)
        if value not in allowed:
            raise UsageError(f"{name.upper()} must be {allowed[0]}, got {value}")
    config: Any = jax.config
    if config.jax_num_cpu_devices == 0:
        raise UsageError("JAX_NUM_CPU_DEVICES must be >= 1, got 0")
    older = not config.jax_platforms and "JAX_PLATFORM_NAME" in os.environ
    name = "jax_platform_name" if older else "jax_platforms"
    try:
        jax.devices()
        name = "jax_default_device"
        if isinstance(config.jax_default_device, str):
            jax.devices(config.jax_default_device.partition(":")[0])
    except Exception as error:  # Of any kind, as each platform has its own.
        reason = next(iter(str(error).splitlines()), "") or "it is not there"
        value = os.environ.get(name.upper(), getattr(config, name, None))
        raise UsageError(
            f"{name.upper()} must name a platform that jax finds, got {value!r}: {reason}"
        ) from error


def choose(count: int) -> list[jax.Device]:
    """The first `count` devices of all processes together, as many of each; all of them for 0.

    Raises:
      UsageError: there are fewer, or the processes cannot share so many equally.
    """
    check_settings()
    present, processes = jax.devices(), jax.process_count()
    if count % processes:
        raise UsageError(
            f"Config.devices must be a multiple of the number of processes, {processes}, got "
            f"{count}"
        )
    if count > len(present):
        raise UsageError(
            f"Config.devices must be <= {len(present)}, the {present[0].platform} devices that "
            f"jax sees, got {count}"
        )
    each = (count or len(present)) // processes
    return [
        device
        for process in range(processes)
        for device in [one for one in present if one.process_index == process][:each]
    ]


def put(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Numpy arrays as global arrays; every process has the whole and keeps its devices' part."""

    def one(leaf: Any) -> jax.Array:
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(one, tree)


def is_first() -> bool:
    """Whether this process is the one that writes and talks."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def has_others() -> bool:
    """Whether this process is one of several of a job; does not start jax's devices."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def agree(value: int) -> int:
    """The value of the first process, in all of them."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


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


def make_room_for_programs(share: float = 0.5) -> bool:
    """Has jax forget its compiled programs if they take too many of the process's memory maps.

    Jax keeps all programs it has compiled. On CPU each takes some thousand memory maps, of which
    Linux allows a process 65530 if not told otherwise; without one left it dies. Programs that
    somebody still holds, as a `driver.Simulation` does, stay.

    Args:
      share: of the maps that the system allows; more than that is too many.

    Returns:
      Whether they were forgotten.
    """
    try:
        allowed = int(Path("/proc/sys/vm/max_map_count").read_text())
        taken = Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:  # Another system, without such a limit.
        return False
    if taken <= share * allowed:
        return False
    jax.clear_caches()
    return True
