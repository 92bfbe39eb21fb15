"""What a client step cannot do without, counted from the architecture, and what a core can do.

The count walks the operations of a model's forward pass in its stock form (`form="native"`),
so it says nothing of how the step is really computed.

Operations. A convolution or matrix product of M multiply-adds costs 2 M for its output and 2 M for
the gradient of each operand that depends on parameters: three times the forward pass, but for the
first layer, whose image needs no gradient. Norms, activations, pooling (a product with a constant)
and SGD are not counted.

Bytes. Taken is an implementation with one kernel for each product and each of its gradients, into
which all that stands between two products is fused, and with no cache that outlives a kernel. With
x and y the input and output of a product:

    forward     x written by what is before (not the image); x and kernel read, y written
                y read by what follows
    backward    y read and dy written by what follows
                kernel gradient: x and dy read; input gradient: kernel and dy read, dx written
                dx read by what is before
    parameters  read in both passes; gradient written; read, read and written by SGD

Batch norms need a pass of their own over y, which the count leaves out. It is a lower bound of the
traffic to memory for batches that do not fit into the cache, not a bound where they do.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from protonorm_jax.types import Model

from . import timing

_CALLS = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}
_LOOPS = ("cond", "scan", "while")


class Work(NamedTuple):
    """What one training step on one batch costs at least.

    Attributes:
      operations: multiply-adds twice, taps on zero padding included, as is usual.
      least_operations: without the taps on zero padding.
      bytes: read and written.
      activation_bytes: of the inputs and outputs of all products, which the backward pass needs.
      parameter_bytes: of one copy of the parameters.
    """

    operations: int
    least_operations: int
    bytes: int
    activation_bytes: int
    parameter_bytes: int


@dataclasses.dataclass(frozen=True, eq=False)
class _Tensor:
    """An array in the forward pass; two are equal if they are the same one."""

    shape: tuple[int, ...]
    trained: bool  # Whether it depends on parameters.

    @property
    def bytes(self) -> int:
        return 4 * math.prod(self.shape)


class _Product(NamedTuple):
    """A convolution or matrix product: operands, output, multiply-adds with and without padding."""

    left: _Tensor
    right: _Tensor
    output: _Tensor
    multiply_adds: int
    least_multiply_adds: int

    @property
    def gradients(self) -> int:
        return self.left.trained + self.right.trained


def count(model: Model, image_shape: tuple[int, int, int], batch_size: int) -> Work:
    """Counts the work of one training step of a model built with `form="native"`."""
    variables = jax.eval_shape(model.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32)
    products: list[_Product] = []

    def forward(params: Any, statistics: Any, images: jax.Array) -> Any:
        return model.apply({"params": params, "batch_stats": statistics}, images, True)[0]

    closed = jax.make_jaxpr(forward)(variables["params"], variables["batch_stats"], images)
    leaves = jax.tree.leaves(variables["params"])
    inputs = [
        _Tensor(variable.aval.shape, place < len(leaves))
        for place, variable in enumerate(closed.jaxpr.invars)
    ]
    _walk(closed.jaxpr, inputs, products)
    parameter_bytes = 4 * sum(leaf.size for leaf in leaves)
    sources = {product.left for product in products}
    # Each input is written once, however many products read it.
    traffic = 6 * parameter_bytes + sum(x.bytes for x in sources if x.trained)
    for product in products:
        x, y = product.left, product.output
        # x read twice; dx written and read.
        traffic += (2 + 2 * x.trained) * x.bytes
        # y written and read twice; dy written, and read for each gradient.
        traffic += (4 + product.gradients) * y.bytes
    tensors = sources | {product.output for product in products}
    return Work(
        operations=sum(2 * p.multiply_adds * (1 + p.gradients) for p in products),
        least_operations=sum(2 * p.least_multiply_adds * (1 + p.gradients) for p in products),
        bytes=traffic,
        activation_bytes=sum(tensor.bytes for tensor in tensors),
        parameter_bytes=parameter_bytes,
    )


def _walk(jaxpr: Any, inputs: Iterable[_Tensor], products: list[_Product]) -> list[_Tensor]:
    """Follows tensors through `jaxpr` and what it calls, and notes the products on the way."""
    known = dict(zip(jaxpr.invars, inputs, strict=True))
    known |= {variable: _Tensor(variable.aval.shape, False) for variable in jaxpr.constvars}

    def read(atom: Any) -> _Tensor:
        if isinstance(atom, core.Literal):
            return _Tensor(atom.aval.shape, False)
        return known[atom]

    for equation in jaxpr.eqns:
        name = equation.primitive.name
        operands = [read(atom) for atom in equation.invars]
        if name in _LOOPS:
            raise NotImplementedError(f"{name} in a forward pass: how often it runs is not known")
        if name in _CALLS:
            called = equation.params[_CALLS[name]]
            outputs = _walk(getattr(called, "jaxpr", called), operands, products)
        else:
            trained = any(operand.trained for operand in operands)
            outputs = [_Tensor(variable.aval.shape, trained) for variable in equation.outvars]
        if name in ("conv_general_dilated", "dot_general") and operands[1].trained:
            counts = _multiply_adds(equation, operands, outputs[0])
            products.append(_Product(*operands, outputs[0], *counts))
        known.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _multiply_adds(equation: Any, operands: Sequence[_Tensor], output: _Tensor) -> tuple[int, int]:
    """Multiply-adds of a product, with and without those on zero padding."""
    left, right = (operand.shape for operand in operands)
    settings = equation.params
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = settings["dimension_numbers"]
        total = math.prod(output.shape) * math.prod(left[axis] for axis in contracted)
        return total, total
    layout = settings["dimension_numbers"]
    # The kernel holds the inputs of one group only, so this is right for grouped ones as well.
    inputs = right[layout.rhs_spec[1]]
    positions = output.shape[layout.out_spec[0]] * output.shape[layout.out_spec[1]] * inputs
    every, live = 1, 1
    for axis, stride in enumerate(settings["window_strides"]):
        size, taps = left[layout.lhs_spec[2 + axis]], right[layout.rhs_spec[2 + axis]]
        outputs = output.shape[layout.out_spec[2 + axis]]
        every *= taps * outputs
        live *= _live_taps(size, taps, outputs, stride, settings["padding"][axis][0])
    return positions * every, positions * live


def _live_taps(size: int, taps: int, outputs: int, stride: int, padding: int) -> int:
    """How many pairs of output position and tap see the image, along one axis of length `size`."""
    seen = stride * np.arange(outputs)[:, None] + np.arange(taps) - padding
    return int(((seen >= 0) & (seen < size)).sum())


_clocks: dict[str, Callable[[], timing.Times]] = {}


def prepare_rates(size: int, mebibytes: int) -> None:
    """Compiles and warms up what `time_rate` times: a `product`, and to `stream` an array.

    Args:
      size: of the square float32 matrices to multiply.
      mebibytes: of the array to read and write; it must not fit into the cache.
    """
    matrix = jnp.ones((size, size), jnp.float32)
    multiply = jax.jit(jnp.matmul).lower(matrix, matrix).compile()
    # In place: new pages would cost more than what is written to them.
    state = [jnp.zeros(mebibytes * 2**18, jnp.float32)]
    increase = jax.jit(lambda x: x + 1, donate_argnums=0).lower(state[0]).compile()

    def product() -> None:
        multiply(matrix, matrix).block_until_ready()

    def stream() -> None:
        state[0] = jax.block_until_ready(increase(state[0]))

    for function in (product, stream):
        function()
        _clocks[function.__name__] = functools.partial(timing.clock, function)


def time_rate(name: str) -> timing.Times:
    """The times of one product of two matrices, or of reading and writing the array once."""
    return _clocks[name]()


def share(
    work: Work, step: float, product: float, stream: float, size: int, mebibytes: int
) -> dict[str, Any]:
    """How near a step comes to the least time that its work takes at the rates of a core.

    Times are in milliseconds; `size` and `mebibytes` are those of `prepare_rates`. The longer of
    two least times counts, `flop` or `bytes`.
    """
    rates = {"operations": 2e3 * size**3 / product, "bytes": 2e3 * mebibytes * 2**20 / stream}
    least, bound = max(
        (1e3 * work.least_operations / rates["operations"], "flop"),
        (1e3 * work.bytes / rates["bytes"], "bytes"),
    )
    return {
        "gigaflop_per_second": work.operations / step / 1e6,
        "roofline_fraction": least / step,
        "roofline_bound": bound,
        "work": work._asdict(),
        "rates": rates,
    }
