"""What the methods share whose server averages parameters."""

from typing import Any

import jax


def num_floats(tree: Any) -> int:
    """How many numbers a pytree of arrays holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
