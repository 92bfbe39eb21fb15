"""Who holds which samples: heterogeneous splits over clients, packed into padded index arrays.

Three kinds of split, all reproducible from `seed` and free of global random state:

* `dirichlet`: each class is cut in shares drawn from a Dirichlet distribution; small `alpha`
  means few classes a client and very unequal clients.
* `pathological`: each client holds the same number of classes.
* `iid`: a random split in equal parts.

Others are made from what users know themselves: who owns each sample (`by_owner`), or what each
client holds (`check`).
"""

import math
from collections.abc import Sequence

import numpy as np

from protonorm_jax.errors import UsageError
from protonorm_jax.types import Partition

KINDS = ("dirichlet", "pathological", "iid")


def make(
    kind: str,
    labels: np.ndarray,
    num_clients: int,
    *,
    alpha: float = 0.1,
    classes_per_client: int = 2,
    min_samples: int = 1,
    train_fraction: float = 0.75,
    seed: int = 0,
    num_classes: int | None = None,
    sigma: float | None = None,
) -> Partition:
    """Splits a data set over clients and each client's share into training and test samples.

    Args:
      kind: `dirichlet`, `pathological` or `iid`.
      labels: `[N]` integers.
      num_clients: number of clients `M`.
      alpha: concentration of the Dirichlet distribution.
      classes_per_client: classes a client holds, for `pathological`.
      min_samples: fewest samples, training and test together, that a client may hold.
      train_fraction: share of a client's samples that it trains on.
      seed: seed of the split over clients and of the split into training and test.
      num_classes: if given, labels are checked against it.
      sigma: makes the sizes of `iid` and `dirichlet` clients unequal, see `draw_sizes`.

    Returns:
      The partition: every sample is in exactly one place.

    Raises:
      UsageError: the request is invalid or cannot be met.
    """
    labels = _checked_labels(labels, num_classes)
    _check_request(labels, num_clients, min_samples, seed)
    sizes = None if sigma is None else draw_sizes(len(labels), num_clients, sigma, seed)
    if kind == "dirichlet" and sizes is not None:
        parts = dirichlet_of_sizes(labels, sizes, alpha, seed)
    elif kind == "dirichlet":
        parts = dirichlet(labels, num_clients, alpha, seed, min_samples=min_samples)
    elif kind == "pathological":
        parts = pathological(labels, num_clients, classes_per_client, seed)
    elif kind == "iid":
        parts = iid(labels, num_clients, seed, sizes)
    else:
        raise UsageError(f"Config.partition must be one of {', '.join(KINDS)}, got {kind!r}")
    smallest = min(map(len, parts))
    if smallest < min_samples:
        raise UsageError(
            f"Config.min_samples must be <= {smallest}, the smallest client of this {kind} split"
            f"{'' if sigma is None else f' with sizes lognormal:{sigma}'}, got {min_samples}"
        )
    train, test = split_clients(parts, train_fraction=train_fraction, seed=seed)
    return pack(train, test)


def pack(train: Sequence[np.ndarray], test: Sequence[np.ndarray]) -> Partition:
    """A partition of `M` arrays of training indices and `M` arrays of test indices."""
    return Partition(*pack_rows(train), *pack_rows(test))


def unpack(parts: Partition) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of each client its training and its test indices, without padding."""
    return (
        [row[:count] for row, count in zip(parts.train, parts.train_count, strict=True)],
        [row[:count] for row, count in zip(parts.test, parts.test_count, strict=True)],
    )


def check(
    train: Sequence[np.ndarray],
    test: Sequence[np.ndarray],
    num_samples: int,
    *,
    origin: str,
    names: Sequence[str] | None = None,
) -> None:
    """Refuses a partition that somebody else has made, and made wrong.

    Args:
      train: `M` arrays of integers, the training indices of each client.
      test: `M` arrays of integers, its test indices.
      num_samples: of the set; indices are from 0 to one less.
      origin: what messages name as the place of the mistake.
      names: what messages call the clients; by default their numbers.

    Raises:
      UsageError: no client, a client without training samples, an index that is out of range, or
        one that is there twice.
    """
    if not len(train) or len(train) != len(test):
        raise UsageError(
            f"{origin}: train and test must hold equally many clients, at least one, got "
            f"{len(train)} and {len(test)}"
        )
    names = [str(client) for client in range(len(train))] if names is None else names
    held = np.zeros(num_samples, bool)
    for client, both in enumerate(zip(train, test, strict=True)):
        if not len(both[0]):
            raise UsageError(
                f"{origin}: train of client {names[client]} must hold at least one sample, got none"
            )
        for name, rows in zip(("train", "test"), both, strict=True):
            wrong = rows[(rows < 0) | (rows >= num_samples)]
            if len(wrong):
                raise UsageError(
                    f"{origin}: {name} of client {names[client]} must hold indices in "
                    f"[0, {num_samples}), got {wrong[0]}"
                )
            in_order = np.sort(rows)
            twice = np.append(rows[held[rows]], in_order[1:][np.diff(in_order) == 0])
            if len(twice):
                raise UsageError(
                    f"{origin}: train and test must hold a sample once among all clients, got "
                    f"{twice[0]} in {name} of client {names[client]} and before"
                )
            held[rows] = True


def dirichlet(
    labels: np.ndarray,
    num_clients: int,
    alpha: float,
    seed: int,
    *,
    min_samples: int = 1,
    max_tries: int = 1000,
) -> list[np.ndarray]:
    """Label skew: the samples of each class in shares drawn from `Dirichlet(alpha, ..., alpha)`.

    Class by class: the samples are shuffled, one share a client is drawn, clients that already
    hold `N / M` samples or more get nothing of this class, and the shares are scaled to sum to
    one. The whole draw is repeated until every client holds `min_samples`.

    Args:
      labels: `[N]` integers.
      num_clients: number of clients `M`.
      alpha: concentration, > 0. About 0.1 is the usual hard case; 100 is almost `iid`.
      seed: seed of the legacy generator `numpy.random.RandomState`.
      min_samples: fewest samples of a client.
      max_tries: draws before giving up.

    Returns:
      `M` arrays of sample indices, class by class; together every sample once.

    Raises:
      UsageError: an argument is out of range, or no draw gave every client its minimum.

    Source: the rule used by the public federated learning benchmarks (PFLlib, HtFLlib and the
      code of several papers). With seed 1, 20 clients, alpha 0.1 and 6,000 samples in each of 10
      classes it gives the published table of counts exactly. They repeat forever; this gives up.
    """
    labels = _checked_labels(labels)
    _check_request(labels, num_clients, min_samples, seed)
    _check_alpha(alpha)
    generator = np.random.RandomState(seed)
    by_class = _indices_by_class(labels)
    for _ in range(max_tries):
        parts = _draw_dirichlet(generator, by_class, num_clients, alpha)
        if parts is not None and min(map(len, parts)) >= min_samples:
            return parts
    raise UsageError(
        f"Config.alpha must let every client hold min_samples = {min_samples}, got none in "
        f"{max_tries} draws with alpha = {alpha}, num_clients = {num_clients} and {len(labels)} "
        "samples; raise alpha, or lower num_clients or min_samples"
    )


def pathological(
    labels: np.ndarray, num_clients: int, classes_per_client: int, seed: int
) -> list[np.ndarray]:
    """Label skew: every client holds `classes_per_client` classes.

    Each class goes to `M * classes_per_client / C` clients, rounded down or up, and is cut in
    equal parts (sizes differ by at most one) after shuffling. Which clients, is random.

    Args:
      labels: `[N]` integers; `C` counts the classes that occur.
      num_clients: number of clients `M`.
      classes_per_client: classes a client holds, in `[1, C]`.
      seed: seed of the split.

    Returns:
      `M` arrays of sample indices, class by class; together every sample once.

    Raises:
      UsageError: an argument is out of range, a class would go to no client, or a class has fewer
        samples than clients that should hold it.

    Source: the split of McMahan et al. (2017), "Communication-efficient learning of deep networks
      from decentralized data", with whole classes in place of shards, as HtFLlib has it.
    """
    labels = _checked_labels(labels)
    _check_request(labels, num_clients, 1, seed)
    by_class = _indices_by_class(labels)
    num_present = len(by_class)
    _check_integer("classes_per_client", classes_per_client, 1)
    if classes_per_client > num_present:
        raise UsageError(
            f"Config.classes_per_client must be <= {num_present}, the classes in the data, "
            f"got {classes_per_client}"
        )
    if classes_per_client * num_clients < num_present:
        raise UsageError(
            f"Config.classes_per_client * num_clients must be >= {num_present}, the classes in the "
            f"data, got {classes_per_client} * {num_clients}"
        )
    generator = np.random.default_rng((seed, 0))
    holders = _draw_holders(generator, num_present, num_clients, classes_per_client)
    pieces: list[list[np.ndarray]] = [[] for _ in range(num_clients)]
    for indices, clients in zip(by_class, holders, strict=True):
        if len(indices) < len(clients):
            raise UsageError(
                f"Config.classes_per_client must leave each class a sample for each of its "
                f"clients, got {len(indices)} samples of class {labels[indices[0]]} for "
                f"{len(clients)} clients; lower classes_per_client or num_clients"
            )
        shares = np.array_split(generator.permutation(indices), len(clients))
        for client, share in zip(clients, shares, strict=True):
            pieces[client].append(share)
    return [np.concatenate(piece) for piece in pieces]


def iid(
    labels: np.ndarray, num_clients: int, seed: int, sizes: np.ndarray | None = None
) -> list[np.ndarray]:
    """No skew: a random split.

    Args:
      labels: `[N]` integers.
      num_clients: number of clients `M`.
      seed: seed of the split.
      sizes: `[M]` integers that sum to `N`; by default they differ by at most one.

    Returns:
      `M` arrays of sample indices; together every sample once.

    Raises:
      UsageError: an argument is out of range.
    """
    labels = _checked_labels(labels)
    _check_request(labels, num_clients, 1, seed)
    generator = np.random.default_rng((seed, 0))
    shuffled = generator.permutation(len(labels))
    cuts = num_clients if sizes is None else np.cumsum(sizes)[:-1]
    return np.array_split(shuffled, cuts)


def dirichlet_of_sizes(
    labels: np.ndarray, sizes: np.ndarray, alpha: float, seed: int
) -> list[np.ndarray]:
    """Label skew in clients of given sizes: each fills up by its own distribution of classes.

    Client after client, in random order: a distribution over the classes is drawn, and samples by
    it without replacement; where a class is used up, the rest by the others. The last ones take
    what is left.

    Args:
      labels: `[N]` integers.
      sizes: `[M]` integers that sum to `N`.
      alpha: concentration of the Dirichlet distribution over the classes that occur, > 0.
      seed: seed of the split.

    Returns:
      `M` arrays of sample indices, class by class; together every sample once.

    Raises:
      UsageError: `alpha` is out of range.

    Source: the unbalanced Dirichlet split of Acar et al. (2021), "Federated learning based on
      dynamic regularization", with samples drawn many at a time.
    """
    labels = _checked_labels(labels)
    _check_alpha(alpha)
    generator = np.random.default_rng((seed, 0))
    left = [generator.permutation(indices) for indices in _indices_by_class(labels)]
    parts = [np.zeros(0, np.int64)] * len(sizes)
    for client in generator.permutation(len(sizes)):
        liking = generator.dirichlet(np.full(len(left), alpha))
        available = np.array([len(indices) for indices in left])
        taken = _fill(generator, int(sizes[client]), liking, available)
        pieces = [indices[:count] for indices, count in zip(left, taken, strict=True)]
        left = [indices[count:] for indices, count in zip(left, taken, strict=True)]
        parts[client] = np.concatenate(pieces)
    return parts


def _fill(
    generator: np.random.Generator, size: int, liking: np.ndarray, available: np.ndarray
) -> np.ndarray:
    """How many samples of each class make up `size`, by liking as far as they are available."""
    taken = np.zeros_like(available)
    while (missing := size - taken.sum()) > 0:
        left = available - taken
        weight = np.where(left > 0, np.nan_to_num(liking), 0.0)
        weight = weight if weight.sum() > 0 else left
        taken += np.minimum(generator.multinomial(missing, weight / weight.sum()), left)
    return taken


def draw_sizes(num_samples: int, num_clients: int, sigma: float, seed: int) -> np.ndarray:
    """Unequal sizes of clients: proportional to `exp(sigma * normal)`.

    Args:
      num_samples: `N`, at least `num_clients`.
      num_clients: number of clients `M`.
      sigma: standard deviation of the logarithm, >= 0.
      seed: seed of the split.

    Returns:
      `[M]` int64, at least 1 each, which sum to `N`.
    """
    normal = np.random.default_rng((seed, 3)).standard_normal(num_clients)
    return apportion(np.exp(sigma * normal), num_samples, least=np.ones(num_clients, int))


def apportion(
    weights: np.ndarray,
    total: int,
    *,
    least: np.ndarray | None = None,
    most: np.ndarray | None = None,
) -> np.ndarray:
    """Whole numbers in proportion to weights, by largest remainder.

    Args:
      weights: `[n]`, none negative, not all zero.
      total: what they sum to.
      least: `[n]` integers, none is less; sums to `total` at most. By default 0.
      most: `[n]` integers, none is more; sums to `total` at least. By default `total`.

    Returns:
      `[n]` int64.
    """
    weights = np.asarray(weights, float)
    least = np.zeros(len(weights), int) if least is None else least
    most = np.full(len(weights), total) if most is None else most
    exact = weights / weights.sum() * total
    result = np.clip(np.floor(exact).astype(np.int64), least, most)
    while (missing := total - int(result.sum())) != 0:
        step = 1 if missing > 0 else -1
        free = np.flatnonzero(result < most if step > 0 else result > least)
        neediest = free[np.argsort(step * (result - exact)[free], kind="stable")]
        result[neediest[: abs(missing)]] += step
    return result


def by_owner(
    owners: np.ndarray, names: Sequence[str], *, min_samples: int, train_fraction: float, seed: int
) -> Partition:
    """A partition whose clients are the owners of the samples.

    Args:
      owners: `[N]` integers, the position in `names` of each sample's owner; -1 for samples that
        nobody gets.
      names: `M` names, for messages.
      min_samples: fewest samples, training and test together, that a client may hold.
      train_fraction: share of a client's samples that it trains on.
      seed: seed of the split into training and test.

    Raises:
      UsageError: an owner has too few samples, or an argument is out of range.
    """
    parts = owned(owners, len(names))
    for name, part in zip(names, parts, strict=True):
        if len(part) < max(min_samples, 1):
            raise UsageError(
                f"Config.partition: owner {name} must have at least min_samples = {min_samples} "
                f"samples, got {len(part)}"
            )
    return pack(*split_clients(parts, train_fraction=train_fraction, seed=seed))


def owned(owners: np.ndarray, num_owners: int) -> list[np.ndarray]:
    """The samples of each owner, ascending; `owners` `[N]` as in `by_owner`."""
    order = np.argsort(owners, kind="stable")
    starts = np.searchsorted(owners[order], np.arange(num_owners + 1))
    return np.split(order, starts)[1:-1]


def by_shares(
    counts: np.ndarray, rows: np.ndarray, labels: np.ndarray, seed: int
) -> list[np.ndarray]:
    """Gives out samples by the clients' shares of each class; no two clients get the same.

    Args:
      counts: `[M, C]` integers, the samples of each class that a client trains on.
      rows: `[n]` indices of the samples to give out; those of classes that nobody trains on stay
        with nobody.
      labels: `[N]` integers in `[0, C)`.
      seed: seed of who gets which.

    Returns:
      `M` arrays of sample indices, class by class; some may be empty.
    """
    generator = np.random.default_rng((seed, 2))
    pieces: list[list[np.ndarray]] = [[rows[:0]] for _ in counts]
    for own in _indices_by_class(labels[rows]) if len(rows) else []:
        held = counts[:, labels[rows[own[0]]]]
        clients = generator.permutation(len(counts))  # So that ties fall to anybody.
        shuffled = generator.permutation(rows[own])
        if held.any():
            sizes = apportion(held[clients], len(own))
            for client, piece in zip(
                clients, np.split(shuffled, np.cumsum(sizes)[:-1]), strict=True
            ):
                pieces[client].append(piece)
    return [np.concatenate(own) for own in pieces]


def split_clients(
    parts: Sequence[np.ndarray], *, train_fraction: float = 0.75, seed: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Splits every client's samples at random into training and test samples.

    Of `n` samples `floor(train_fraction * n)`, but at least one, are for training.

    Args:
      parts: `M` arrays of sample indices.
      train_fraction: in (0, 1].
      seed: seed of the split.

    Returns:
      `M` training arrays and `M` test arrays.

    Raises:
      UsageError: an argument is out of range.
    """
    if not 0 < train_fraction <= 1:
        raise UsageError(f"Config.train_fraction must be in (0, 1], got {train_fraction}")
    _check_seed(seed)
    generator = np.random.default_rng((seed, 1))
    train, test = [], []
    for part in parts:
        shuffled = generator.permutation(part)
        num_train = max(1, math.floor(train_fraction * len(part)))
        train.append(shuffled[:num_train])
        test.append(shuffled[num_train:])
    return train, test


def set_apart(parts: Partition, labels: np.ndarray, fraction: float, seed: int) -> Partition:
    """Takes a part of every client's training samples away for validation.

    Of `n` training samples `floor(fraction * n)`, of each class its share as nearly as that goes. A
    class that a client holds stays in its training part, unless there are too many of single
    samples. Test samples, and the order of the training samples that stay, are as they were.

    Args:
      parts: a partition without validation samples.
      labels: `[N]` integers.
      fraction: in (0, 1).
      seed: of which samples they are.
    """
    generator = np.random.default_rng((seed, 4))
    train, _ = unpack(parts)
    kept, apart = [], []
    for rows in train:
        classes, place, counts = np.unique(labels[rows], return_inverse=True, return_counts=True)
        total = math.floor(fraction * len(rows))
        most = counts - 1 if total <= len(rows) - len(counts) else counts
        order = generator.permutation(len(classes))  # So that ties fall to any class.
        taken = np.zeros(len(classes), np.int64)
        taken[order] = apportion(counts[order], total, most=most[order])
        shuffled = generator.permutation(len(rows))
        # How many of the same class stand before each in the shuffled order.
        by_class = shuffled[np.argsort(place[shuffled], kind="stable")]
        rank = np.empty(len(rows), np.int64)
        rank[by_class] = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        chosen = rank < taken[place]
        kept.append(rows[~chosen])
        apart.append(rows[chosen])
    rows, count = pack_rows(apart)
    packed = Partition(*pack_rows(kept), parts.test, parts.test_count)
    return packed._replace(validation=rows, validation_count=count)


def pool(parts: Partition, num_clients: int) -> Partition:
    """Gives each of `num_clients` clients the samples of all clients of a partition."""

    def joined(rows: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        held = [row[:count] for row, count in zip(rows, counts, strict=True)]
        return pack_rows([np.concatenate(held)] * num_clients)

    result = Partition(
        *joined(parts.train, parts.train_count), *joined(parts.test, parts.test_count)
    )
    if parts.validation is None or parts.validation_count is None:
        return result
    rows, count = joined(parts.validation, parts.validation_count)
    return result._replace(validation=rows, validation_count=count)


def _draw_dirichlet(
    generator: np.random.RandomState,
    by_class: Sequence[np.ndarray],
    num_clients: int,
    alpha: float,
) -> list[np.ndarray] | None:
    """One draw of `dirichlet`; None if a class has no client to go to."""
    fair = sum(map(len, by_class)) / num_clients
    sizes = np.zeros(num_clients, np.int64)
    order, owners = [], []
    for indices in by_class:
        shuffled = indices.copy()
        generator.shuffle(shuffled)
        shares = generator.dirichlet(np.full(num_clients, alpha)) * (sizes < fair)
        total = shares.sum()
        # A tiny alpha underflows: all shares are zero, or NaN.
        if not total > 0:
            return None
        cuts = (np.cumsum(shares / total) * len(indices)).astype(np.int64)
        cuts[-1] = len(indices)
        taken = np.diff(cuts, prepend=0)
        sizes += taken
        order.append(shuffled)
        owners.append(np.repeat(np.arange(num_clients), taken))
    # A stable sort by owner keeps, within a client, the order in which the samples came.
    by_owner = np.concatenate(order)[np.argsort(np.concatenate(owners), kind="stable")]
    return np.split(by_owner, np.cumsum(sizes)[:-1])


def _draw_holders(
    generator: np.random.Generator, num_present: int, num_clients: int, classes_per_client: int
) -> list[list[int]]:
    """The clients that hold each class, as evenly as possible.

    Client after client takes the classes with the most places left, ties at random. The places
    left never differ by more than one between classes, so that the last client still finds enough.
    """
    fewest, extra = divmod(num_clients * classes_per_client, num_present)
    places = np.full(num_present, fewest)
    places[generator.permutation(num_present)[:extra]] += 1
    holders: list[list[int]] = [[] for _ in range(num_present)]
    for client in range(num_clients):
        shuffled = generator.permutation(num_present)
        fullest_first = shuffled[np.argsort(-places[shuffled], kind="stable")]
        for present in sorted(fullest_first[:classes_per_client]):
            places[present] -= 1
            holders[present].append(client)
    return holders


def _indices_by_class(labels: np.ndarray) -> list[np.ndarray]:
    """The sample indices of each class that occurs, ascending."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def pack_rows(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """`M` arrays as `[M, longest]` int32, padded with 0, and `[M]` int32 counts."""
    count = np.array([len(part) for part in parts], np.int32)
    packed = np.zeros((len(parts), max(1, int(count.max()))), np.int32)
    for row, part in zip(packed, parts, strict=True):
        row[: len(part)] = part
    return packed, count


def _checked_labels(labels: np.ndarray, num_classes: int | None = None) -> np.ndarray:
    """The labels as a non-empty `[N]` integer array."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise UsageError(
            "labels must be a non-empty [N] integer array, "
            f"got {labels.dtype} of shape {list(labels.shape)}"
        )
    if num_classes is not None and not 0 <= labels.min() <= labels.max() < num_classes:
        raise UsageError(
            f"labels must be in [0, {num_classes}), got {labels.min()}..{labels.max()}"
        )
    return labels


def _check_request(labels: np.ndarray, num_clients: int, min_samples: int, seed: int) -> None:
    """What all kinds of split ask for."""
    _check_integer("num_clients", num_clients, 1)
    _check_integer("min_samples", min_samples, 1)
    _check_seed(seed)
    if num_clients > len(labels):
        raise UsageError(
            f"Config.num_clients must be <= {len(labels)}, the number of samples, got {num_clients}"
        )
    if min_samples * num_clients > len(labels):
        raise UsageError(
            f"Config.min_samples * num_clients must be <= {len(labels)}, the number of samples, "
            f"got {min_samples} * {num_clients}"
        )


def _check_alpha(alpha: float) -> None:
    if not (alpha > 0 and math.isfinite(alpha)):
        raise UsageError(f"Config.alpha must be > 0 and finite, got {alpha}")


def _check_seed(seed: int) -> None:
    """numpy's legacy generator takes 32 bits."""
    _check_integer("seed", seed, 0)
    if seed >= 2**32:
        raise UsageError(f"Config.seed must be < 2**32, got {seed}")


def _check_integer(field: str, value: int, low: int) -> None:
    """An integer (no bool, no float) of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise UsageError(f"Config.{field} must be an integer, got {value!r}")
    if value < low:
        raise UsageError(f"Config.{field} must be >= {low}, got {value}")
