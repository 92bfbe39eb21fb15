"""Weights of PyTorch models, by name, in both directions."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from protonorm_jax.errors import UsageError
from protonorm_jax.models import heads
from protonorm_jax.models.registry import ARCHITECTURES, build, resolve
from protonorm_jax.types import Variables

_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_HEADS = ("head", "heads", "fc", "classifier")


def from_torch(
    name: str,
    state_dict: Mapping[str, Any],
    *,
    image_shape: tuple[int, int, int] = (32, 32, 3),
) -> Variables:
    """Turns a PyTorch state dict into the variables of our model of the same architecture.

    Takes the names of torchvision (`layer1.0.conv1.weight`) and those of the reference
    implementation (`base.layer1.0.conv1.weight`). The head is made of the matrices in what is
    called `head`, else `heads`, `fc` or `classifier`, in their order. It decides `num_classes` and
    `feature_dim`: torchvision's 1000-class head is kept as it is, so that the model gives
    torchvision's logits. For another task use the `base` of the result with a new head.

    Args:
      name: as `build` takes it, with the widths of the hidden layers of the head, if any.
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
    head, depth = _head(arrays), len(heads.split(name)[1]) + 1
    if len(head) != depth:
        raise UsageError(
            f"state_dict must have as many matrices under {' or '.join(_HEADS)} as there are in "
            f"the head of {name}, {depth}, got {', '.join(head) or 'none'} in {len(arrays)} arrays"
        )
    feature_dim = arrays[f"{head[0]}.weight"].shape[1]
    num_classes = arrays[f"{head[-1]}.weight"].shape[0]
    model = build(name, num_classes=num_classes, feature_dim=feature_dim, image_shape=image_shape)
    template = jax.eval_shape(model.init, jax.random.key(0))

    def take(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        _, part, *modules, kind = [entry.key for entry in path]
        if part == "head":
            modules = [head[int(modules[0])] if modules else head[0]]
        key = _key(modules, kind)
        if key not in arrays:
            raise UsageError(f"state_dict must have {key!r} for {name}, got no such key")
        array = arrays.pop(key)
        # Ours are `[height, width, in, out]` and `[in, out]`, PyTorch's `[out, in, height, width]`
        # and `[out, in]`.
        shape = leaf.shape[:-3:-1] + leaf.shape[:-2] if kind == "kernel" else leaf.shape
        if array.shape != shape:
            raise UsageError(f"state_dict[{key!r}] must be {shape} for {name}, got {array.shape}")
        if kind == "kernel":
            array = array.transpose(*range(2, leaf.ndim), 1, 0)
        return jnp.asarray(array)

    variables = jax.tree_util.tree_map_with_path(take, template)
    if arrays:
        raise UsageError(f"state_dict must have no key unknown to {name}, got {min(arrays)!r}")
    return variables


def to_torch(name: str, variables: Variables) -> dict[str, np.ndarray]:
    """Turns the variables of one of our models into a PyTorch state dict; undoes `from_torch`.

    The names are those of the reference implementation (`base.layer1.0.conv1.weight`,
    `head.weight`); without `base.` they are torchvision's, but for its heads. A head with dropout
    or hidden layers has the names of a `Sequential`, in which dropout and activations are numbered
    too: `head.1`; or `head.0`, `head.2`, ...

    Args:
      name: as `build` takes it, with the widths of the hidden layers of the head, if any.
      variables: of `build(name, ...)`, whatever the sizes.
    Returns:
      float32 numpy arrays by name, laid out as PyTorch has them; without `num_batches_tracked`,
      which `load_state_dict` does not miss.
    Raises:
      UsageError: if the variables are not those of such a model.
    """
    name = resolve(name)
    dropout = ARCHITECTURES[heads.split(name)[0]].dropout > 0
    some = build(name, num_classes=2, feature_dim=1, image_shape=(32, 32, 3))
    template = jax.eval_shape(some.init, jax.random.key(0))
    wanted, found = (
        {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (template, variables)
    )
    for key in sorted(wanted.keys() ^ found.keys()):
        rule = "must have" if key in wanted else "must have no"
        raise UsageError(f"variables {rule} {key} for {name}, got {len(found)} arrays")

    def give(path: tuple, leaf: Any) -> tuple[str, np.ndarray]:
        _, part, *modules, kind = [entry.key for entry in path]
        if part == "head" and (modules or dropout):
            modules = [str(2 * int(modules[0] if modules else 0) + dropout)]
        array = np.asarray(leaf, np.float32)
        if kind == "kernel":
            array = array.transpose(-1, -2, *range(array.ndim - 2))
        return _key([part, *modules], kind), np.ascontiguousarray(array)

    return dict(give(*pair) for pair in jax.tree.leaves_with_path(variables))


def _key(modules: Sequence[str], kind: str) -> str:
    """What PyTorch calls an array of ours, from the modules it is in and what it is."""
    key = ".".join([*modules, _LEAVES.get(kind, kind)])
    return key.replace(".in_proj.", ".in_proj_")  # Not a module of its own in PyTorch.


def _is_auxiliary(name: str, key: str) -> bool:
    """Whether an array belongs to a head that torchvision has for training alone."""
    is_googlenet = heads.split(name)[0] == "googlenet"
    return is_googlenet and key.removeprefix("base.").startswith(("aux1.", "aux2."))


def _head(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """The names of the layers of the head, in their order."""
    matrices = [key for key, array in arrays.items() if array.ndim == 2 and key.endswith(".weight")]
    for part in _HEADS:
        layers = [key.removesuffix(".weight") for key in matrices if key.startswith(f"{part}.")]
        if layers:
            return layers
    return []
