"""Nets of depthwise convolutions: MobileNetV2 (arXiv:1801.04381) and a tiny one.

Convolutions start normal with variance 2/fan out (to which all channels of a depthwise layer
count), batch norms as the identity, as in torchvision.
"""

import flax.linen as nn
import jax

from protonorm_jax.models import layers
from protonorm_jax.models.layers import Context, conv_norm, relu6

# Expansion, channels, blocks, and stride of the first block, stage by stage.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; with a shortcut where shapes allow.

    Attributes:
      channels: of the output.
      stride: of the depthwise convolution.
      expansion: how many times wider the inside is than the input.
    """

    channels: int
    stride: int
    expansion: int

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """Maps `[B, H, W, in]` to `[B, H / stride, W / stride, channels]`."""
        width = x.shape[3] * self.expansion
        y, layer = x, 0
        if self.expansion > 1:
            y = relu6(conv_norm(y, context, width, "conv.0.0", "conv.0.1", kernel=1))
            layer = 1
        names = (f"conv.{layer}.0", f"conv.{layer}.1")
        y = relu6(conv_norm(y, context, width, *names, stride=self.stride, depthwise=True))
        names = (f"conv.{layer + 1}", f"conv.{layer + 2}")
        y = conv_norm(y, context, self.channels, *names, kernel=1)
        return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """MobileNetV2 of width 1, without its dropout, as the reference has it."""

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """Maps `[B, H, W, channels]` to `[B, 1280]`."""
        x = relu6(conv_norm(x, context, 32, "features.0.0", "features.0.1", stride=2))
        position = 1
        for expansion, channels, blocks, first_stride in _STAGES:
            for block in range(blocks):
                stride = first_stride if block == 0 else 1
                name = f"features.{position}"
                x = InvertedResidual(channels, stride, expansion, name=name)(x, context)
                position += 1
        x = relu6(conv_norm(x, context, 1280, "features.18.0", "features.18.1", kernel=1))
        return layers.global_average(x)


class TinyMobileNet(nn.Module):
    """A 3 x 3 stem and three depthwise-separable blocks, for images of 8 x 8 and up."""

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """Maps `[B, H, W, channels]` to `[B, 128]`."""
        stride = 2 if min(x.shape[1:3]) >= 16 else 1
        x = nn.relu(conv_norm(x, context, 16, "conv1", "bn1", stride=stride))
        for block, (channels, step) in enumerate(((32, 2), (64, 2), (128, 1)), start=1):
            names = (f"block{block}.0", f"block{block}.1")
            x = conv_norm(x, context, x.shape[3], *names, stride=step, depthwise=True)
            names = (f"block{block}.2", f"block{block}.3")
            x = nn.relu(conv_norm(nn.relu(x), context, channels, *names, kernel=1))
        return layers.global_average(x)
