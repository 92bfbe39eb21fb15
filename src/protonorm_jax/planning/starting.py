"""What private models start with where the program does not draw it: nets kept, or drawn ahead."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from protonorm_jax import keys
from protonorm_jax.config import Config
from protonorm_jax.engine.program import Architecture
from protonorm_jax.engine.simulate import keys_of_client
from protonorm_jax.errors import UsageError
from protonorm_jax.planning.deal import Dealt
from protonorm_jax.trained import files
from protonorm_jax.types import Start, Variables

_FIELD = "Config.init_from"


class Initial(NamedTuple):
    """Kept nets that clients start with.

    Attributes:
      kept: where they are.
      digest: SHA-256 of all of them, as 64 hex digits.
    """

    kept: files.Kept
    digest: str

    def variables(self, client: int, shapes: Any) -> Variables:
        """Those of a client's own net, numpy.

        Args:
          client: its number.
          shapes: of the variables.

        Raises:
          UsageError: its file is not as it must be.
        """
        file = self.kept.clients[client]["file"]
        place = f"{_FIELD}: {self.kept.folder / file}"
        return files.tree_of(self.kept.arrays(file), {"model": shapes}, place)["model"]


def of(dealt: Dealt) -> Initial | None:
    """The nets that the clients of a program start with; None where they are drawn.

    Raises:
      UsageError: there are none, or they are not those of such clients.
    """
    config = dealt.config
    if not config.init_from:
        return None
    kept = files.find(config.located().init_from, _FIELD)
    _check(config, dealt, kept)
    digests = []
    for one in kept.clients:
        kept.arrays(one["file"])  # Refuses what is not as it was written.
        digests.append(one["sha256"])
    return Initial(kept, hashlib.sha256("\n".join(digests).encode()).hexdigest())


def shapes_of(architecture: Architecture) -> Any:
    """Shapes of the variables of a private model."""
    return jax.eval_shape(architecture.models.private.init, jax.eval_shape(lambda: keys.root(0)))


def _check(config: Config, dealt: Dealt, kept: files.Kept) -> None:
    """Refuses nets of other clients than those of a run."""
    there = [one["architecture"] for one in kept.clients]
    wanted: dict[str, tuple[Any, Any]] = {
        "num_clients": (config.num_clients, len(there)),
        "image_shape": (list(dealt.dataset.images.shape[1:]), kept.described["image_shape"]),
        "num_classes": (dealt.dataset.num_classes, kept.described["num_classes"]),
        "feature_dim": (config.feature_dim, kept.described["feature_dim"]),
    }
    for name, (ours, theirs) in wanted.items():
        if ours != theirs:
            raise UsageError(
                f"{_FIELD} must hold models of a run with {name} {ours}, got {theirs} in "
                f"{str(kept.folder)!r}"
            )
    for client, (ours, theirs) in enumerate(zip(dealt.architectures, there, strict=True)):
        if ours != theirs:
            raise UsageError(
                f"{_FIELD} must hold a model {ours} for client {client}, got {theirs} in "
                f"{str(kept.folder)!r}"
            )


def drawn(architecture: Architecture, seeds: np.ndarray, ids: np.ndarray) -> Variables:
    """The variables that some clients draw, leaves `[*ids.shape, ...]`, numpy.

    Args:
      architecture: theirs, with `Model.start`.
      seeds: of runs.
      ids: of clients, `[*seeds.shape, ...]` integers; for id -1 those of client 0.
    """
    start = _start(architecture)
    draw = _drawing(start.draw)
    seeds = np.broadcast_to(seeds.reshape(*seeds.shape, *(1,) * (ids.ndim - seeds.ndim)), ids.shape)
    each = [
        jax.device_get(draw(np.uint32(seed), np.int32(max(client_id, 0))))
        for seed, client_id in zip(seeds.flat, ids.flat, strict=True)
    ]
    vectors = jax.tree.map(lambda *some: np.stack(some).reshape(*ids.shape, -1), *each)
    return start.cut(vectors)


def compile_draws(architecture: Architecture) -> None:
    """Puts what `drawn` needs into the cache of programs."""
    _drawing(_start(architecture).draw).lower(np.uint32(0), np.int32(0)).compile()


def _start(architecture: Architecture) -> Start:
    start = architecture.models.private.start
    assert start is not None, "its clients draw in the program"
    return start


@functools.lru_cache(maxsize=32)
def _drawing(draw: Callable[[jax.Array], dict[str, jax.Array]]) -> Any:
    """What a client draws, `(seed, client_id) -> vectors`, compiled but once for each net."""
    return jax.jit(lambda seed, client_id: draw(keys_of_client(keys.root(seed), client_id)[0]))


def stacked(initial: Initial, ids: np.ndarray, shapes: Any) -> Variables:
    """The variables of some clients, leaves `[*ids.shape, ...]`; for id -1 those of any of them.

    Args:
      initial: whose.
      ids: of the clients, integers, not all -1.
      shapes: of the variables of one.
    """
    result = jax.tree.map(lambda leaf: np.empty((ids.size, *leaf.shape), leaf.dtype), shapes)
    flat = np.where(ids < 0, ids.max(), ids).reshape(-1)
    for client in np.unique(flat):
        own = initial.variables(int(client), shapes)
        places = np.flatnonzero(flat == client)

        def put(into: np.ndarray, leaf: np.ndarray, places: np.ndarray = places) -> None:
            into[places] = leaf

        jax.tree.map(put, result, own)
    return jax.tree.map(lambda leaf: leaf.reshape(*ids.shape, *leaf.shape[1:]), result)
