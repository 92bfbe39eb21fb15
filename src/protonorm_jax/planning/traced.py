"""What can be read from a function that is traced and neither compiled nor run."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.extend import core


class Traced(NamedTuple):
    """A function, traced.

    Attributes:
      operations: how many it has, those within its loops and branches included.
      peak: the most bytes that are alive at a time within it, what it is given apart.
      result: the shapes of what it returns.
    """

    operations: int
    peak: int
    result: Any


def trace(function: Callable[..., Any], given: Any, num_bytes: Callable[[Any], int]) -> Traced:
    """Traces `function(given)`.

    Args:
      function: of one pytree.
      given: the shapes of that.
      num_bytes: of a tree of shapes, on the device that is meant.
    """
    closed, result = jax.make_jaxpr(function, return_shape=True)(given)
    return Traced(_operations_of(closed.jaxpr), _peak_of(closed.jaxpr, num_bytes), result)


def _operations_of(jaxpr: core.Jaxpr) -> int:
    """How many operations there are, counted where they stand, not where they are called from."""
    count = 0
    for equation in jaxpr.eqns:
        inside = [_operations_of(inner) for inner in _inside(equation.params)]
        count += sum(inside) if inside else 1
    return count


def _peak_of(jaxpr: core.Jaxpr, num_bytes: Callable[[Any], int]) -> int:
    """See `Traced`; operations run in the order in which they were traced."""
    last_use = {
        id(variable): number
        for number, equation in enumerate(jaxpr.eqns)
        for variable in equation.invars
    }
    last_use |= {id(variable): len(jaxpr.eqns) for variable in jaxpr.outvars}
    alive: dict[int, int] = {}
    peak = 0
    for number, equation in enumerate(jaxpr.eqns):
        inner = max([0, *(_peak_of(inside, num_bytes) for inside in _inside(equation.params))])
        alive |= {id(one): num_bytes(one.aval) for one in equation.outvars}
        peak = max(peak, sum(alive.values()) + inner)
        alive = {name: size for name, size in alive.items() if last_use.get(name, -1) > number}
    return peak


def _inside(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """The programs that an operation holds, as loops and branches do."""
    leaves = jax.tree.leaves(
        list(params.values()), is_leaf=lambda one: isinstance(one, core.Jaxpr | core.ClosedJaxpr)
    )
    for one in leaves:
        if isinstance(one, core.ClosedJaxpr):
            yield one.jaxpr
        elif isinstance(one, core.Jaxpr):
            yield one
