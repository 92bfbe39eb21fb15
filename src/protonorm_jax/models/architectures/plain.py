"""Models without batch norm: a perceptron, a small convolutional net and FedAvg's.

All layers start as PyTorch's do by default: kernels and biases uniform in +-1/sqrt(fan in).
"""

import flax.linen as nn
import jax

from protonorm_jax.models.layers import Context, Conv, Linear, flatten
from protonorm_jax.models.layers.pooling import max_pool


class Perceptron(nn.Module):
    """Two hidden layers.

    Attributes:
      width: units of each.
    """

    width: int = 64

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """Maps `[B, H, W, channels]` to `[B, width]`."""
        del context
        x = nn.relu(Linear(self.width, name="fc1")(flatten(x)))
        return nn.relu(Linear(self.width, name="fc2")(x))


class SmallCNN(nn.Module):
    """Two 3 x 3 convolutions, each with a 2 x 2 maximum, and a hidden layer."""

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """Maps `[B, H, W, channels]` to `[B, 64]`."""
        for name, channels in (("conv1", 16), ("conv2", 24)):
            x = nn.relu(Conv(channels, bias=True, name=name)(x, context))
            x = max_pool(x, 2, 2, form=context.form)
        return nn.relu(Linear(64, name="fc1")(flatten(x)))


class FedAvgCNN(nn.Module):
    """The four-layer net of the FedAvg experiments on CIFAR-10, as the reference has it.

    Two 5 x 5 convolutions without padding, each with a 2 x 2 maximum, and a layer of 512.
    """

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """Maps `[B, H, W, channels]` to `[B, 512]`."""
        for name, channels in (("conv1.0", 32), ("conv2.0", 64)):
            layer = Conv(channels, kernel=5, padding=0, bias=True, name=name)
            x = max_pool(nn.relu(layer(x, context)), 2, 2, form=context.form)
        return nn.relu(Linear(512, name="fc1.0")(flatten(x)))
