"""Class means, their average over clients, and the nearest prototype, against numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from protonorm_jax.methods.shared import class_table
from protonorm_jax.types import Prototypes

NUM_CLASSES, DIM = 4, 3


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_class_sums_and_means_leave_masked_rows_out_even_broken_ones():
    vectors, labels = normal(0, 7, DIM), np.array([2, 0, 2, 1, 2, 0, 0])
    mask = np.array([1, 1, 1, 0, 1, 1, 0], bool)
    vectors[~mask] = [[np.nan] * DIM, [np.inf] * DIM]
    totals = class_table.class_sums(vectors, labels, mask, num_classes=NUM_CLASSES)
    means = class_table.class_means(totals)
    for label in range(NUM_CLASSES):
        members = vectors[mask & (labels == label)]
        assert totals.counts[label] == len(members)
        np.testing.assert_allclose(totals.sums[label], members.sum(0), rtol=1e-6)
        expected = members.mean(0) if len(members) else np.zeros(DIM)
        np.testing.assert_allclose(means.vectors[label], expected, rtol=1e-6)
    np.testing.assert_array_equal(means.known, [True, False, True, False])


@pytest.mark.parametrize("weighting", ["uniform", "samples"])
def test_average_weights_clients_as_asked_and_keeps_what_nobody_uploads(weighting):
    """Clients of unequal counts; class 2 is only known of old, class 3 not at all."""
    counts = np.array([[5, 1, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0], [0, 3, 0, 0], [0, 0, 0, 0]])
    means = normal(1, 5, NUM_CLASSES, DIM)
    uploads = class_table.ClassSums(means * counts[..., None], counts.astype(np.float32))
    known = np.array([True, False, True, False])
    previous = Prototypes(jnp.asarray(normal(2, NUM_CLASSES, DIM) * known[:, None]), known)
    result = class_table.average(uploads, previous, weighting=weighting)
    np.testing.assert_array_equal(result.known, [True, True, True, False])
    for label in range(2):
        holders = counts[:, label] > 0
        weights = counts[holders, label] if weighting == "samples" else None
        expected = np.average(means[holders, label], axis=0, weights=weights)
        np.testing.assert_allclose(result.vectors[label], expected, rtol=1e-5)
    np.testing.assert_array_equal(result.vectors[2:], previous.vectors[2:])


def test_nearest_scores_rank_prototypes_of_unequal_lengths_by_their_distance():
    """The differences of scores are those of squared distances; unknown classes never win."""
    lengths = np.array([0.2, 1.0, 2.0, 0.0, 3.0], np.float32)
    vectors = normal(3, 5, DIM) * lengths[:, None]
    known = np.array([True, True, True, False, True])
    features = 2 * normal(4, 40, DIM)
    scores = class_table.nearest_scores(features, Prototypes(jnp.asarray(vectors), known))
    squared = ((features[:, None] - vectors[None]) ** 2).sum(-1)
    expected = (features**2).sum(1, keepdims=True) - squared
    np.testing.assert_allclose(scores[:, known], expected[:, known], rtol=1e-4, atol=1e-4)
    assert np.isneginf(scores[:, ~known]).all()
    nearest = np.where(known, squared, np.inf).argmin(axis=1)
    np.testing.assert_array_equal(np.argmax(scores, axis=1), nearest)
    assert set(nearest) == {0, 1, 2, 4}, "Every known prototype must win somewhere."
    assert (squared.argmin(axis=1) == 3).any(), "The unknown one must lie in the way."
