"""The layers that all models are made of, as flax modules.

Submodules are named like the PyTorch modules they correspond to (dots included), so that weights
cross over by name; see `torch_weights`. The modules declare shapes only; see `initialization` for
the values that parameters start from. Parameters are float32; what comes out of a layer has the
dtype of what went in, see `precision`.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from protonorm_jax.models.layers import batch_norm
from protonorm_jax.models.layers.convolution import convolve
from protonorm_jax.models.layers.precision import accumulator, matmul


class Context(NamedTuple):
    """How one forward pass is to run; handed down to every layer.

    Attributes:
      train: whether batch norm uses, and updates, the statistics of the batch.
      mask: `[B]` float, 1 for real rows and 0 for padding; None if all rows are real.
      key: switches dropout and stochastic depth on; None switches them off.
      form: how layers are computed, one of `forms.FORMS`.
    """

    train: bool = False
    mask: jax.Array | None = None
    key: jax.Array | None = None
    form: str = "auto"


class Conv(nn.Module):
    """A convolution.

    Attributes:
      channels: number of output channels.
      kernel: height and width of the kernel.
      stride: step between windows.
      padding: zeros around the image; `None` for half of the kernel.
      depthwise: whether each channel has a kernel of its own (`channels` is then the input's).
      bias: whether there is one.
    """

    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int | None = None
    depthwise: bool = False
    bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """Maps `[B, H, W, in]` to `[B, H', W', channels]`."""
        inputs = 1 if self.depthwise else x.shape[-1]
        shape = (self.kernel, self.kernel, inputs, self.channels)
        kernel = self.param("kernel", nn.initializers.zeros, shape, jnp.float32)
        padding = self.kernel // 2 if self.padding is None else self.padding
        y = convolve(x, kernel, stride=self.stride, padding=padding, form=context.form)
        if not self.bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.channels,), jnp.float32)
        return (y + bias.reshape(1, 1, 1, -1)).astype(x.dtype)


class Linear(nn.Module):
    """A linear layer with bias.

    Attributes:
      units: length of the output.
    """

    units: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., in]` to `[..., units]`."""
        kernel = self.param("kernel", nn.initializers.zeros, (x.shape[-1], self.units), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.units,), jnp.float32)
        y = matmul(x.reshape(-1, x.shape[-1]), kernel) + bias.reshape(1, -1)
        return y.astype(x.dtype).reshape(*x.shape[:-1], self.units)


class BatchNorm(nn.Module):
    """Batch norm with PyTorch's conventions.

    Running statistics live in the collection `batch_stats`; the running
    variance is the unbiased one; rows outside of the mask count nowhere, and a batch of padding
    leaves the statistics as they are.

    Attributes:
      momentum: weight of the new batch in the running statistics.
      epsilon: added to the variance.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """Maps `[B, H, W, C]` to the same shape."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        variance = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if not context.train:
            factor = scale * jax.lax.rsqrt(variance.value + self.epsilon)
            centred = x - mean.value.reshape(1, 1, 1, -1)
            y = centred * factor.reshape(1, 1, 1, -1) + bias.reshape(1, 1, 1, -1)
            return y.astype(x.dtype)
        y, batch_mean, batch_variance = batch_norm.normalize_batch(
            x, scale, bias, context.mask, self.epsilon, context.form
        )
        count = batch_norm.count_elements(x, context.mask)
        momentum = jnp.where(count > 0, self.momentum, 0.0)
        unbiased = batch_variance * (count / jnp.maximum(count - 1, 1))
        mean.value += momentum * (batch_mean - mean.value)
        variance.value += momentum * (unbiased - variance.value)
        return y


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes numbers of `x` with probability `rate` and scales up the rest; no key, no change."""
    if key is None or rate == 0.0:
        return x
    kept = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(kept, x / (1.0 - rate), 0.0)


def flatten(x: jax.Array) -> jax.Array:
    """Flattens `[B, H, W, C]` to `[B, C * H * W]`, channels first as PyTorch does."""
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


def global_average(x: jax.Array) -> jax.Array:
    """Averages `[B, H, W, C]` over the image, to `[B, C]`, at least float32."""
    return jnp.mean(x, axis=(1, 2), dtype=accumulator(x.dtype))


def relu6(x: jax.Array) -> jax.Array:
    """Clips to [0, 6]; no gradient at and beyond the ends.

    Not by comparisons and `jnp.where`, which a TPU's compiler writes out.
    """
    return lax.clamp(jnp.zeros((), x.dtype), x, jnp.full((), 6, x.dtype))


def conv_norm(
    x: jax.Array,
    context: Context,
    channels: int,
    name: str,
    norm: str,
    *,
    epsilon: float = 1e-5,
    **settings,
) -> jax.Array:
    """Adds a convolution and a batch norm to the calling module.

    Args:
      x: `[B, H, W, in]`.
      context: of the pass.
      channels: of the output.
      name: of the convolution.
      norm: name of the batch norm.
      epsilon: of the batch norm.
      **settings: further attributes of `Conv`.
    Returns:
      `[B, H', W', channels]`.
    """
    x = Conv(channels, name=name, **settings)(x, context)
    return BatchNorm(epsilon=epsilon, name=norm)(x, context)
