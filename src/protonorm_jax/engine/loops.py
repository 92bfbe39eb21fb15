"""The loops that the engine is made of, and the one place that keeps a computation's bits its own.

XLA fuses operations with their neighbours and rounds accordingly, and what the neighbours are
depends on the number of devices. It does not fuse across the border of a loop. What must have equal
bits anywhere therefore stands in a loop of its own (`isolated`), and sums over clients are added up
one after the other (`accumulate`), never by a reduction.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from protonorm_jax import scopes


def zeros_of(function: Callable[..., Any], *given: Any) -> Any:
    """Zeros of the shapes and dtypes that `function(*given)` returns; nothing is computed."""
    return jax.tree.map(
        lambda shape: jnp.zeros(shape.shape, shape.dtype), jax.eval_shape(function, *given)
    )


def hidden(number: int, witness: jax.Array) -> jax.Array:
    """`number` as an `[]` int32 of which the compiler does not know the value.

    Args:
      number: any.
      witness: `[]` int32, traced and never negative; the compiler must not know that.
    """
    return jnp.minimum(witness, 0) + jnp.int32(number)


def accumulate(count: jax.Array, function: Callable[[jax.Array, Any], Any], given: Any) -> Any:
    """Adds up `function(index, given)` for `index` from 0 up to `count`, in this order.

    Args:
      count: `[]` int32. A traced one keeps this a loop, whatever its value.
      function: traced once; returns a pytree of sums.
      given: a pytree, handed on.
    """
    function = jax.jit(function)
    start = jnp.int32(0)  # Of a plain 0 the index would be weakly typed, and traced anew.
    zero = zeros_of(function, start, given)
    return jax.lax.fori_loop(
        start, count, lambda i, sums: jax.tree.map(jnp.add, sums, function(i, given)), zero
    )


def isolated(function: Callable[..., Any], *given: Any, witness: jax.Array) -> Any:
    """`function(*given)`, compiled apart from what stands before and after it.

    It shields a computation from its neighbours, not from itself: a product with a sum over the
    clients of all devices inside of `function` may still be rounded in another way where the
    gathered arrays come about differently. Such sums belong into `accumulate`.

    Args:
      function: traced once.
      *given: pytrees.
      witness: see `hidden`.
    """
    function = jax.jit(function)
    zero = zeros_of(function, *given)

    def body(turn: jax.Array, _: Any) -> Any:
        # Were the arguments the same in every turn, XLA would move all work out of the loop.
        held, _ = jax.lax.optimization_barrier((given, turn))
        return function(*held)

    with scopes.loop("times", 1):
        return jax.lax.fori_loop(0, hidden(1, witness), body, zero)


@custom_vmap
def longest(count: jax.Array) -> jax.Array:
    """The count of a loop `[]` int32: under `vmap`, where all rows share it, the longest of all.

    With a count of its own for each row, every step would have to choose between old and new. What
    a row does beyond its own end must change nothing.
    """
    return count


@longest.def_vmap
def _longest_of_rows(size: int, batched: list[bool], count: jax.Array) -> tuple[jax.Array, bool]:
    del size
    return (jnp.max(count) if batched[0] else count), False


def first_where(mask: jax.Array, length: int) -> jax.Array:
    """Where `mask` `[n]` is true, in order: the first `length` places, int32; n beyond the last."""
    found = jnp.cumsum(mask, dtype=jnp.int32)
    return jnp.searchsorted(found, jnp.arange(1, length + 1, dtype=jnp.int32)).astype(jnp.int32)


def update(
    function: Callable[[Any, Any], tuple[Any, Any]],
    states: Any,
    inputs: Any,
    count: jax.Array,
    *,
    chunk: int,
) -> tuple[Any, Any]:
    """Runs `state, output = function(state, input)` for the first `count` slots.

    One chunk after the other, each chunk vmapped (`chunk` 1: not vmapped). States are updated in
    place, so memory is that of all states and the work of one chunk.

    Args:
      function: for one client, or one run.
      states: leaves `[slots, ...]`.
      inputs: leaves `[slots, ...]`.
      count: `[]` int32; slots beyond it, up to a whole chunk, get no work.
      chunk: divides the number of slots.

    Returns:
      The states, and the outputs with leaves `[slots, ...]`, zero beyond the work done.
    """
    slots = jax.tree.leaves(inputs)[0].shape[0]
    function = jax.jit(function)  # Traced once, though used twice.
    mapped = jax.vmap(function) if chunk > 1 else function

    def body(index: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        states, outputs = carry
        state, output = mapped(_read(states, index, chunk), _read(inputs, index, chunk))
        return _written(states, state, index, chunk), _written(outputs, output, index, chunk)

    outputs = _no_outputs(function, states, inputs, slots)
    return jax.lax.fori_loop(0, -(-count // chunk), body, (states, outputs))


def update_chosen(
    function: Callable[[Any, Any], tuple[Any, Any]],
    states: Any,
    inputs: Any,
    chosen: jax.Array,
    count: jax.Array,
    *,
    chunk: int,
    unchecked: bool = False,
) -> tuple[Any, Any]:
    """Runs `state, output = function(state, input)` for chosen slots; the others cost nothing.

    Otherwise as `update`. Where a chunk, or a vmapped run, has fewer, the rest of it gets the state
    of any slot and an input of zeros; what comes of that is in no state.

    Args:
      function: for one client.
      states: leaves `[slots, ...]`.
      inputs: leaves `[slots, ...]`.
      chosen: `[n]` int32, slots, none of them twice; the number of slots beyond the first `count`.
      count: `[]` int32.
      chunk: divides n.
      unchecked: leaves out the checks of bounds, which are kernels to compile. Only where nothing
        is vmapped, runs neither: then nothing is read or written beyond `count`.

    Returns:
      The states, and the outputs with leaves `[n, ...]` in the order of `chosen`; beyond `count`
      anything.
    """
    function = jax.jit(function)  # Traced once, though used twice.
    mapped = jax.vmap(function) if chunk > 1 else function

    def body(index: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        states, outputs = carry
        if unchecked:
            own = _taken(chosen, index)
            state, output = function(_taken(states, own), _taken(inputs, own))
            return _put(states, state, own), _put(outputs, output, index)
        own = chosen[index] if chunk == 1 else _rows_at(chosen, index, chunk)
        state, output = mapped(
            jax.tree.map(lambda leaf: leaf.at[own].get(mode="clip"), states),
            jax.tree.map(lambda leaf: leaf.at[own].get(mode="fill", fill_value=0), inputs),
        )
        states = jax.tree.map(
            lambda leaf, new: leaf.at[own].set(new, mode="drop", unique_indices=True), states, state
        )
        return states, _written(outputs, output, index, chunk)

    outputs = _no_outputs(function, states, inputs, chosen.shape[0])
    return jax.lax.fori_loop(0, -(-count // chunk), body, (states, outputs))


def map(function: Callable[[Any], Any], inputs: Any, count: jax.Array, *, chunk: int) -> Any:
    """`function(input)` for the first `count` slots; see `update`, without states."""
    return update(lambda _, given: ((), function(given)), (), inputs, count, chunk=chunk)[1]


def first_of(tree: Any) -> Any:
    """The first entry of every leaf."""
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _no_outputs(function: Callable[..., Any], states: Any, inputs: Any, length: int) -> Any:
    """Zeros in place of the outputs of so many slots."""
    _, shapes = jax.eval_shape(function, *first_of((states, inputs)))
    return jax.tree.map(lambda leaf: jnp.zeros((length, *leaf.shape), leaf.dtype), shapes)


def _read(tree: Any, index: jax.Array, chunk: int) -> Any:
    """Chunk `index` of every leaf; of a chunk of one the entry itself."""
    if chunk == 1:
        return jax.tree.map(lambda leaf: leaf[index], tree)
    return jax.tree.map(lambda leaf: _rows_at(leaf, index, chunk), tree)


def _taken(tree: Any, index: jax.Array) -> Any:
    """Entry `index` of every leaf, which must be there."""
    return jax.tree.map(
        lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), tree
    )


def _put(tree: Any, part: Any, index: jax.Array) -> Any:
    """The tree with entry `index` of every leaf, which must be there, replaced."""
    return jax.tree.map(
        lambda leaf, one: jax.lax.dynamic_update_index_in_dim(leaf, one, index, 0), tree, part
    )


def _rows_at(leaf: jax.Array, index: jax.Array, chunk: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(leaf, index * chunk, chunk)


def _written(tree: Any, part: Any, index: jax.Array, chunk: int) -> Any:
    """The tree with chunk `index` of every leaf replaced."""
    if chunk == 1:
        return jax.tree.map(lambda leaf, one: leaf.at[index].set(one), tree, part)
    return jax.tree.map(
        lambda leaf, some: jax.lax.dynamic_update_slice_in_dim(leaf, some, index * chunk, 0),
        tree,
        part,
    )
