"""How the parameters of a model start.

The whole model is cut out of one draw: a draw for each array, as flax does it, takes the compiler
ten times longer than everything else in `init`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp


def initialize(key: jax.Array, template: Any, kernels: str) -> Any:
    """Draws the parameters of a model.

    Norms start as the identity. Matrices and their biases are uniform in +-1/sqrt(fan in),
    PyTorch's default.

    Args:
      key: consumed.
      template: nested dicts with the shapes of `params`; a layer is a dict of leaves named
        `kernel` and `bias`, or `scale` and `bias` for norms.
      kernels: how convolutions start. `uniform`: like matrices. `normal`: with variance
        2/(height * width * out), and biases at zero, as in torchvision's residual nets. `narrow`:
        normal with deviation 0.01, as in torchvision's GoogLeNet. `transformer`: the base starts as
        torchvision's vision transformers do.
    Returns:
      `template` with arrays for shapes.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(template)
    shapes = {tuple(entry.key for entry in path): leaf.shape for path, leaf in leaves}
    plan = [_distribution(path, shapes, kernels) for path in shapes]
    pools = {}
    for name, draw in (("normal", jax.random.normal), ("uniform", _symmetric)):
        key, subkey = jax.random.split(key)
        sizes = [math.prod(s) for s, p in zip(shapes.values(), plan, strict=True) if p[0] == name]
        if sizes:
            pools[name] = draw(subkey, (sum(sizes),))
    used = dict.fromkeys(pools, 0)
    arrays = []
    for shape, (name, scale) in zip(shapes.values(), plan, strict=True):
        if name not in pools:
            arrays.append(jnp.full(shape, scale, jnp.float32))
            continue
        start, used[name] = used[name], used[name] + math.prod(shape)
        arrays.append(scale * pools[name][start : used[name]].reshape(shape))
    return jax.tree.unflatten(structure, arrays)


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
