"""GoogLeNet (arXiv:1409.4842), as torchvision has it: with batch norm, without auxiliary heads.

Convolutions start normal with deviation 0.01, batch norms as the identity. The branch that is 5 x 5
in the paper is 3 x 3, as in torchvision (its issue 906). Images are taken as they are; the
pretrained net of torchvision scales them first (`transform_input`).
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from protonorm_jax.models import layers
from protonorm_jax.models.layers import Context, conv_norm
from protonorm_jax.models.layers.pooling import max_pool

# Channels of the four branches, and of the two 1 x 1 convolutions before a wider one, in
# torchvision's order, by name; each stage but the last ends in a maximum over windows of this size.
_STAGES = (
    (3, {"3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64)}),
    (
        2,
        {
            "4a": (192, 96, 208, 16, 48, 64),
            "4b": (160, 112, 224, 24, 64, 64),
            "4c": (128, 128, 256, 24, 64, 64),
            "4d": (112, 144, 288, 32, 64, 64),
            "4e": (256, 160, 320, 32, 128, 128),
        },
    ),
    (0, {"5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128)}),
)
_DROPOUT = 0.2


class Inception(nn.Module):
    """Four branches side by side: 1 x 1, twice 1 x 1 and 3 x 3, and a 3 x 3 maximum and 1 x 1.

    Attributes:
      channels: of the convolutions, in this order.
    """

    channels: tuple[int, int, int, int, int, int]

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """Maps `[B, H, W, in]` to `[B, H, W, channels of the four branches together]`."""
        plain, before, wide, before_second, wide_second, pooled = self.channels
        branches = [unit(x, context, plain, "branch1", kernel=1)]
        for name, narrow, channels in (
            ("branch2", before, wide),
            ("branch3", before_second, wide_second),
        ):
            y = unit(x, context, narrow, f"{name}.0", kernel=1)
            branches.append(unit(y, context, channels, f"{name}.1"))
        y = max_pool(x, 3, 1, 1, form=context.form)
        branches.append(unit(y, context, pooled, "branch4.1", kernel=1))
        return jnp.concatenate(branches, axis=3)


class GoogLeNet(nn.Module):
    """GoogLeNet, for images of 15 x 15 and up.

    The features are dropped out as in the reference, which replaces nothing but the last layer of
    torchvision's net: so what a method compares with prototypes in training is the dropped vector.
    """

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """Maps `[B, H, W, channels]` to `[B, 1024]`."""
        pool = functools.partial(max_pool, stride=2, incomplete=True, form=context.form)
        x = pool(unit(x, context, 64, "conv1", kernel=7, stride=2), 3)
        x = unit(x, context, 64, "conv2", kernel=1)
        x = pool(unit(x, context, 192, "conv3"), 3)
        for window, blocks in _STAGES:
            for name, channels in blocks.items():
                x = Inception(channels, name=f"inception{name}")(x, context)
            if window:
                x = pool(x, window)
        return layers.dropout(layers.global_average(x), _DROPOUT, context.key)


def unit(x: jax.Array, context: Context, channels: int, name: str, **settings) -> jax.Array:
    """Adds a convolution, a batch norm and a ReLU to the calling module; see `conv_norm`."""
    names = (f"{name}.conv", f"{name}.bn")
    return nn.relu(conv_norm(x, context, channels, *names, epsilon=1e-3, **settings))
