"""Class means on a client, their average on the server, and the nearest prototype."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from protonorm_jax.types import Prototypes


class ClassSums(NamedTuple):
    """Running sums from which class means are made; adding two of them pools their samples.

    Attributes:
      sums: `[C, D]` float32, sum of the vectors of each class.
      counts: `[C]` float32, number of samples of each class.
    """

    sums: jax.Array
    counts: jax.Array


def class_sums(
    vectors: jax.Array, labels: jax.Array, mask: jax.Array, *, num_classes: int
) -> ClassSums:
    """Sums `vectors` `[B, D]` by `labels` `[B]` over the rows where `mask` `[B]` is true."""
    chex.assert_rank([vectors, labels, mask], [2, 1, 1])
    members = jax.nn.one_hot(labels, num_classes, dtype=vectors.dtype)
    members = members * mask[:, None].astype(vectors.dtype)
    # Zero rows first: 0 * NaN of a masked row would poison its class.
    vectors = jnp.where(mask[:, None], vectors, 0.0)
    sums = jnp.dot(members.T, vectors, precision=jax.lax.Precision.HIGHEST)
    return ClassSums(sums, members.sum(0))


def class_means(totals: ClassSums) -> Prototypes:
    """The mean vector of each class; classes without a sample are zero and unknown."""
    shares = 1.0 / jnp.maximum(totals.counts, 1.0)
    return Prototypes(totals.sums * shares[:, None], totals.counts > 0)


def average(uploads: ClassSums, previous: Prototypes, *, weighting: str = "uniform") -> Prototypes:
    """Averages the prototypes of all clients, class by class.

    Args:
      uploads: `sums` `[M, C, D]` and `counts` `[M, C]`; a client with count zero for a class
        (or that uploaded nothing) has no say in it.
      previous: `[C, D]`, kept for the classes of which nothing was uploaded. The reference codes
        forget such a class or fail.
      weighting: `"uniform"` takes the plain mean of the client means, as the reference codes
        do; `"samples"` weights them by their sample counts (FedProto's equation 6).

    Returns:
      `Prototypes` `[C, D]`; classes of which nothing was ever uploaded are unknown.
    """
    chex.assert_rank([uploads.sums, uploads.counts], [3, 2])
    if weighting == "samples":
        totals = ClassSums(uploads.sums.sum(0), uploads.counts.sum(0))
    else:
        means = jax.vmap(class_means)(uploads)
        totals = ClassSums(means.vectors.sum(0), means.known.sum(0).astype(means.vectors.dtype))
    fresh = class_means(totals)
    vectors = jnp.where(fresh.known[:, None], fresh.vectors, previous.vectors)
    return Prototypes(vectors, fresh.known | previous.known)


def nearest_scores(features: jax.Array, prototypes: Prototypes) -> jax.Array:
    """Scores whose arg-max is the nearest prototype: minus the squared distance.

    Args:
      features: `[B, D]`.
      prototypes: `[C, D]`; unknown classes are never predicted.

    Returns:
      `[B, C]` float32, -inf for unknown classes.
    """
    chex.assert_rank([features, prototypes.vectors], [2, 2])
    vectors = prototypes.vectors
    inner = jnp.dot(features, vectors.T, precision=jax.lax.Precision.HIGHEST)
    # |f|^2 is the same for every class and left out.
    scores = 2.0 * inner - jnp.sum(jnp.square(vectors), axis=1)[None, :]
    return jnp.where(prototypes.known[None, :], scores, -jnp.inf)
