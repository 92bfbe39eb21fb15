"""What the tiles of a TPU add to the large arguments of a compiled program."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from protonorm_jax.planning import hlo

LARGE = 2**20
"""Bytes above which an argument is looked at."""


class Padded(NamedTuple):
    """A large argument of a program.

    Attributes:
      name: such as `samples.inputs.pixels`.
      layout: its shape, the order of its dimensions and its tiles, as XLA writes them.
      bytes: in the memory of a device.
      wasted: of these, what no number lies in.
    """

    name: str
    layout: str
    bytes: int
    wasted: int

    def share(self) -> float:
        """What is wasted of its bytes."""
        return self.wasted / self.bytes


def of_arguments(text: str, names: Sequence[str]) -> list[Padded]:
    """The large arguments of a program.

    Args:
      text: of a compiled one, `jax.stages.Compiled.as_text()`.
      names: of all that jax is given for it.
    """
    return [
        Padded(names[one.number], one.layout, one.bytes, one.bytes - one.own_bytes)
        for one in hlo.arguments(text)
        if one.bytes > LARGE
    ]


def description(arguments: Sequence[Padded]) -> dict[str, Any]:
    """What there is to say of them, JSON-ready."""
    total, wasted = sum(one.bytes for one in arguments), sum(one.wasted for one in arguments)
    return {
        "bytes": total,
        "wasted": wasted,
        "share": wasted / total if total else 0.0,
        "arguments": [{**one._asdict(), "share": one.share()} for one in arguments],
    }
