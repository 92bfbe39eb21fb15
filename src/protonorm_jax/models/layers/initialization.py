"""How the parameters of a model start.

The whole model is cut out of one draw: a draw for each array, as flax does it, takes the compiler
ten times longer than everything else in `init`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def initialize(key: jax.Array, template: Any, kernels: str) -> Any:
    """Draws the parameters of a model: `cut` of what `draw` has drawn, and with its arguments."""
    return cut(draw(key, template, kernels), template, kernels)


def draw(key: jax.Array, template: Any, kernels: str) -> dict[str, jax.Array]:
    """Draws all numbers that the parameters of a model start with.

    Args:
      key: consumed.
      template: see `cut`.
      kernels: see `cut`.

    Returns:
      One vector `[n]` float32 for each distribution that occurs, `normal` or `uniform`.
    """
    pools = {}
    drawn = [(name, math.prod(shape)) for shape, name, _ in _parts(template, kernels)]
    for name, sample in (("normal", jax.random.normal), ("uniform", _symmetric)):
        key, subkey = jax.random.split(key)
        size = sum(size for other, size in drawn if other == name)
        if size:
            pools[name] = sample(subkey, (size,))
    return pools


def cut(pools: Any, template: Any, kernels: str) -> Any:
    """The parameters of a model, cut out of what `draw` has drawn.

    Norms start as the identity. Matrices and their biases are uniform in +-1/sqrt(fan in),
    PyTorch's default.

    Args:
      pools: vectors `[..., n]`, of `numpy` or `jax`.
      template: nested dicts with the shapes of `params`; a layer is a dict of leaves named
        `kernel` and `bias`, or `scale` and `bias` for norms.
      kernels: how convolutions start. `uniform`: like matrices. `normal`: with variance
        2/(height * width * out), and biases at zero, as in torchvision's residual nets. `narrow`:
        normal with deviation 0.01, as in torchvision's GoogLeNet. `transformer`: the base starts as
        torchvision's vision transformers do.

    Returns:
      `template` with arrays `[..., *shape]` for shapes.
    """
    used = dict.fromkeys(pools, 0)
    arrays = []
    for shape, name, scale in _parts(template, kernels):
        if name not in pools:
            arrays.append(constant(pools, shape, scale))
            continue
        start, used[name] = used[name], used[name] + math.prod(shape)
        piece = pools[name][..., start : used[name]]
        arrays.append(scale * piece.reshape(*piece.shape[:-1], *shape))
    return jax.tree.unflatten(jax.tree.structure(template), arrays)


def constant(pools: Any, shape: tuple[int, ...], value: float) -> Any:
    """An array `[..., *shape]` float32 of one value, for as many models as vectors `[..., n]`."""
    some = next(iter(pools.values()))
    full = np.full if isinstance(some, np.ndarray) else jnp.full
    return full((*some.shape[:-1], *shape), value, np.float32)


def _parts(template: Any, kernels: str) -> list[tuple[tuple[int, ...], str, float]]:
    """Of each array its shape, its distribution, and by what to multiply that."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(template)
    shapes = {tuple(entry.key for entry in path): leaf.shape for path, leaf in leaves}
    return [(shape, *_distribution(path, shapes, kernels)) for path, shape in shapes.items()]


def _symmetric(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0)


def _distribution(path: tuple[str, ...], shapes: dict, kernels: str) -> tuple[str, float]:
    """Returns `normal`, `uniform` or `constant`, and by what to multiply it."""
    *layer, kind = path
    if kind == "scale":
        return "constant", 1.0
    kernel = shapes.get((*layer, "kernel"))
    if kernels == "transformer" and path[0] == "base":
        return _transformer(path, kernel)
    if kernel is None:
        return "constant", 0.0
    if kernels == "uniform" or len(kernel) == 2:
        return "uniform", 1.0 / math.sqrt(math.prod(kernel[:-1]))
    if kind == "bias":
        return "constant", 0.0
    if kernels == "narrow":
        return "normal", 0.01
    return "normal", math.sqrt(2.0 / (kernel[0] * kernel[1] * kernel[3]))


def _transformer(path: tuple[str, ...], kernel: tuple[int, ...] | None) -> tuple[str, float]:
    """Returns the same for the base of a vision transformer, as torchvision has it."""
    *_, layer, kind = path
    if kind == "encoder.pos_embedding":
        return "normal", 0.02
    if kernel is None:
        return "constant", 0.0
    if kind == "bias":
        return ("normal", 1e-6) if layer.startswith("mlp") else ("constant", 0.0)
    if len(kernel) == 4:
        return "normal", 1.0 / math.sqrt(math.prod(kernel[:-1]))
    if layer == "out_proj":
        return "uniform", 1.0 / math.sqrt(kernel[0])
    return "uniform", math.sqrt(6.0 / sum(kernel))
