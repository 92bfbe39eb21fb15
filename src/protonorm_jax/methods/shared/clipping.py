"""Bounds on the norm of gradients, as PyTorch has them."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def clip(gradient: Any, limit: Any) -> Any:
    """Scales a pytree by min(1, limit / (norm + 1e-6)), with the norm of all of its numbers."""
    factor = jnp.minimum(1.0, limit / (optax.tree.norm(gradient) + 1e-6))
    return jax.tree.map(lambda leaf: factor * leaf, gradient)


def clip_each_net(limit: Any) -> optax.GradientTransformation:
    """Clips the gradient of every net of a client by itself; nets are the top-level keys."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        return {name: clip(net, limit) for name, net in updates.items()}, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
