"""What must be right in the environment before jax is imported; this file does not import it."""

import functools
import os
import re
import subprocess
import sys

from protonorm_jax.errors import UsageError

_PATIENCE = 60.0
"""Seconds to wait for XLA's opinion of its flags."""


def check_xla_flags() -> None:
    """Asks another process what XLA thinks of `XLA_FLAGS`, as XLA ends the process that asks.

    Raises:
      UsageError: it does not know one of them.
    """
    flags = os.environ.get("XLA_FLAGS")
    complaint = _complaint(flags) if flags else ""
    if complaint:
        raise UsageError(f"XLA_FLAGS must be flags that XLA knows, got {flags!r}: {complaint}")


@functools.cache
def _complaint(flags: str) -> str:
    """What XLA has to say of flags, which this process hands on; nothing if they are right."""
    command = (sys.executable, "-c", "from jaxlib import xla_client; xla_client.CompileOptions()")
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE)
    except (OSError, subprocess.SubprocessError):
        return ""
    found = re.findall(r"(?:parse_flags_from_env|command_line_flags)\S*\] (.*)", asked.stderr)
    return found[0].rstrip(".") if asked.returncode and found else ""


def reason(error: Exception) -> str:
    """Why the program does not start: the environment variable that jax does not take, or so."""
    text = (str(error).strip().splitlines() or ["no message"])[0]
    named = re.search(r"JAX flag (\w+)|environment '(\w+)'|^(jax\.\w+) must", text)
    name = next(filter(None, named.groups())).upper().replace(".", "_") if named else ""
    if name in os.environ:
        return f"{name} must be a value that jax takes, got {os.environ[name]!r}"
    if isinstance(error, UsageError):
        return text
    return f"the installation must be complete, got {type(error).__name__}: {text}"
