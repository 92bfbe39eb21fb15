"""The process of the command line: `protonorm`, which is also `python -m protonorm_jax`."""

import sys
import warnings

from protonorm_jax.command import console, environment
from protonorm_jax.errors import Caution


def main() -> int:
    """Runs the command line, if the environment lets jax start; returns the exit code."""
    console.open_missing()
    if not sys.warnoptions and "--debug" not in sys.argv:
        warnings.simplefilter("ignore")  # They are for programmers.
        warnings.simplefilter("always", Caution)
        warnings.showwarning = console.show_caution
    try:
        environment.check_xla_flags()
        from protonorm_jax.command import cli
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        with console.lenient():
            message = console.one_line(environment.reason(error))
            print(f"protonorm: {message}", file=sys.stderr, flush=True)
        return 2
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
