"""Client models: one backbone each, a pooling to a common feature length and a linear head."""

from protonorm_jax.models.registry import (
    FAMILIES,
    NAMES,
    build,
    family,
    resolve,
    shared_model,
    step_cost,
)
from protonorm_jax.models.torch_weights import from_torch, to_torch

__all__ = [
    "FAMILIES",
    "NAMES",
    "build",
    "family",
    "from_torch",
    "resolve",
    "shared_model",
    "step_cost",
    "to_torch",
]
