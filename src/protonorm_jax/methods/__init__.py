"""The table of federated methods. Adding one is a file here and a row in `METHODS`.

How every method of the reference libraries fits the hooks of `method.Method`:

    method       server          client adds     what is special
    local        -               -               all defaults
    fedavg       variables       -               receive overwrites the model; upload it, weighted
    lg_fedavg    head            -               receive overwrites the head; upload it, weighted
    fd           logits [C, C]   -               observe sums logits; loss adds their cross-entropy
    fedproto     prototypes      -               observe sums features; collect="during"
    fedtgp       prototypes, net -               aggregate trains the net (key, inner scan)
    protonorm    prototypes      -               aggregate aligns
    fedgh        head            -               aggregate trains the head on uploaded means
    fedgen       head, generator -               loss draws labels (key); upload head and counts;
                                                 aggregate trains the generator
    fml          mentee          mentee          receive overwrites it; joint loss; clipping
    fedkd        mentee          mentee, map     as fml; broadcast and upload compress, so floats
                                                 are traced; the energy follows round_index
    fedmrl       mentee          mentee, map     predict reads the broadcast
    fedl2g       guide [C, D|C]  -               upload differentiates the loss through one step on
                                                 `data` (second order)

A mentee model is an argument of the method's factory. A generator or a mentee with batch norm
keeps its statistics under its own key of `Client.statistics` or in the server's pytree.
"""

import inspect
from collections.abc import Callable
from typing import Any

from protonorm_jax.errors import UsageError
from protonorm_jax.methods.fedproto import fedproto
from protonorm_jax.methods.local import local
from protonorm_jax.methods.method import Method
from protonorm_jax.methods.protonorm import protonorm

METHODS: dict[str, Callable[..., Method]] = {
    "protonorm": protonorm,
    "fedproto": fedproto,
    "local": local,
}

__all__ = ["METHODS", "Method", "build", "fedproto", "local", "protonorm"]


def build(name: str, *, num_classes: int, feature_dim: int, **options: Any) -> Method:
    """Makes a method by name.

    Args:
      name: a key of `METHODS`.
      num_classes: C.
      feature_dim: D.
      **options: settings of the method's factory; None stands for its default.

    Raises:
      UsageError: an unknown name, or an option that the method does not have.
    """
    if name not in METHODS:
        raise UsageError(f"Config.method must be one of {', '.join(METHODS)}, got {name!r}")
    accepted = inspect.signature(METHODS[name]).parameters
    chosen = {key: value for key, value in options.items() if value is not None}
    for key, value in chosen.items():
        if key not in accepted:
            raise UsageError(f"Config.{key} must be left out for method {name}, got {value!r}")
    sizes = {"num_classes": num_classes, "feature_dim": feature_dim}
    return METHODS[name](**{k: v for k, v in (sizes | chosen).items() if k in accepted})
