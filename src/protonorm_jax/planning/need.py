"""What a compiled program needs of a device's memory, as its compiler says."""

from typing import Any, NamedTuple

import jax


class Need(NamedTuple):
    """What a compiled program needs of a device's memory, in bytes.

    Attributes:
      arguments: the data set, and the states and index rows of its runs.
      results: that are not written over arguments.
      temporaries: of the computation.
      code: the program itself; zero where it lies elsewhere, as on CPU.
    """

    arguments: int
    results: int
    temporaries: int
    code: int

    def total(self) -> int:
        """The sum.

        It is more than a TPU's compiler calls the peak, which leaves out the code.
        """
        return sum(self)


def of(program: jax.stages.Compiled) -> Need:
    """The need of a program, on each device."""
    usage: Any = program.memory_analysis()
    return Need(
        usage.argument_size_in_bytes,
        usage.output_size_in_bytes - usage.alias_size_in_bytes,
        usage.temp_size_in_bytes,
        usage.generated_code_size_in_bytes,
    )
