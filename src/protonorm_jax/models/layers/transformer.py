"""What transformers are made of: layer norm, self-attention and GELU.

All take a batch of sequences of tokens, `[B, T, D]`. Norms, softmax and GELU work in float32 where
tokens are bfloat16; see `precision`.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from protonorm_jax.models.layers.modules import Linear
from protonorm_jax.models.layers.precision import accumulator, matmul


class LayerNorm(nn.Module):
    """Normalises each token by the mean and the variance of its numbers.

    Attributes:
      epsilon: added to the variance.
    """

    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., D]` to the same shape."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        wide = x.astype(accumulator(x.dtype)).reshape(-1, *shape)
        centred = wide - jnp.mean(wide, axis=1, keepdims=True)
        variance = jnp.mean(centred * centred, axis=1, keepdims=True)
        normal = centred * lax.rsqrt(variance + self.epsilon)
        y = normal * scale.reshape(1, -1) + bias.reshape(1, -1)
        return y.astype(x.dtype).reshape(x.shape)


class SelfAttention(nn.Module):
    """Every token gathers from all tokens, in several heads (Vaswani et al., arXiv:1706.03762).

    Queries, keys and values come of one matrix, as in PyTorch's `MultiheadAttention`.

    Attributes:
      heads: that share the `D` numbers of a token equally.
      wanted: of how many tokens, from the first, the output is wanted; None for all.
    """

    heads: int
    wanted: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, T, D]` to `[B, wanted, D]`."""
        batch, length, width = x.shape
        shape = (batch, length, 3, self.heads, width // self.heads)
        parts = Linear(3 * width, name="in_proj")(x).reshape(shape).transpose(2, 0, 3, 1, 4)
        gathered = attend(parts[0][:, :, : self.wanted], parts[1], parts[2])
        gathered = gathered.transpose(0, 2, 1, 3).reshape(batch, -1, width)
        return Linear(width, name="out_proj")(gathered)


def attend(queries: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
    """Averages values, weighted by the softmax of the scaled products of keys with each query.

    Args:
      queries: `[..., Q, d]`.
      keys: `[..., T, d]`.
      values: `[..., T, d]`.
    Returns:
      `[..., Q, d]`.
    """
    wide = accumulator(queries.dtype)
    scores = matmul(queries, keys.mT, wide) * (1.0 / math.sqrt(queries.shape[-1]))
    return matmul(nn.softmax(scores).astype(values.dtype), values)


def gelu(x: jax.Array) -> jax.Array:
    """Multiplies `x` with the probability that a normal number is less; not the approximation.

    By the error function, which compiles to half the time of the complementary one that
    `jax.nn.gelu` takes. That one is exact to more digits where the result is nearly zero.
    """
    wide = x.astype(accumulator(x.dtype))
    return (wide * (0.5 + 0.5 * lax.erf(wide * math.sqrt(0.5)))).astype(x.dtype)
