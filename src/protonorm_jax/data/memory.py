"""How much memory this process may still take, asked before anything large is made."""

from pathlib import Path

import psutil

from protonorm_jax.errors import UsageError

_CONTROL_GROUP = Path("/sys/fs/cgroup")


def free() -> int:
    """Bytes that can still be taken: of the machine, of the container and of this process."""
    limits = [psutil.virtual_memory().available]
    try:
        limit = int((_CONTROL_GROUP / "memory.max").read_text())
        limits.append(limit - int((_CONTROL_GROUP / "memory.current").read_text()))
    except (OSError, ValueError):  # No such group, or one without a limit ("max").
        pass
    try:
        import resource  # Not on Windows.
    except ImportError:
        return max(min(limits), 0)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        limits.append(limit - psutil.Process().memory_info().vms)
    return max(min(limits), 0)


def check(num_bytes: int, origin: str, what: str) -> None:
    """Refuses what does not fit.

    Args:
      num_bytes: how much memory it would take.
      origin: what messages name as the place of the mistake.
      what: what would take it, such as `10 images of 32x32`.

    Raises:
      UsageError: there is less memory than that.
    """
    left = free()
    if num_bytes > left:
        raise UsageError(
            f"{origin} must fit into memory, got {what}, which take {num_bytes / 2**20:,.0f} MiB "
            f"of {left / 2**20:,.0f} MiB free"
        )
