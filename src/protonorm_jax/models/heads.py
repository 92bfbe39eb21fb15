"""Heads: how the name of a model says which it has, and those of more than one layer."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax

from protonorm_jax.errors import UsageError
from protonorm_jax.models.layers import Linear


def split(name: str) -> tuple[str, tuple[int, ...]]:
    """Takes a name such as `resnet18+256+64` apart.

    Args:
      name: of a base alone, for a linear head, or followed by the widths of hidden layers.
    Returns:
      The base, `resnet18`, and the widths, `(256, 64)`.
    Raises:
      UsageError: if what follows the base are no widths.
    """
    base, *widths = name.split("+")
    if not all(width.isdecimal() and int(width) > 0 for width in widths):
        raise UsageError(
            f"model must be a name, or a name and widths of hidden layers >= 1 as in "
            f"{base}+256 or {base}+256+64, got {name!r}"
        )
    return base, tuple(int(width) for width in widths)


def join(base: str, widths: Sequence[int]) -> str:
    """The name of which `split` makes these."""
    return "+".join([base, *(str(width) for width in widths)])


class Perceptron(nn.Module):
    """Hidden layers and a linear one, named by their places: `0`, `1`, ...

    Source: the heads of HtFLlib's HtC families and of its vision transformers. Its code has a ReLU
    behind the last layer of the former, too, so that no logit is negative; here there is none.

    Attributes:
      widths: units of the hidden layers.
      units: length of the output.
      activation: of the hidden layers.
    """

    widths: Sequence[int]
    units: int
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, in]` to `[B, units]`."""
        for place, width in enumerate(self.widths):
            x = self.activation(Linear(width, name=str(place))(x))
        return Linear(self.units, name=str(len(self.widths)))(x)


def make(widths: Sequence[int], units: int, activation: Callable) -> nn.Module:
    """A linear layer if there are no hidden layers, else a `Perceptron`."""
    return Perceptron(widths, units, activation) if widths else Linear(units)
