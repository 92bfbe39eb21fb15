"""Loops of unequal length that stay efficient when many clients run them side by side.

A loop with its own trip count for each client costs nothing extra when clients take turns. Under
`jax.vmap` all of them would go on until the longest is done. `repeat` sorts them by length
instead and narrows the batch as the short ones finish. Under several vmaps, as of clients and of
runs, all of their rows make one batch.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

from protonorm_jax import scopes

Body = Callable[[jax.Array, Any, Any], Any]

WASTE = 1.15
"""The most work that rows of unequal length do together, over what is needed, if eight widths can
do that.
"""
_WIDTHS_TRIED = 128


def repeat(
    count: jax.Array, body: Body, carry: Any, constants: Any, *, widths: Sequence[int] = ()
) -> Any:
    """`carry = body(index, carry, constants)` for `index` from 0 up to `count`.

    Not differentiable (the count is traced).

    Args:
      count: `[]` int32.
      body: closes over nothing that is traced or mapped; that belongs into `constants`.
      carry: a pytree.
      constants: a pytree.
      widths: under `vmap`, the batch narrows to each of these, in descending order, as soon as so
        few rows are left; see `choose_widths`. Without any it keeps its width to the end. Under
        several vmaps these are rows of all of them together.

    Returns:
      The last carry. Every row of a vmapped call has the numbers it would have alone, to rounding.
    """

    def alone(count: jax.Array, carry: Any, constants: Any) -> Any:
        # Of a plain 0 the index would be weakly typed, and the body traced anew.
        return jax.lax.fori_loop(jnp.int32(0), count, lambda i, now: body(i, now, constants), carry)

    def one_vmap(size: int, batched: Any, count: Any, carry: Any, constants: Any) -> Any:
        axes = jax.tree.map(lambda mapped: 0 if mapped else None, batched[2])
        counts, carry = _rows((count, carry), tuple(batched[:2]), size)
        result = _side_by_side(body, axes, widths)(counts, carry, constants)
        return result, jax.tree.map(lambda _: True, result)

    mapped = custom_vmap(alone)
    mapped.def_vmap(one_vmap)
    return mapped(*jax.tree.map(jnp.asarray, (count, carry, constants)))


def _side_by_side(body: Body, axes: Any, widths: Sequence[int]) -> Callable[..., Any]:
    """`(counts, carry, constants) -> carry` for a batch of rows, as `repeat` does it under `vmap`.

    Args:
      body: as `repeat` takes it.
      axes: for each leaf of the constants 0 if every row has its own, else None.
      widths: as `repeat` takes them.
    """

    def narrowing(counts: jax.Array, carry: Any, constants: Any) -> Any:
        order = jnp.argsort(-counts, stable=True)
        counts, carry = counts[order], jax.tree.map(lambda leaf: leaf[order], carry)
        constants = _map_rows(lambda leaf: leaf[order], axes, constants)
        size = counts.shape[0]
        plan = [size, *(width for width in widths if width < size)]
        start = jnp.int32(0)
        for width, following in zip(plan, [*plan[1:], 0], strict=True):
            carry, start = _segment(
                body, (carry, constants, counts), axes, start, counts[following], width
            )
        back = jnp.argsort(order)
        return jax.tree.map(lambda leaf: leaf[back], carry)

    def another_vmap(size: int, batched: Any, counts: Any, carry: Any, constants: Any) -> Any:
        num_rows = (counts[0] if batched[0] else counts).shape[0]

        def merge(leaf: jax.Array) -> jax.Array:
            return leaf.reshape(size * num_rows, *leaf.shape[2:])

        def merge_constant(axis: int | None, mapped: bool, leaf: jax.Array) -> jax.Array:
            if axis is None and not mapped:
                return leaf
            (leaf,) = _rows((leaf,), (mapped,), size)
            if axis is None:
                shape = (size, num_rows, *leaf.shape[1:])
                leaf = jnp.broadcast_to(leaf[:, None], shape)
            return merge(leaf)

        counts, carry = jax.tree.map(merge, _rows((counts, carry), tuple(batched[:2]), size))
        merged = jax.tree.map(merge_constant, axes, batched[2], constants, is_leaf=_is_none)
        new_axes = jax.tree.map(
            lambda axis, mapped: 0 if mapped else axis, axes, batched[2], is_leaf=_is_none
        )
        result = _side_by_side(body, new_axes, widths)(counts, carry, merged)
        result = jax.tree.map(lambda leaf: leaf.reshape(size, num_rows, *leaf.shape[1:]), result)
        return result, jax.tree.map(lambda _: True, result)

    mapped = custom_vmap(narrowing)
    mapped.def_vmap(another_vmap)
    return mapped


def _rows(tree: Any, batched: Any, size: int) -> Any:
    """Gives every leaf that is not batched a row for each of `size`."""
    return jax.tree.map(
        lambda leaf, mapped: leaf if mapped else jnp.broadcast_to(leaf, (size, *leaf.shape)),
        tree,
        batched,
    )


def _map_rows(function: Callable[[jax.Array], jax.Array], axes: Any, constants: Any) -> Any:
    """Applies `function` to the constants of which every row has its own."""
    return jax.tree.map(
        lambda axis, leaf: leaf if axis is None else function(leaf),
        axes,
        constants,
        is_leaf=_is_none,
    )


def _is_none(axis: int | None) -> bool:
    return axis is None


def _segment(
    body: Body, rows: Any, axes: Any, start: jax.Array, stop: jax.Array, width: int
) -> tuple[Any, jax.Array]:
    """Advances the first `width` rows from step `start` to `stop`, each not beyond its own end."""
    whole, constants, counts = rows
    counts = counts[:width]
    constants = _map_rows(lambda leaf: leaf[:width], axes, constants)

    def step(index: jax.Array, carry: Any) -> Any:
        new = jax.vmap(body, in_axes=(None, 0, axes))(index, carry, constants)
        going = index < counts

        def choose(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(going.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

        return jax.tree.map(choose, new, carry)

    stop = jnp.maximum(start, stop)
    part = jax.tree.map(lambda leaf: leaf[:width], whole)
    with scopes.loop("width", width):
        part = jax.lax.fori_loop(start, stop, step, part)
    whole = jax.tree.map(lambda leaf, some: leaf.at[:width].set(some), whole, part)
    return whole, stop


def work(counts: np.ndarray, widths: Sequence[int]) -> int:
    """How many rows' steps `repeat` computes for batches with these counts.

    Args:
      counts: `[batches, rows]` int, steps of each row.
      widths: as `repeat` takes them.
    """
    rows = counts.shape[1]
    ends = np.append(np.sort(counts, axis=1)[:, ::-1], np.zeros((len(counts), 1), int), axis=1)
    plan = [rows, *(width for width in widths if width < rows), 0]
    pairs = itertools.pairwise(plan)
    return int(sum(width * (ends[:, after] - ends[:, width]).sum() for width, after in pairs))


def choose_widths(
    counts: np.ndarray, *, waste: float = WASTE, most: int = 8, a_step: float = 0.0
) -> tuple[int, ...]:
    """The fewest widths with which `repeat` takes at most `waste` times the time that is needed.

    Every width is a copy of the loop's body in the program, to be compiled.

    Args:
      counts: `[batches, rows]` int, steps of each row.
      waste: bound on `work(counts, widths) / counts.sum()`, where steps cost nothing else.
      most: widths to use at most, even if the bound is missed.
      a_step: what a step of the batch costs beside its rows, however few they are, in rows.
    """
    rows = counts.shape[1]
    beside = a_step * counts.max(axis=1).sum()
    ends = np.append(np.sort(counts, axis=1)[:, ::-1], np.zeros((len(counts), 1), int), axis=1)
    ends = ends.sum(axis=0)  # Batches share the widths, and their work adds up.
    # Of very many rows only some widths are tried, each a few per cent above the next.
    tried = np.arange(1, rows + 1)
    if rows > _WIDTHS_TRIED:
        tried = np.unique(np.geomspace(1, rows, _WIDTHS_TRIED).astype(int))
    # best[width]: the least work from the start to the point where `width` rows are left, and
    # the widths it takes; one more width each time round.
    best: dict[int, tuple[int, tuple[int, ...]]] = {rows: (0, ())}
    for _ in range(most):
        best = {
            left: min(
                (done + width * (ends[left] - ends[width]), (*taken, width))
                for width, (done, taken) in best.items()
                if width > left
            )
            for left in (0, *tried.tolist())
            if left < max(best)
        }
        total, taken = best[0]
        if total + beside <= waste * (counts.sum() + beside):
            break
    return taken
