"""What can be read from a function that is traced and neither compiled nor run."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

from protonorm_jax import scopes


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


def product_flops(function: Callable[..., Any], given: Any) -> float:
    """The floating-point operations of the products of `function(given)`, at least.

    Two for each number that is multiplied in a matrix product or a convolution, where borders are
    left out. A loop goes round as often as its name says that it does at most, see `scopes`, or
    else once; of branches the cheapest counts, and what no result depends on is none.

    Args:
      function: of one pytree.
      given: the shapes of that.
    """
    jaxpr = jax.make_jaxpr(function)(given).jaxpr
    needed, *_ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _flops_of(needed)


def _flops_of(jaxpr: core.Jaxpr) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = _shape(equation.invars[0])
            each = math.prod(shape[axis] for axis in contracted)
            total += 2.0 * math.prod(_shape(equation.outvars[0])) * each
        elif name == "conv_general_dilated":
            total += _convolution_flops(equation)
        elif name == "cond":
            total += min(_flops_of(branch.jaxpr) for branch in params["branches"])
        else:
            times = params["length"] if name == "scan" else 1
            if name == "while":
                told = scopes.read(f"{equation.source_info.name_stack}/while")
                times = told if isinstance(told, int) else 1
            total += times * sum(map(_flops_of, _inside(params)))
    return total


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _convolution_flops(equation: Any) -> float:
    """Two for each product; those with the holes and borders of dilation and padding are none."""
    params, (left, right) = equation.params, (one.aval.shape for one in equation.invars)
    numbers, out = params["dimension_numbers"], equation.outvars[0].aval.shape
    batch, features, *places = numbers.out_spec
    products = float(out[batch] * out[features] * right[numbers.rhs_spec[1]])
    for axis, place in enumerate(places):
        low = params["padding"][axis][0]
        window = right[numbers.rhs_spec[2 + axis]]
        taken = np.arange(out[place])[:, None] * params["window_strides"][axis]
        taken = taken + np.arange(window) * params["rhs_dilation"][axis] - low
        holes = params["lhs_dilation"][axis]
        last = (left[numbers.lhs_spec[2 + axis]] - 1) * holes
        products *= int(((taken >= 0) & (taken <= last) & (taken % holes == 0)).sum())
    return 2.0 * products


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
