"""Compiles the programs of a sweep, and trains nothing."""

from collections.abc import Iterator, Sequence

from experiments.runner import arguments
from protonorm_jax.command import cli, flags
from protonorm_jax.planning import devices
from protonorm_jax.running import driver, sweep

MIB = 2**20


def lines(words: Sequence[str], grids: arguments.Grids) -> Iterator[str]:
    """Plans a sweep as the command line does, and says of each program what it takes.

    The runs of a tuning differ from the final ones in what programs share.

    Args:
      words: flags of `protonorm sweep`, see `arguments.flags`.
      grids: see `arguments.grids`.

    Raises:
      UsageError: settings that cannot be used, or too little memory.
    """
    parsed = flags.parse(cli.COMMANDS, ["sweep", *words])
    devices.cache_programs()
    base = flags.chosen(parsed)
    axes = dict(flags.grid_axis(text) for text in parsed.grid)
    changes = sweep.expand(base, [{**grid, **axes} for grid in grids], parsed.seeds)
    planned = sweep.plan(base, changes)
    yield f"{len(changes)} runs, {len(planned.plans)} programs"
    for one in planned.plans:
        simulation = driver.compile_plan(one)
        config = one.program.config
        yield (
            f"{config.method} on {config.data}, {config.num_clients} clients of {config.family}: "
            f"compiled in {simulation.compile_seconds:.1f} s, {one.runs_per_program} runs at a "
            f"time, {simulation.bytes_per_device / MIB:,.0f} MiB of a device"
        )
