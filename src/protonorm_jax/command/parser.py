"""What parses flags: complaints of one line, and help texts wide enough to read."""

import argparse
import re
from typing import Any, NoReturn

from protonorm_jax.errors import UsageError


class Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations, and whose complaints are one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, "formatter_class": _HelpFormatter, **options})

    def error(self, message: str) -> NoReturn:
        """Raises the complaint."""
        message = re.sub(r"^argument (\S+): must ", r"\1 must ", message)
        raise UsageError(f"{message} ({self.prog} --help lists the flags)")


class _HelpFormatter(argparse.HelpFormatter):
    """Wide enough for a flag and its help on one line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)
