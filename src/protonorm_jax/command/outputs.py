"""Directories that commands write results into."""

import argparse
import functools
import re
import time
from collections.abc import Callable
from pathlib import Path

from protonorm_jax.config import Config
from protonorm_jax.running import directory as places
from protonorm_jax.running import logs


def check_of(parsed: argparse.Namespace, directory: Path) -> Callable[[Path], None]:
    """What a directory for results is asked once it is locked; the one given is asked at once."""
    check = functools.partial(places.check_free, overwrite=parsed.overwrite)
    if parsed.out:
        check(directory)
        logs.check(directory, parsed.log or ())
    return check


def default_directory(chosen: Config, kind: str = "") -> str:
    """Where results go for which no directory is given, named after the data and the time."""
    source = re.sub(r"\W+", "-", Path(chosen.data).stem).strip("-")
    return f"runs/{source}-{kind or chosen.method}-{time.strftime('%Y%m%d-%H%M%S')}"
