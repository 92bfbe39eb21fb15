"""What figures depend on beside the code: device, versions, commit, load; and their history."""

import json
import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from . import processes

_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch")


def describe() -> dict[str, Any]:
    """Everything that stands beside the figures of one call, JSON-ready."""
    device = jax.devices()[0]
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
            "processor": _processor(),
            "cores": processes.num_cores(),
        },
        "versions": {"python": platform.python_version()} | _versions(),
        "git_commit": _git_commit(),
        "load_average": load_average(),
    }


def load_average() -> list[float] | None:
    """Of the last 1, 5 and 15 minutes, where the system knows it."""
    return [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None


def append(file: Path, entry: dict[str, Any]) -> None:
    """Adds one line to the history."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a", encoding="utf-8") as lines:
        lines.write(json.dumps(entry, allow_nan=False) + "\n")


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _processor() -> str:
    """The name of the processor, or at least its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git_commit() -> str | None:
    """The commit of this source, `-dirty` if changed; None without git."""
    command = ("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    try:
        result = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None
