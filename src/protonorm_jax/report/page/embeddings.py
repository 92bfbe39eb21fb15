"""Features in two dimensions, the same for the same features."""

import warnings
from typing import NamedTuple

import numpy as np

MOST_POINTS = 300
"""Features that are drawn of one run; t-SNE takes a second for as many."""
_FEWEST_POINTS = 10
_SEED = 0


class Flat(NamedTuple):
    """Features and prototypes in two dimensions.

    Attributes:
      name: of the way there, with what it keeps.
      points: `[n, 2]` features.
      prototypes: `[k, 2]`.
    """

    name: str
    points: np.ndarray
    prototypes: np.ndarray


def usable(features: np.ndarray, prototypes: np.ndarray) -> str | None:
    """Why features cannot be drawn; None if they can."""
    if len(features) < _FEWEST_POINTS:
        return f"only {len(features)} features were kept, {_FEWEST_POINTS} are the fewest"
    if not (np.isfinite(features).all() and np.isfinite(prototypes).all()):
        return "features or prototypes are not finite"
    if not np.ptp(features, axis=0).any():
        return "all features are equal"
    return None


def chosen(number: int, most: int = MOST_POINTS) -> np.ndarray:
    """The places of at most `most` of so many features, evenly spread."""
    return np.unique(np.linspace(0, number - 1, min(number, most)).round().astype(int))


def flatten(features: np.ndarray, prototypes: np.ndarray, *, tsne: bool = True) -> list[Flat]:
    """Features by PCA, and features and prototypes together by t-SNE.

    PCA is that of the features alone; prototypes are put where they lie in it.

    Args:
      features: `[n, D]`, see `usable`.
      prototypes: `[k, D]`; may be empty.
      tsne: whether to do the second.
    """
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    features, prototypes = features.astype(np.float64), prototypes.astype(np.float64)
    if features.shape[1] < 2:
        features, prototypes = (np.pad(one, ((0, 0), (0, 1))) for one in (features, prototypes))
    # More threads than free cores wait for each other, ten times as long as one thread takes.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of few or equal points.
        fitted = PCA(2, svd_solver="full").fit(features)
        kept = float(fitted.explained_variance_ratio_.sum())
        result = [
            Flat(
                f"PCA, {kept:.0%} of the variance",
                fitted.transform(features),
                fitted.transform(prototypes) if len(prototypes) else np.zeros((0, 2)),
            )
        ]
        if tsne:
            result.append(_tsne(features, prototypes))
    return result


def _tsne(features: np.ndarray, prototypes: np.ndarray) -> Flat:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    every = np.concatenate([features, prototypes])
    if min(every.shape) > 50:  # What is left out is noise to it, and takes time.
        every = PCA(50, svd_solver="full").fit_transform(every)
    perplexity = min(30.0, (len(every) - 1) / 3)
    made = TSNE(
        2, perplexity=perplexity, init="pca", random_state=_SEED, n_jobs=1, max_iter=500
    ).fit_transform(every)
    return Flat(f"t-SNE, perplexity {perplexity:.0f}", made[: len(features)], made[len(features) :])
