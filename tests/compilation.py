"""Programs whose bits are compared with no others are compiled with the least effort."""

import contextlib

import jax

HASTY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@contextlib.contextmanager
def hasty():
    """What is compiled ahead of time within, as simulations are, is compiled so."""
    compile_well = jax.stages.Lowered.compile

    def compile_hastily(lowered, options=None):
        return compile_well(lowered, {**HASTY, **(options or {})})

    jax.stages.Lowered.compile = compile_hastily
    try:
        yield
    finally:
        jax.stages.Lowered.compile = compile_well
