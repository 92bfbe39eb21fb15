"""Residual nets (He et al., arXiv:1512.03385).

Convolutions start normal with variance 2/fan out, batch norms as the identity, as in torchvision.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax

from protonorm_jax.models import layers
from protonorm_jax.models.layers import Context, conv_norm
from protonorm_jax.models.layers.pooling import max_pool


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut.

    Attributes:
      channels: of the output.
      stride: of the first convolution; the shortcut has a 1 x 1 convolution where shapes differ.
      norms: names of the two batch norms.
    """

    channels: int
    stride: int = 1
    norms: tuple[str, str] = ("bn1", "bn2")

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """Maps `[B, H, W, in]` to `[B, H / stride, W / stride, channels]`."""
        channels, stride = self.channels, self.stride
        y = nn.relu(conv_norm(x, context, channels, "conv1", self.norms[0], stride=stride))
        y = conv_norm(y, context, channels, "conv2", self.norms[1])
        if stride > 1 or x.shape[3] != channels:
            x = conv_norm(
                x, context, channels, "downsample.0", "downsample.1", kernel=1, stride=stride
            )
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """A 3 x 3 convolution between two of 1 x 1, beside a shortcut.

    The stride is that of the 3 x 3 convolution, as in torchvision; the paper has it on the first.

    Attributes:
      channels: inside; the output has four times as many.
      stride: of the 3 x 3 convolution; the shortcut has a 1 x 1 convolution where shapes differ.
    """

    channels: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """Maps `[B, H, W, in]` to `[B, H / stride, W / stride, 4 * channels]`."""
        channels, stride, outputs = self.channels, self.stride, 4 * self.channels
        y = nn.relu(conv_norm(x, context, channels, "conv1", "bn1", kernel=1))
        y = nn.relu(conv_norm(y, context, channels, "conv2", "bn2", stride=stride))
        y = conv_norm(y, context, outputs, "conv3", "bn3", kernel=1)
        if stride > 1 or x.shape[3] != outputs:
            x = conv_norm(
                x, context, outputs, "downsample.0", "downsample.1", kernel=1, stride=stride
            )
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A 7 x 7 stem with a 3 x 3 maximum, stages of blocks, and the mean over the image.

    Attributes:
      blocks: number of blocks of each stage; those of stage `i` have `64 * 2**i` channels.
      block: `BasicBlock` or `Bottleneck`.
    """

    blocks: Sequence[int]
    block: type[BasicBlock] | type[Bottleneck] = BasicBlock

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """Maps `[B, H, W, channels]` to `[B, F]`, F the channels of the last stage."""
        x = _stem(x, context)
        for stage, count in enumerate(self.blocks):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"layer{stage + 1}.{block}"
                x = self.block(64 * 2**stage, stride=stride, name=name)(x, context)
        return layers.global_average(x)


class ResNet8(nn.Module):
    """The reference's ResNet-8: the stem of the larger ones and three stages of one block."""

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """Maps `[B, H, W, channels]` to `[B, 256]`."""
        x = _stem(x, context)
        for stage, stride in enumerate((1, 2, 2)):
            x = BasicBlock(
                64 * 2**stage, stride=stride, norms=("bn2", "bn3"), name=f"layer_{stage}"
            )(x, context)
        return layers.global_average(x)


class TinyResNet(nn.Module):
    """Two basic blocks on a 3 x 3 stem, which halves images of 16 x 16 and up."""

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """Maps `[B, H, W, channels]` to `[B, 64]`."""
        stride = 2 if min(x.shape[1:3]) >= 16 else 1
        x = nn.relu(conv_norm(x, context, 16, "conv1", "bn1", stride=stride))
        x = BasicBlock(32, stride=2, name="layer1.0")(x, context)
        x = BasicBlock(64, stride=2, name="layer2.0")(x, context)
        return layers.global_average(x)


def _stem(x: jax.Array, context: Context) -> jax.Array:
    x = nn.relu(conv_norm(x, context, 64, "conv1", "bn1", kernel=7, stride=2))
    return max_pool(x, 3, 2, 1, form=context.form)
