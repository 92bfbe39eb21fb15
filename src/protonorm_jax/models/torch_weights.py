"""Weights of PyTorch models, by name."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from protonorm_jax.errors import UsageError
from protonorm_jax.models.registry import build, resolve
from protonorm_jax.types import Variables

_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_HEADS = ("head", "head.1", "fc", "classifier.1")


def from_torch(
    name: str,
    state_dict: Mapping[str, Any],
    *,
    image_shape: tuple[int, int, int] = (32, 32, 3),
) -> Variables:
    """Turns a PyTorch state dict into the variables of our model of the same architecture.

    Takes the names of torchvision (`layer1.0.conv1.weight`) and those of the reference
    implementation (`base.layer1.0.conv1.weight`). The head is what is called `head` or `head.1`,
    else `fc` or `classifier.1`, and decides `num_classes` and `feature_dim`: torchvision's
    1000-class head is kept as it is, so that the model gives torchvision's logits. For another
    task use the `base` of the result with a new head.

    Args:
      name: one of `registry.NAMES`.
      state_dict: arrays (or CPU tensors) by name; `num_batches_tracked` is ignored, and so are the
        auxiliary heads of torchvision's GoogLeNet.
      image_shape: `(height, width, channels)` that the model is for.
    Returns:
      Variables for `build(name, num_classes=..., feature_dim=..., image_shape=image_shape)`.
    Raises:
      UsageError: if a key is missing, unexpected or of the wrong shape.
    """
    name = resolve(name)
    arrays = {
        key.removeprefix("base."): np.asarray(value, np.float32)
        for key, value in state_dict.items()
        if not key.endswith("num_batches_tracked") and not _is_auxiliary(name, key)
    }
    head = next((head for head in _HEADS if f"{head}.weight" in arrays), "head")
    if f"{head}.weight" not in arrays or arrays[f"{head}.weight"].ndim != 2:
        raise UsageError(
            f"state_dict must hold a matrix as one of {', '.join(f'{h}.weight' for h in _HEADS)}, "
            f"got none in {len(arrays)} arrays"
        )
    num_classes, feature_dim = arrays[f"{head}.weight"].shape
    model = build(name, num_classes=num_classes, feature_dim=feature_dim, image_shape=image_shape)
    template = jax.eval_shape(model.init, jax.random.key(0))

    def take(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        _, part, *modules, kind = [entry.key for entry in path]
        modules = [head] if part == "head" else modules
        key = ".".join([*modules, _LEAVES.get(kind, kind)])
        if key not in arrays:
            raise UsageError(f"state_dict must have {key!r} for {name}, got no such key")
        array = arrays.pop(key)
        # Ours are `[height, width, in, out]` and `[in, out]`, PyTorch's `[out, in, height, width]`
        # and `[out, in]`.
        shape = leaf.shape[:-3:-1] + leaf.shape[:-2] if leaf.ndim > 1 else leaf.shape
        if array.shape != shape:
            raise UsageError(f"state_dict[{key!r}] must be {shape} for {name}, got {array.shape}")
        if leaf.ndim > 1:
            array = array.transpose(*range(2, leaf.ndim), 1, 0)
        return jnp.asarray(array)

    variables = jax.tree_util.tree_map_with_path(take, template)
    if arrays:
        raise UsageError(f"state_dict must have no key unknown to {name}, got {min(arrays)!r}")
    return variables


def _is_auxiliary(name: str, key: str) -> bool:
    """Whether an array belongs to a head that torchvision has for training alone."""
    return name == "googlenet" and key.removeprefix("base.").startswith(("aux1.", "aux2."))
