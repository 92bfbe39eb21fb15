"""ShuffleNetV2 of width 1 (arXiv:1807.11164).

Convolutions start uniform in +-1/sqrt(fan in), batch norms as the identity, as in torchvision
(which leaves both at PyTorch's defaults).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from protonorm_jax.models import layers
from protonorm_jax.models.layers import Context, conv_norm
from protonorm_jax.models.layers.pooling import max_pool

# Channels and blocks, stage by stage; the first block of each halves the image.
_STAGES = ((116, 4), (232, 8), (464, 4))


class ShuffleBlock(nn.Module):
    """Filters one half of the channels beside the other half, and mixes the two.

    Attributes:
      channels: of the output.
      stride: 2 halves the image; then both branches filter and see all channels.
    """

    channels: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """Maps `[B, H, W, in]` to `[B, H / stride, W / stride, channels]`."""
        half = self.channels // 2
        if self.stride == 1:
            beside, x = x[..., :half], x[..., half:]
        else:
            inputs = x.shape[3]
            beside = conv_norm(
                x, context, inputs, "branch1.0", "branch1.1", stride=self.stride, depthwise=True
            )
            beside = conv_norm(beside, context, half, "branch1.2", "branch1.3", kernel=1)
            beside = nn.relu(beside)
        x = nn.relu(conv_norm(x, context, half, "branch2.0", "branch2.1", kernel=1))
        x = conv_norm(
            x, context, half, "branch2.3", "branch2.4", stride=self.stride, depthwise=True
        )
        x = nn.relu(conv_norm(x, context, half, "branch2.5", "branch2.6", kernel=1))
        return shuffle(beside, x)


def shuffle(first: jax.Array, second: jax.Array) -> jax.Array:
    """Takes channels of two `[B, H, W, C]` in turns, to `[B, H, W, 2 C]`."""
    return jnp.stack([first, second], axis=4).reshape(*first.shape[:3], -1)


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 of width 1."""

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """Maps `[B, H, W, channels]` to `[B, 1024]`."""
        x = nn.relu(conv_norm(x, context, 24, "conv1.0", "conv1.1", stride=2))
        x = max_pool(x, 3, 2, 1, form=context.form)
        for stage, (channels, blocks) in enumerate(_STAGES, start=2):
            for block in range(blocks):
                stride = 2 if block == 0 else 1
                x = ShuffleBlock(channels, stride, name=f"stage{stage}.{block}")(x, context)
        x = nn.relu(conv_norm(x, context, 1024, "conv5.0", "conv5.1", kernel=1))
        return layers.global_average(x)
