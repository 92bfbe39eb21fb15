"""The samples of a run: read, as its settings want them, and who of its clients holds which."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from protonorm_jax import data, metrics, partition, settings
from protonorm_jax.config import DEALING, PARTITIONS, Config, sigma_of
from protonorm_jax.data import checks, partitions, selection, tables
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Dataset, Part, Partition, Scored


@contextlib.contextmanager
def naming(field: str) -> Iterator[None]:
    """Puts the name of the setting in front of what a room that does not know it complains of."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{field}: {error}") from error


class DataSets:
    """Loads data sets, each once, however many runs are of it."""

    def __init__(self, dataset: Dataset | None = None) -> None:
        """Takes a set that is used instead of reading `Config.data`."""
        self._given = None if dataset is None else _checked(dataset)
        self._read: dict[Any, Dataset] = {}
        self._selected: dict[Any, selection.Selection] = {}

    def of(self, config: Config) -> selection.Selection:
        """The set of a run: read, and as its settings want it.

        Raises:
          UsageError: a setting, file or data set that cannot be used.
        """
        key = _values(config, ("data", *_reading(), *_SELECTING))
        if key not in self._selected:
            self._selected[key] = self._select(config.located())
        return self._selected[key]

    def _select(self, config: Config) -> selection.Selection:
        if self._given is None:
            dataset = self._load(config, config.data)
        else:
            dataset = data.resized(self._given, config.image_size)
        if dataset.dealt is not None:
            _as_dealt(config, dataset)  # Refuses what contradicts before more is done.
        result = selection.whole(dataset)
        if config.test_data:
            with naming("Config.test_data"):
                test = self._load(config, config.test_data)
            result = selection.with_test(result, test)
        if config.group_labels:
            with naming("Config.group_labels"):
                result = selection.grouped(result, config.group_labels)
        if config.classes:
            result = selection.of_classes(result, config.classes)
        if config.num_samples:
            result = selection.subset(result, config.num_samples)
        return result

    def _load(self, config: Config, spec: str) -> Dataset:
        key = (spec, _values(config, _reading()))
        if key not in self._read:
            loaded = data.load(
                spec, image_size=config.image_size, inexact_pixels=config.inexact_pixels
            )
            self._read[key] = _checked(loaded)
        return self._read[key]


# What is made of a set that was read.
_SELECTING = ("test_data", "group_labels", "classes", "num_samples")


def _reading() -> tuple[str, ...]:
    """The settings that say how a set is read, whichever it is."""
    others = {"data", "split", "evaluate_on", *DEALING, *_SELECTING}
    fields = settings.fields(Config).items()
    return tuple(
        name for name, field in fields if field.metadata["section"] == "data" and name not in others
    )


def _values(config: Config, names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(getattr(config, name) for name in names)


def _checked(dataset: Dataset) -> Dataset:
    return checks.dataset(
        dataset.images,
        dataset.labels,
        origin="dataset",
        name=dataset.name,
        num_classes=dataset.num_classes,
        parts=dataset.parts,
        dealt=dataset.dealt,
    )


class Share(NamedTuple):
    """What the clients of one run have.

    Attributes:
      config: the settings of the run, with the number of clients that there are.
      partition: who holds which samples.
      names: of the clients, if they have any.
      scored: the samples that they are scored on.
      notes: what there is to say of it, in words.
    """

    config: Config
    partition: Partition
    names: tuple[str, ...] | None
    scored: Scored
    notes: tuple[str, ...]


def share(config: Config, selected: selection.Selection) -> Share:
    """Deals the samples of one run.

    Raises:
      UsageError: what is asked for cannot be had of this set.
    """
    pooled = config.pooled_clients
    dealing = config.replace(num_clients=pooled, pooled_clients=0) if pooled else config
    dealing, parts, names = _dealt(dealing, selected)
    dataset = selected.dataset
    shared = _shared_by_all(config, dataset, parts)
    if config.validation_fraction:
        fraction = config.validation_fraction
        parts = partition.set_apart(parts, dataset.labels, fraction, config.seed)
        _check_validation(config, parts)
    if pooled:
        parts, names = partition.pool(parts, config.num_clients), None
        config = config.replace(partition=dealing.partition)
    else:
        config = dealing
    scored = _scored(config, parts, shared)
    return Share(config, parts, names, scored, _notes(config, dataset, parts, shared))


def _dealt(
    config: Config, selected: selection.Selection
) -> tuple[Config, Partition, tuple[str, ...] | None]:
    """The settings with the number of clients that there are, who holds what, and their names."""
    dataset = selected.dataset
    if config.split == "own":
        _check_parts(config, dataset)
    if dataset.dealt is not None:
        origin = f"{dataset.name} with classes {config.classes}" if config.classes else dataset.name
        partition.check(*partition.unpack(dataset.dealt), len(dataset.labels), origin=origin)
        return _as_dealt(config, dataset), dataset.dealt, None
    if config.partition.startswith("file:"):
        return _from_file(config, dataset)
    if config.partition.startswith("groups:"):
        return _to_owners(config, selected)
    return config, _at_random(config, dataset), None


def _check_validation(config: Config, parts: Partition) -> None:
    """Refuses a share of which nothing comes to be, as no round could be selected."""
    if not np.any(parts.validation_count):
        most = int(parts.train_count.max())
        raise UsageError(
            f"Config.validation_fraction must be >= 1/{most}, so that the largest client sets a "
            f"sample apart, or 0, got {config.validation_fraction}"
        )


def _check_parts(config: Config, dataset: Dataset) -> None:
    """Refuses to keep parts apart that there are not."""
    present = [part for part in Part if _are(dataset, part).any()]
    for needed in (Part.TRAIN, Part.TEST):
        if needed not in present:
            names = " and ".join(part.name.lower() for part in present)
            raise UsageError(
                f"Config.split must be joined for {dataset.name} ({config.data}), which has "
                f"{f'a {names} part but no' if present else 'no train and no'} "
                f"{needed.name.lower() if present else 'test'} part (--test-data gives a test "
                f"part), got {config.split!r}"
            )


def _are(dataset: Dataset, part: Part) -> np.ndarray:
    """`[N]` bool, which samples belong to a part; none do where there are no parts."""
    return np.zeros(len(dataset.labels), bool) if dataset.parts is None else dataset.parts == part


def _at_random(config: Config, dataset: Dataset) -> Partition:
    """The whole set, or its training part, dealt at random."""
    if config.partition == "data":
        raise UsageError(
            f"Config.partition must be one of {', '.join(PARTITIONS)}, file:FILE or groups:FILE "
            f"for {config.data}, which does not say who holds what, got 'data'"
        )
    own = config.split == "own"
    rows = np.flatnonzero(_are(dataset, Part.TRAIN)) if own else None
    made = partition.make(
        config.partition,
        dataset.labels if rows is None else dataset.labels[rows],
        config.num_clients,
        alpha=config.alpha,
        classes_per_client=config.classes_per_client,
        min_samples=config.min_samples,
        train_fraction=1.0 if own else config.train_fraction,
        seed=config.seed,
        num_classes=dataset.num_classes,
        sigma=sigma_of(config.sizes),
    )
    if rows is None:
        return made
    train, _ = partition.unpack(made)
    return _with_test(config, dataset, [rows[one] for one in train])


def _with_test(config: Config, dataset: Dataset, train: list[np.ndarray]) -> Partition:
    """Gives clients their test samples, by their shares of the classes that they train on."""
    alone = partition.pack(train, [one[:0] for one in train])
    counts = metrics.class_counts(alone, dataset.labels, dataset.num_classes)
    rows = np.flatnonzero(_are(dataset, Part.TEST))
    return partition.pack(train, partition.by_shares(counts, rows, dataset.labels, config.seed))


def _from_file(
    config: Config, dataset: Dataset
) -> tuple[Config, Partition, tuple[str, ...] | None]:
    """What a file of indices says."""
    path = config.located().partition.partition(":")[2]
    with naming("Config.partition"):
        names, parts = partitions.read(path, dataset.labels)
    if config.split == "own":
        for name, rows in zip(names, partition.unpack(parts)[0], strict=True):
            tested = rows[_are(dataset, Part.TEST)[rows]]
            if len(tested):
                raise UsageError(
                    f"{path}: train of client {name} must not hold samples of the test part with "
                    f"split own, got {tested[0]}"
                )
    named = None if names == tuple(map(str, range(len(names)))) else names
    return _with_clients(config, len(names), path), parts, named


def _to_owners(
    config: Config, selected: selection.Selection
) -> tuple[Config, Partition, tuple[str, ...]]:
    """Each owner of samples a client; the largest ones if fewer clients are asked for."""
    path = config.located().partition.partition(":")[2]
    dataset, own = selected.dataset, config.split == "own"
    with naming("Config.partition"):
        listed = partitions.read_owners(path, selected.num_first)
    names = tables.ordered(listed)
    place = {name: number for number, name in enumerate(names)}
    known = np.array([place[name] for name in listed])
    first = selected.rows < selected.num_first
    owners = np.where(first, known[np.where(first, selected.rows, 0)], -1)
    trained = np.where(_are(dataset, Part.TRAIN), owners, -1) if own else owners
    if config.num_clients > len(names):
        raise UsageError(
            f"Config.num_clients must be <= {len(names)}, the owners in {path}, got "
            f"{config.num_clients}"
        )
    sizes = np.array([len(rows) for rows in partition.owned(trained, len(names))])
    largest = np.sort(np.argsort(-sizes, kind="stable")[: config.num_clients or len(names)])
    names = [names[number] for number in largest]
    number = np.full(len(sizes) + 1, -1)
    number[largest] = np.arange(len(largest))  # The last one is of nobody.
    parts = partition.by_owner(
        number[trained],
        names,
        min_samples=config.min_samples,
        train_fraction=1.0 if own else config.train_fraction,
        seed=config.seed,
    )
    if own:
        train, _ = partition.unpack(parts)
        if config.test_data:
            parts = _with_test(config, dataset, train)
        else:
            tested = np.where(_are(dataset, Part.TEST), owners, -1)
            parts = partition.pack(train, partition.owned(number[tested], len(names)))
    return config.replace(num_clients=len(names)), parts, tuple(names)


def _as_dealt(config: Config, dataset: Dataset) -> Config:
    """The settings with as many clients as the data name; a default counts as left out.

    Raises:
      UsageError: they ask for other clients.
    """
    if config.partition not in ("data", Config.partition):
        raise UsageError(
            f"Config.partition must be left out for {dataset.name}, which says itself who holds "
            f"what, got {config.partition!r}"
        )
    assert dataset.dealt is not None
    return _with_clients(
        config.replace(partition="data"), len(dataset.dealt.train_count), dataset.name
    )


def _with_clients(config: Config, found: int, origin: str) -> Config:
    """The settings with the number of clients that there are, which are those of `origin`.

    Raises:
      UsageError: another number was asked for.
    """
    if config.num_clients not in (0, found):
        raise UsageError(
            f"Config.num_clients must be left out or {found}, the clients of {origin}, got "
            f"{config.num_clients}"
        )
    return config.replace(num_clients=found)


def _shared_by_all(config: Config, dataset: Dataset, parts: Partition) -> np.ndarray:
    """The samples that all clients can be tested on: the test part, or all test samples."""
    if config.split == "own":
        return np.flatnonzero(_are(dataset, Part.TEST)).astype(np.int32)
    return np.sort(np.concatenate(partition.unpack(parts)[1]))


def _scored(config: Config, parts: Partition, shared: np.ndarray) -> Scored:
    """The samples that clients are scored on.

    Test samples as `Config.evaluate_on` says, and with validation samples these and the training
    samples.
    """
    train, own = partition.unpack(parts)
    everybody = [shared] * len(own)
    sides = {
        "own": {"": own},
        "common": {"": everybody},
        "both": {"": own, metrics.COMMON: everybody},
    }[config.evaluate_on]
    if parts.validation is not None and parts.validation_count is not None:
        apart = zip(parts.validation, parts.validation_count, strict=True)
        sides[metrics.VALIDATION] = [row[:count] for row, count in apart]
        sides[metrics.TRAIN] = train
    rows, _ = partition.pack_rows(
        [np.concatenate(one) for one in zip(*sides.values(), strict=True)]
    )
    counts = [[len(one) for one in side] for side in sides.values()]
    return Scored(tuple(sides), rows, np.array(counts, np.int32).T)


def _notes(
    config: Config, dataset: Dataset, parts: Partition, shared: np.ndarray
) -> tuple[str, ...]:
    """What there is to say of a run's samples that its settings do not say."""
    notes = []
    empty = selection.empty_classes(dataset)
    if empty:
        notes.append(empty)
    if config.split == "own":
        given, there = int(parts.test_count.sum()), len(shared)
        source = config.test_data or dataset.name
        notes.append(f"test part of {source}: {there:,} samples, of which clients have {given:,}")
        spared = int(_are(dataset, Part.VALIDATION).sum())
        if spared:
            notes.append(f"validation part of {dataset.name}: {spared:,} samples, left out")
    if config.evaluate_on != "own":
        which = "the test part" if config.split == "own" else "the test samples of all clients"
        also = "also " if config.evaluate_on == "both" else ""
        notes.append(f"every client is {also}tested on the same {len(shared):,} samples, {which}")
    if parts.validation_count is not None:
        apart, spared = int(parts.validation_count.sum()), int((parts.validation_count == 0).sum())
        few = f"; {spared} clients have too few for any" if spared else ""
        notes.append(f"set apart for validation: {apart:,} training samples{few}")
    if config.pooled_clients:
        notes.append(f"each client holds the samples of all {config.pooled_clients} clients")
    untested = int((parts.test_count == 0).sum())
    if untested and config.evaluate_on != "common":
        notes.append(f"{untested} of {len(parts.test_count)} clients have no test samples")
    return tuple(notes)
