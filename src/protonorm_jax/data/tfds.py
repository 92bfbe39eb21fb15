"""Source `tfds:NAME`: an image classification set of TensorFlow Datasets (TFDS).

A set that is prepared on this machine is read without TensorFlow. One that is not, is downloaded
and prepared first, which needs TensorFlow (`pip install protonorm_jax[prepare]`) and the network.
Either way the set is kept as one file in the cache (`cache.folder`), found again by the digest of
the prepared files; where those are gone, by its name.

TFDS is imported when it is needed, not before.
"""

import importlib.util
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from protonorm_jax.data import cache, checks, files, memory, parts, pictures, threads
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Dataset, Part

NAME = re.compile(r"(?P<set>[a-zA-Z]\w*)(/[\w.+-]+)?(?P<version>:\d+\.\d+\.\d+)?")
"""`set`, `set/config`, each with or without `:1.2.3`."""

NETWORK_TIMEOUT = 10.0
"""Seconds that the server of a set may take to answer at all."""

_SAMPLES_BETWEEN_NEWS = 1000


def load(
    argument: str,
    *,
    cache_dir: str | os.PathLike | None = None,
    data_dir: str | os.PathLike | None = None,
    image_size: int = 0,
    on_progress: threads.Progress | None = None,
    **_: object,
) -> Dataset:
    """Reads all labelled splits of a set and joins them, `train` first.

    Args:
      argument: TFDS name, such as `cifar10`, `emnist/balanced` or `cifar10:3.0.2`. Without a
        version, the newest one that is prepared here.
      cache_dir: folder of the cache.
      data_dir: where prepared sets lie; by default `$TFDS_DATA_DIR`, and without that variable
        `~/tensorflow_datasets`.
      image_size: side of the square that images are resized to; 0 leaves them as they are.
      on_progress: told of the progress.

    Returns:
      The set; `num_classes` as TFDS says, `parts` by the names of the splits (None where there is
      one part only).

    Raises:
      UsageError: TFDS knows no such set, it cannot be prepared, or it is no image classification
        set with images of one size.
    """
    if not NAME.fullmatch(argument):
        raise UsageError(f"tfds:NAME must be SET, SET/CONFIG or SET:1.2.3, got {argument!r}")
    name = re.sub("[/:]", "-", argument)
    kind = f"tfds-{name}" + (f"-{image_size}px" if image_size else "")
    place = files.path_of(
        os.fspath(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    )
    if not (place / re.split("[/:]", argument)[0]).exists():
        kept = cache.only(kind, cache_dir)
        if kept is not None:
            return kept
    builder = _prepared_builder(argument, place)

    def make() -> Dataset:
        try:
            read = _read(builder, argument, image_size, on_progress)
        except UsageError:
            raise
        except Exception as error:  # TFDS and what it calls raise about anything
            raise UsageError(
                f"tfds:{argument} must be readable, got {checks.one_line(error)} "
                f"in {builder.data_path}"
            ) from error
        return checks.dataset(
            read.images,
            read.labels,
            origin=f"tfds:{argument}",
            name=name,
            num_classes=read.num_classes,
            parts=read.parts,
        )

    def digest() -> str:
        folder = Path(builder.data_path)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [os.fspath(path.relative_to(folder)) for path in paths]
        digests = files.digests([files.entry(path) for path in paths], on_progress)
        return cache.key(names, digests)

    return cache.load_or_make(kind, digest, make, cache_dir)


def _prepared_builder(argument: str, place: Path) -> Any:
    """The TFDS builder of a set that lies ready to read on this machine."""
    import tensorflow_datasets as tfds

    matched = NAME.fullmatch(argument)
    assert matched is not None
    # With a version, TFDS looks for files before code, so that a set which was prepared by another
    # release of TFDS is found.
    name = argument if matched["version"] else argument + ":*.*.*"
    try:
        builder = tfds.builder(name, data_dir=place, try_gcs=False)
    except Exception as error:
        if matched["set"] not in tfds.list_builders(with_community_datasets=False):
            raise UsageError(
                f"tfds:NAME must be a set that TFDS {tfds.__version__} knows or that is prepared "
                f"in {place}, got {argument!r}"
            ) from error
        # TFDS puts all its arguments in front of what is the matter.
        reason = checks.one_line(error, limit=600).rpartition('}": ')[2]
        raise UsageError(
            f"tfds:{argument} must be a set that TFDS can build, got {reason}"
        ) from error
    if not (builder.data_path.exists() and builder.is_prepared()):
        _prepare(builder, argument, tfds)
    return builder


def _prepare(builder: Any, argument: str, tfds: Any) -> None:
    """Downloads and prepares a set, after two quick checks that it can work."""
    how = (
        f"prepare it where this works (pip install 'protonorm_jax[prepare]', then tfds build "
        f"{argument}) and copy it there, or convert it to .npz"
    )
    missing = f"tfds:{argument} must be prepared in {builder.data_path}, got nothing there and"
    if importlib.util.find_spec("tensorflow") is None:
        raise UsageError(f"{missing} no tensorflow to prepare it; {how}")
    # TFDS itself tries for minutes.
    import requests

    for url in sorted(builder.url_infos or {})[:1]:
        try:
            requests.head(url, timeout=NETWORK_TIMEOUT).close()
        except requests.RequestException as error:
            raise UsageError(
                f"{missing} no network to {url} ({type(error).__name__}); {how}"
            ) from error
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    except Exception as error:
        raise UsageError(f"{missing} {checks.one_line(error)} on the way; {how}") from error


class _Read(NamedTuple):
    """What a prepared set holds; see `Dataset`."""

    images: np.ndarray
    labels: np.ndarray
    num_classes: int
    parts: np.ndarray | None


def _read(
    builder: Any, argument: str, image_size: int, on_progress: threads.Progress | None
) -> _Read:
    """Reads all splits of a prepared set."""
    image_key, label_key = _keys(builder.info, argument)
    splits = builder.info.splits
    total = sum(split.num_examples for split in splits.values())
    images: list[np.ndarray] = []
    labels: list[int] = []
    part_of: list[Part] = []
    done = 0
    for split in sorted(splits, key=lambda split: (split != "train", split)):
        part = parts.of_name(split) or Part.TRAIN
        read = 0
        for example in _examples(builder, split):
            read += 1
            done += 1
            if on_progress and done % _SAMPLES_BETWEEN_NEWS == 0:
                on_progress("reading samples", done, total)
            label = int(example[label_key])
            if label == -1:  # how TFDS marks a sample without a label
                continue
            image = pictures.resized_array(example[image_key], image_size)
            if images and image.shape != images[0].shape:
                raise UsageError(
                    f"tfds:{argument}: images must all have one size, got {list(image.shape)} and "
                    f"{list(images[0].shape)} in split {split!r}; --image-size makes them equal"
                )
            if not images:
                memory.check(2 * image.nbytes * total, f"tfds:{argument}", f"{total:,} samples")
            images.append(image)
            labels.append(label)
            part_of.append(part)
        expected = splits[split].num_examples
        if read != expected:
            raise UsageError(
                f"tfds:{argument}: split {split!r} must hold {expected} samples, got {read} in "
                f"{builder.data_path}"
            )
    if not images:
        raise UsageError(f"tfds:{argument} must have labelled samples, got none")
    num_classes = builder.info.features[label_key].num_classes
    return _Read(np.stack(images), np.array(labels), num_classes, parts.numbers(part_of))


def _keys(info: Any, argument: str) -> tuple[str, str]:
    """The names of the image and of the label among the features of a set."""
    import tensorflow_datasets as tfds

    for pair in (info.supervised_keys, ("image", "label")):
        # Other sets have three keys, or nested ones.
        if pair is None or len(pair) != 2 or any(key not in info.features for key in pair):
            continue
        image, label = (info.features[key] for key in pair)
        if isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel):
            return pair
    raise UsageError(
        f"tfds:{argument} must be an image classification set (an image and a class label), "
        f"got features {', '.join(info.features)}"
    )


def _examples(builder: Any, split: str) -> Iterator[dict[str, Any]]:
    """The decoded examples of a split, without TensorFlow."""
    if builder.info.file_format.value != "tfrecord":
        yield from builder.as_data_source(split)
        return
    features = builder.info.features
    for path in builder.info.splits[split].filepaths:
        for record in tfrecords(os.fspath(path)):
            yield features.deserialize_example_np(record)


def tfrecords(path: str) -> Iterator[bytes]:
    """The records of a TFRecord file.

    A record is: its length (64 bits, little-endian), a checksum of that, the bytes, a checksum of
    those (32 bits each). The checksums are skipped; images have their own.

    Args:
      path: the file, not compressed.

    Yields:
      The bytes of each record.

    Raises:
      EOFError: the file ends within a record.
    """
    with open(path, "rb") as file:
        while header := file.read(12):
            size = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else 0
            body = file.read(size + 4)
            if len(header) < 12 or len(body) < size + 4:
                raise EOFError(f"{path} ends within a record")
            yield body[:size]
