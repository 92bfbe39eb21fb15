"""`python -m protonorm_jax` is the same as `protonorm`."""

import sys

from protonorm_jax.command.cli import main

sys.exit(main())
