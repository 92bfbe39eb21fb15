"""EfficientNet-B0 (arXiv:1905.11946).

Convolutions start normal with variance 2/fan out (to which all channels of a depthwise layer
count) and biases at zero, batch norms as the identity, as in torchvision.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from protonorm_jax.models import layers
from protonorm_jax.models.layers import Context, Conv, conv_norm

# Expansion, kernel, stride of the first block, channels, and blocks, stage by stage.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_BLOCKS = sum(stage[-1] for stage in _STAGES)
_DEPTH_RATE = 0.2
"""Stochastic depth: block `i` is skipped with probability `_DEPTH_RATE * i / _BLOCKS`."""


class SqueezeExcitation(nn.Module):
    """Scales each channel by a number that all channels' means decide.

    Attributes:
      squeezed: length of the hidden vector.
    """

    squeezed: int

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """Maps `[B, H, W, C]` to the same shape."""
        mean = jnp.mean(x, axis=(1, 2), keepdims=True)
        hidden = nn.silu(Conv(self.squeezed, kernel=1, bias=True, name="fc1")(mean, context))
        return x * nn.sigmoid(Conv(x.shape[3], kernel=1, bias=True, name="fc2")(hidden, context))


class MBConv(nn.Module):
    """Widen, filter each channel, scale channels, narrow; with a shortcut where shapes allow.

    Attributes:
      channels: of the output.
      kernel: of the depthwise convolution.
      stride: of the depthwise convolution.
      expansion: how many times wider the inside is than the input.
    """

    channels: int
    kernel: int
    stride: int
    expansion: int

    @nn.compact
    def __call__(self, x: jax.Array, context: Context, gate: jax.Array | None) -> jax.Array:
        """Maps `[B, H, W, in]` to `[B, H / stride, W / stride, channels]`.

        Args:
          x: the images.
          context: of the pass.
          gate: `[B]` factors of the branch beside the shortcut; None for 1.
        """
        width = x.shape[3] * self.expansion
        y, layer = x, 0
        if self.expansion > 1:
            y = nn.silu(conv_norm(y, context, width, "block.0.0", "block.0.1", kernel=1))
            layer = 1
        names = (f"block.{layer}.0", f"block.{layer}.1")
        y = conv_norm(
            y, context, width, *names, kernel=self.kernel, stride=self.stride, depthwise=True
        )
        squeezed = max(1, x.shape[3] // 4)
        y = SqueezeExcitation(squeezed, name=f"block.{layer + 1}")(nn.silu(y), context)
        names = (f"block.{layer + 2}.0", f"block.{layer + 2}.1")
        y = conv_norm(y, context, self.channels, *names, kernel=1)
        if x.shape != y.shape:
            return y
        return x + (y if gate is None else (y * gate.reshape(-1, 1, 1, 1)).astype(y.dtype))


class EfficientNetB0(nn.Module):
    """EfficientNet-B0, with stochastic depth where the pass has a key."""

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """Maps `[B, H, W, channels]` to `[B, 1280]`."""
        gates = depth_gates(context.key, x.shape[0])
        x = nn.silu(conv_norm(x, context, 32, "features.0.0", "features.0.1", stride=2))
        position = 0
        for stage, (expansion, kernel, first_stride, channels, blocks) in enumerate(_STAGES, 1):
            for block in range(blocks):
                stride = first_stride if block == 0 else 1
                gate = None if gates is None else gates[:, position]
                name = f"features.{stage}.{block}"
                x = MBConv(channels, kernel, stride, expansion, name=name)(x, context, gate)
                position += 1
        x = nn.silu(conv_norm(x, context, 1280, "features.8.0", "features.8.1", kernel=1))
        return layers.global_average(x)


def depth_gates(key: jax.Array | None, batch: int) -> jax.Array | None:
    """Draws which blocks each image skips.

    Args:
      key: of the draw; None for no skipping.
      batch: number of images. The numbers of an image do not depend on it.
    Returns:
      `[batch, blocks]`, 0 or one over the probability of being kept; or None.
    """
    if key is None:
        return None
    kept = 1.0 - _DEPTH_RATE * jnp.arange(_BLOCKS, dtype=float).reshape(1, -1) / _BLOCKS
    kept = jnp.broadcast_to(kept, (batch, _BLOCKS))
    return jax.random.bernoulli(key, kept) / kept
