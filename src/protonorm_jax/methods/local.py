"""Local training: every client for itself, the baseline without federation."""

from protonorm_jax.methods.method import Method, Setup
from protonorm_jax.settings import NoSettings


def local(setup: Setup, fixed: NoSettings) -> Method:
    """Cross-entropy on the client's own samples; nothing is sent, nothing is received."""
    del setup, fixed
    return Method()
