"""Nets of a layer or two, for tests whose point is none of the nets."""

import contextlib
from collections.abc import Iterator

import flax.linen as nn
import pytest

from protonorm_jax.models import layers, registry

CHANNELS = 8


class Plain(nn.Module):
    """One layer."""

    @nn.compact
    def __call__(self, x, context):
        del context
        return nn.relu(layers.Linear(16, name="fc")(layers.flatten(x)))


class Normed(nn.Module):
    """A convolution with statistics."""

    @nn.compact
    def __call__(self, x, context):
        x = nn.relu(layers.conv_norm(x, context, CHANNELS, "conv", "norm", stride=2))
        return layers.global_average(x)


class Separable(nn.Module):
    """A convolution over all channels, and one that is depthwise."""

    @nn.compact
    def __call__(self, x, context):
        x = nn.relu(layers.conv_norm(x, context, CHANNELS, "conv", "norm", stride=2))
        x = layers.conv_norm(x, context, CHANNELS, "depthwise", "norm2", depthwise=True)
        return layers.global_average(nn.relu(x))


ARCHITECTURES = {
    "small_plain": registry.Architecture(Plain, step_cost=1.0),
    "small_normed": registry.Architecture(Normed, "normal", step_cost=1.0),
    "small_separable": registry.Architecture(Separable, "normal", step_cost=1.0),
}


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """The nets have names in the registry meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        for name, row in ARCHITECTURES.items():
            patch.setitem(registry.ARCHITECTURES, name, row)
        yield
