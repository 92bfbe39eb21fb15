"""The weights for which the golden numbers of nets were computed: a rule from name and shape."""

import zlib

import numpy as np


def state_dict(shapes):
    """The weights of a net, float32, by the names that PyTorch gives them.

    Args:
      shapes: by name.
    """
    return {name: _weights(name, shape).astype(np.float32) for name, shape in shapes.items()}


def _weights(name, shape):
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        return generator.uniform(0.5, 1.5, shape)
    if name.endswith("running_mean"):
        return 0.1 * generator.standard_normal(shape)
    if len(shape) <= 1:
        values = 0.1 * generator.standard_normal(shape)
        return 1 + values if name.endswith("weight") else values  # The scale of a norm.
    return generator.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))
