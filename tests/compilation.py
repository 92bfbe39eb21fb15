"""Programs whose bits are compared with no others are compiled with the least effort, and once."""

import contextlib
import functools
import json
import os
import zlib

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from protonorm_jax import methods
from protonorm_jax.planning import deal, inputs
from protonorm_jax.planning.plan import Plan
from protonorm_jax.running import conditions, driver, programs

_SET_BY_TARGETS = ("jax_platforms", "jax_enable_compilation_cache")
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
def once():
    """Programs that plans share are traced and compiled once within.

    Module-wide, as `hasty`; for tests of what is kept of runs that are stopped, repeated and
    continued, not of plans whose hooks were replaced. That a plan comes to the same program each
    time is for `test_ahead`, and for tests with processes of their own.
    """
    made, compile_plan = {}, driver.compile_plan

    def compile_or_take(plan: Plan) -> driver.Simulation:
        key = _program_of(plan)
        if key not in made:
            made[key] = compile_plan(plan)
        own = functools.partial(inputs.of_call, plan)
        return made[key]._replace(plan=plan, inputs=own)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "compile_plan", compile_or_take)
        yield


def _program_of(plan: Plan) -> tuple:
    """What a program depends on: see `Program`; and the data, which it has on devices."""
    config, dataset = plan.program.config, plan.dataset
    # By these two it is called.
    fixed = deal.common(config).replace(eval_every=1, checkpoint_every=0)
    told = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(programs.told_shapes(plan))]
    return (
        json.dumps(fixed.to_dict(), sort_keys=True),
        methods.METHODS[config.method],
        tuple(one[2:] for one in plan.program.architectures),
        plan.architectures,
        plan.spread,
        plan.program.apart,
        tuple(plan.devices),
        str(told),
        dataset.num_classes,
        *((one.shape, zlib.crc32(one.tobytes())) for one in (dataset.images, dataset.labels)),
        # As users may set them, and tests do.
        str(conditions.flags()),
    )


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


@contextlib.contextmanager
def as_before():
    """Programs may be compiled for absent chips within; variables and settings are restored."""
    variables = dict(os.environ)
    settings = {name: jax.config.values[name] for name in _SET_BY_TARGETS}
    compilation_cache.reset_cache()  # It asks only once whether it is used.
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(variables)
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
