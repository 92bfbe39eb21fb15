"""What must stand before jax starts, and where a process of several talks."""

import argparse
import logging

from absl import logging as absl_logging

from protonorm_jax.command.console import Console
from protonorm_jax.planning import devices


def start_up(parsed: argparse.Namespace, num_devices: int | None) -> None:
    """Prepares a command that compiles or runs.

    Args:
      parsed: the command line.
      num_devices: `Config.devices`; None or 0 for all.

    Raises:
      UsageError: the other processes are not found.
    """
    if not parsed.debug:
        # That a checkpoint cannot be written is a warning; orbax would log hundreds of lines more.
        absl_logging.set_verbosity(absl_logging.FATAL)
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    devices.cache_programs()
    devices.connect(
        parsed.coordinator,
        parsed.num_processes,
        parsed.process_id,
        detected=parsed.distributed,
        num_devices=num_devices or 0,
    )


def console() -> Console:
    """Where this process talks; only the first of several does."""
    return Console(quiet=not devices.is_first())
