"""The layers that all models are made of, in the form that is fast on each backend."""

from protonorm_jax.models.layers.modules import (
    BatchNorm,
    Context,
    Conv,
    Linear,
    conv_norm,
    dropout,
    flatten,
    global_average,
    relu6,
)

__all__ = [
    "BatchNorm",
    "Context",
    "Conv",
    "Linear",
    "conv_norm",
    "dropout",
    "flatten",
    "global_average",
    "relu6",
]
