"""Names of the loops whose lengths only a plan knows, by which a compiled program can be read.

A compiled program says of each loop from which names it came. Names change no bit and no key of the
cache of programs.
"""

import re
from contextlib import AbstractContextManager
from typing import NamedTuple

import jax

_MARK = "loop."
# A name stands for the loop that follows on it directly; under vmap it is in parentheses.
_LAST = re.compile(r"loop\.([a-z]+)(?:\.(\d+))?\)*/while$")
_BEFORE = re.compile(r"loop\.([a-z]+)(?:\.(\d+))?")


class Loop(NamedTuple):
    """One of the engine's loops.

    Attributes:
      name: `runs` over the runs of a device, `rounds`, `clients` over those of an architecture that
        train or are evaluated, `absent` over them all where also those who are away receive,
        `steps` of training, `batches` over samples without training.
      within_round: whether it is in a round, or else in the evaluation after rounds.
      architecture: the number of that of the clients; None outside of them.
      width: rows of the batch that goes round, where clients or runs are vmapped; else None.
    """

    name: str
    within_round: bool
    architecture: int | None = None
    width: int | None = None


def loop(name: str, number: int | None = None) -> AbstractContextManager:
    """Names the loops that are traced within.

    Args:
      name: as in `Loop`; or `width`, or `times`.
      number: of the architecture, the width, or the times that it goes round at most.
    """
    return jax.named_scope(_MARK + name + ("" if number is None else f".{number}"))


def read(name: str) -> Loop | int | None:
    """What a compiled loop is.

    Args:
      name: `op_name` of its metadata.

    Returns:
      A loop of the engine; or how often it goes round, where its name says so; or None.
    """
    last = _LAST.search(name)
    if not last:
        return None
    kind, number = last[1], last[2]
    if kind == "times":
        return int(number)
    inner = name.rpartition("/while/body/")[2]
    named = _BEFORE.findall(inner)
    width = int(number) if kind == "width" else None
    if kind == "width":
        kind = named[-2][0]
    clients = [int(own) for one, own in _BEFORE.findall(name) if one in ("clients", "absent")]
    within_round = _MARK + "rounds" in name[: last.start()]
    return Loop(kind, within_round, clients[-1] if clients else None, width)
