"""Vision transformers (Dosovitskiy et al., arXiv:2010.11929): torchvision's ViT-B and a tiny one.

The layers, their order and their start are torchvision's, without dropout. Weights are normal there
but for a cut at +-2, which is four standard deviations and more.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from protonorm_jax.models.layers import Context, Conv, Linear
from protonorm_jax.models.layers.transformer import LayerNorm, SelfAttention, gelu

_EPSILON = 1e-6


class EncoderLayer(nn.Module):
    """Self-attention, then two linear layers for each token, each behind a norm and added.

    Attributes:
      heads: of the attention.
      hidden: units between the linear layers.
      wanted: of how many tokens, from the first, the output is wanted; None for all.
    """

    heads: int
    hidden: int
    wanted: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, T, D]` to `[B, wanted, D]`."""
        y = LayerNorm(_EPSILON, name="ln_1")(x)
        y = SelfAttention(self.heads, self.wanted, name="self_attention")(y)
        x = x[:, : self.wanted] + y
        y = LayerNorm(_EPSILON, name="ln_2")(x)
        y = gelu(Linear(self.hidden, name="mlp.0")(y))
        return x + Linear(x.shape[2], name="mlp.3")(y)


class VisionTransformer(nn.Module):
    """Patches and a class token with learned positions, encoder layers, a norm; the class token.

    Attributes:
      layers: of the encoder.
      heads: of each layer.
      width: numbers of a token.
      hidden: units between the linear layers of each layer.
      patch: height and width of the patches; None for what `tiny_patch` says.
    """

    layers: int = 12
    heads: int = 12
    width: int = 768
    hidden: int = 3072
    patch: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """Maps `[B, H, W, channels]` to `[B, width]`."""
        side = self.patch or tiny_patch(x.shape[1], x.shape[2])
        cut = Conv(self.width, kernel=side, stride=side, padding=0, bias=True, name="conv_proj")
        x = cut(x, context).reshape(x.shape[0], -1, self.width)
        token = self.param("class_token", nn.initializers.zeros, (1, 1, self.width), jnp.float32)
        shape = (1, x.shape[1] + 1, self.width)
        positions = self.param("encoder.pos_embedding", nn.initializers.zeros, shape, jnp.float32)
        # In the parameters' dtype, so that the sums of their gradients over the batch are in it.
        tokens = jnp.broadcast_to(token, (x.shape[0], 1, self.width))
        tokens = jnp.concatenate([tokens, x.astype(tokens.dtype)], axis=1) + positions
        x = tokens.astype(x.dtype)
        for layer in range(self.layers):
            wanted = 1 if layer == self.layers - 1 else None  # Of the last, the class token alone.
            name = f"encoder.layers.encoder_layer_{layer}"
            x = EncoderLayer(self.heads, self.hidden, wanted, name=name)(x)
        return LayerNorm(_EPSILON, name="encoder.ln")(x[:, 0])


def tiny_patch(height: int, width: int) -> int:
    """The patch of the tiny net: 2 for images of 8 x 8, 4 for 28 x 28 and 32 x 32, 8 for 64 x 64.

    It is the least common divisor of height and width, from 2 on, that cuts them into 8 at most;
    their greatest one if none does.
    """
    divisors = [side for side in range(2, height + 1) if height % side == width % side == 0]
    return next((side for side in divisors if max(height, width) <= 8 * side), divisors[-1])
