"""The clients' optimiser as the user sets it: SGD, Adam or AdamW, and what belongs to them."""

import dataclasses
import functools
from typing import Any

import jax
import optax

from protonorm_jax.config import Config
from protonorm_jax.methods.shared import clipping


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["momentum", "weight_decay", "clip_norm"],
    meta_fields=["optimizer", "nesterov"],
)
@dataclasses.dataclass(frozen=True)
class Descent:
    """How a client goes down along its gradient; the formulas are PyTorch's.

    What is None is left out of the program; the rest are plain numbers or `[]` float32. A pytree.

    Attributes:
      optimizer: `"sgd"`, `"adam"` or `"adamw"`.
      nesterov: whether momentum looks ahead.
      momentum: of `"sgd"`.
      weight_decay: times the parameters, added to the gradient; to the step of `"adamw"`.
      clip_norm: the largest norm of a client's whole gradient, before all else.
    """

    optimizer: str = "sgd"
    nesterov: bool = False
    momentum: Any = None
    weight_decay: Any = None
    clip_norm: Any = None

    def clipped(self, gradient: Any) -> Any:
        """The gradient of all of a client's parameters, scaled down to `clip_norm`."""
        return gradient if self.clip_norm is None else clipping.clip(gradient, self.clip_norm)

    def along(self, learning_rate: Any) -> optax.GradientTransformation:
        """The optimiser with this learning rate, a number or `[]` float32."""
        if self.optimizer == "adamw":
            decay = 0.0 if self.weight_decay is None else self.weight_decay
            return optax.adamw(learning_rate, weight_decay=decay)
        if self.optimizer == "adam":
            plain = optax.adam(learning_rate)
        else:
            plain = optax.sgd(learning_rate, momentum=self.momentum, nesterov=self.nesterov)
        if self.weight_decay is None:
            return plain
        return optax.chain(optax.add_decayed_weights(self.weight_decay), plain)


def of(config: Config) -> Descent:
    """What a config asks for; None for what it does not."""
    return Descent(
        config.optimizer,
        config.nesterov,
        config.momentum or None,
        config.weight_decay or None,
        config.clip_norm or None,
    )
