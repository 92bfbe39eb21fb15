"""Programs whose bits are compared with no others are compiled with the least effort."""

import contextlib

import jax

HASTY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
_compile = jax.stages.Lowered.compile


@contextlib.contextmanager
def hasty():
    """What is compiled within, ahead of time as simulations are or not, is compiled so.

    Module-wide: `pytestmark = pytest.mark.usefixtures("hastily")`. Equal bits on other devices or
    in another company are for the contract, which compiles as users do.
    """
    with _replaced(
        lambda lowered, options=None: _compile(lowered, {**HASTY, **(options or {})}), True
    ):
        yield


@contextlib.contextmanager
def thorough():
    """What is compiled within is compiled as users do, also within `hasty`."""
    with _replaced(_compile, False):
        yield


@contextlib.contextmanager
def _replaced(compiles, quickly):
    before = jax.stages.Lowered.compile, jax.config.values["jax_disable_most_optimizations"]
    jax.stages.Lowered.compile = compiles
    jax.config.update("jax_disable_most_optimizations", quickly)
    try:
        yield
    finally:
        jax.stages.Lowered.compile, quickly = before
        jax.config.update("jax_disable_most_optimizations", quickly)
