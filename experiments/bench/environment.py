"""What figures depend on beside the code: device, versions, commit, load; and their history."""

import contextlib
import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from . import processes


def describe() -> dict[str, Any]:
    """Everything that stands beside the figures of one call, JSON-ready."""
    device = jax.devices()[0]
    versions = {"python": platform.python_version()}
    for name in ("jax", "jaxlib", "flax", "numpy", "torch"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
            "processor": _processor(),
            "cores": processes.num_cores(),
        },
        "versions": versions,
        "git_commit": _git_commit(),
        "load_average": load_average(),
    }


def load_average() -> list[float] | None:
    """Of the last 1, 5 and 15 minutes, where the system knows it."""
    return [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None


def _processor() -> str:
    """The name of the processor, or at least its kind."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _git_commit() -> str | None:
    """The commit of this source, `-dirty` if changed; None without git."""
    command = ("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    folder = Path(__file__).parent
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10)
        return result.stdout.strip() or None
    return None
