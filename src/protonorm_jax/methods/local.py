"""Local training: every client for itself, the baseline without federation."""

from protonorm_jax.methods.method import Method


def local() -> Method:
    """Cross-entropy on the client's own samples; nothing is sent, nothing is received."""
    return Method(hyperparameters={})
