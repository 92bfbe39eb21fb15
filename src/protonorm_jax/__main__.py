"""The process of the command line: `protonorm`, which is also `python -m protonorm_jax`."""

import sys
import warnings

from protonorm_jax.command import cli, console
from protonorm_jax.errors import Caution


def main() -> int:
    """Runs the command line; returns the exit code."""
    console.open_missing()
    if not sys.warnoptions and "--debug" not in sys.argv:
        warnings.simplefilter("ignore")  # They are for programmers.
        warnings.simplefilter("always", Caution)
        warnings.showwarning = console.show_caution
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
