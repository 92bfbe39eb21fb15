"""Source `parquet:PATH`: image sets as Hugging Face keeps them, in parquet files.

`PATH` is one file, or a folder with the shards of one set in it or below
(`data/train-00000-of-00002.parquet`, `plain_text/test/0000.parquet`). Which part a shard belongs to
is read from its name or its folder's. A row has an image, as a struct of `bytes` and `path` or as
plain bytes of an image file, and an integer label; -1 and null mark rows without a label, which are
left out. The classes are counted by the schema's `huggingface` metadata, where there is any.

`PATH#LABEL` chooses the column of the label, `PATH#IMAGE,LABEL` that of the image too.

The formats of the images are those of `pictures.FORMATS`. Rows are read a few at a time. Sets of at
least `folder.CACHED_BYTES` are kept decoded in the cache. PyArrow is imported when it is needed.
"""

import contextlib
import functools
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from protonorm_jax.data import cache, checks, files, folder, memory, pages, parts, pictures, threads
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Dataset, Part

ENDING = ".parquet"

SHARD = re.compile(r"(?P<split>.+?)-(?P<number>\d{4,6})-of-(?P<count>\d{4,6})(-\w+)?")
"""A shard's name without its ending."""

BATCH_ROWS = 64
BATCH_BYTES = 2**26
"""At most so many rows are read at once, and fewer where they may be long."""

IMAGE_NAMES = ("image", "img")
LABEL_NAMES = ("label", "labels")
"""Which of several columns is taken."""

MAX_GROWTH = 8
"""A file that grows more than this as it is unpacked, and beyond `UNPACKED_BYTES`, is a bomb: image
files hardly shrink."""

UNPACKED_BYTES = 2**26


class Columns(NamedTuple):
    """What to read of each row.

    Attributes:
      image: name of the image's column.
      label: name of the label's column.
      classes: their names, where the schema says them.
    """

    image: str
    label: str
    classes: tuple[str, ...] | None


class Shard(NamedTuple):
    """One file of a set."""

    file: files.Entry
    part: Part


def load(
    argument: str,
    *,
    image_size: int = 0,
    cache_dir: str | os.PathLike | None = None,
    on_progress: threads.Progress | None = None,
    **_: object,
) -> Dataset:
    """Reads the shards of a set; see `pictures` for what becomes of transparency and the like.

    Args:
      argument: a file or folder, and maybe `#LABEL` or `#IMAGE,LABEL`.
      image_size: side of the square that images are resized to; 0 leaves them as they are.
      cache_dir: folder of the cache.
      on_progress: told of the progress.

    Returns:
      The set, training part first, then validation and test, shards in the order of their names.
      `parts` is None where there is one part only; `num_classes` is as the schema says, or else
      the highest label plus one.

    Raises:
      UsageError: a file is missing, broken or declares more than it can hold, the columns cannot
        be told, an image is missing or broken, or the images are not all of one size and
        `image_size` is 0.
    """
    root, chosen = _place(argument)
    shards = find(root)
    columns = [_columns(shard, chosen, root) for shard in shards]
    for shard, own in zip(shards, columns, strict=True):
        if own != columns[0]:
            raise UsageError(
                f"{files.shown(shard.file.path)} must have columns and classes as "
                f"{shards[0].file.path.name}, got others"
            )
    origin, name = files.shown(root), files.shown(root.resolve().name.removesuffix(ENDING))

    def make() -> Dataset:
        labels = [_labels(shard, columns[0]) for shard in shards]
        kept = [of_shard != -1 for of_shard in labels]
        count = int(sum(map(np.sum, kept)))
        if not count:
            raise UsageError(f"{origin} must have labelled images, got none")
        images = pictures.stack(
            _pictures(shards, columns[0], kept),
            count,
            origin=origin,
            image_size=image_size,
            on_progress=on_progress,
        )
        part_of = [
            shard.part for shard, own in zip(shards, kept, strict=True) for _ in range(own.sum())
        ]
        return checks.dataset(
            images,
            np.concatenate([one[own] for one, own in zip(labels, kept, strict=True)]),
            origin=f"{origin}: column {columns[0].label}",
            name=name,
            num_classes=None if columns[0].classes is None else len(columns[0].classes),
            parts=parts.numbers(part_of),
        )

    def digest() -> str:
        digests = files.digests([shard.file for shard in shards], on_progress)
        return cache.key(image_size, columns[0], [shard.part.name for shard in shards], digests)

    large = sum(shard.file.size for shard in shards) >= folder.CACHED_BYTES
    dataset = cache.load_or_make("parquet", digest, make, cache_dir) if large else make()
    return dataset._replace(name=name or "data")


def find(root: Path) -> list[Shard]:
    """The shards of a set, in the order of their parts and names.

    Raises:
      UsageError: there are none, some are missing, or they belong to several sets.
    """
    top = files.entry(root)
    if not top.is_folder:
        return [Shard(top, Part.TRAIN)]
    found = [one for one in files.walk(top) if one.path.suffix.lower() == ENDING]
    if not found:
        raise UsageError(f"{files.shown(root)} must hold {ENDING} files, got none")
    places = sorted({_place_of_set(one.path, root) for one in found})
    if len(places) > 1:
        raise UsageError(
            f"{files.shown(root)} must hold one set, got several: "
            f"{', '.join(files.shown(os.path.relpath(one, root)) for one in places[:8])}; name one "
            f"as parquet:{files.shown(places[-1])}"
        )
    _check_complete(found)
    shards = [Shard(one, _part(one.path, root)) for one in found]
    return sorted(shards, key=lambda shard: (shard.part, shard.file.path))


def _place(argument: str) -> tuple[Path, tuple[str, ...]]:
    """The path, and the names of columns that are written behind it."""
    place, sign, names = argument.rpartition("#")
    if not sign or files.path_of(argument).exists():
        return files.path_of(argument), ()
    chosen = tuple(names.split(","))
    if len(chosen) > 2 or not all(chosen):
        raise UsageError(
            f"Config.data must be parquet:PATH, parquet:PATH#LABEL or parquet:PATH#IMAGE,LABEL, "
            f"got parquet:{files.shown(argument)}"
        )
    return files.path_of(place), chosen


def _place_of_set(path: Path, root: Path) -> Path:
    """The folder of the set that a shard belongs to: its own, or that of its part's folder."""
    parent = path.parent
    while parent != root and parent.name.lower() in (*parts.NAMES, "data"):
        parent = parent.parent
    return parent


def _part(path: Path, root: Path) -> Part:
    """The part by a word of a shard's name, or by the name of a folder it lies in."""
    names = [path.stem, *(one.name for one in path.parents if root in one.parents)]
    found = (parts.of_name(name) for name in names)
    return next((part for part in found if part is not None), Part.TRAIN)


def _check_complete(found: Sequence[files.Entry]) -> None:
    """Refuses a set of which a shard is missing."""
    numbers: dict[tuple[Path, str, str], set[int]] = {}
    for one in found:
        if matched := SHARD.fullmatch(one.path.stem):
            split = (one.path.parent, matched["split"], matched["count"])
            numbers.setdefault(split, set()).add(int(matched["number"]))
    for (parent, split_name, count), present in numbers.items():
        missing = min(set(range(min(int(count), len(present) + 1))) - present, default=None)
        if missing is not None:
            raise UsageError(
                f"{files.shown(parent)} must hold all {int(count)} shards of "
                f"{files.shown(split_name)}, got {len(present)}, without "
                f"{missing:0{len(count)}d}-of-{count}"
            )


@contextlib.contextmanager
def _opened(shard: Shard) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile` whose footer was believed."""
    import pyarrow.parquet

    path = files.shown(shard.file.path)
    try:
        # A file, as PyArrow takes only such paths as UTF-8 can say.
        with (
            checks.reading(path),
            open(shard.file.path, "rb") as raw,
            pyarrow.parquet.ParquetFile(raw, buffer_size=2**20, pre_buffer=False) as file,
        ):
            _check_rows(file.metadata, shard)
            yield file
    except pyarrow.ArrowException as error:
        raise UsageError(f"{path} must be readable, got {checks.one_line(error)}") from error


def _check_rows(metadata: Any, shard: Shard) -> None:
    """Refuses numbers of rows that a file of this length cannot hold."""
    path, length = files.shown(shard.file.path), shard.file.size
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    rows = max(metadata.num_rows, *(group.num_rows for group in groups), 0)
    if rows > length:
        raise UsageError(
            f"{path} must have no more rows than bytes, got {rows:,} rows in {length:,} bytes"
        )


def _unpacked(shard: Shard, column: str) -> list[int]:
    """Of each row group, how many bytes a column unpacks to; too many are refused."""
    path, length = files.shown(shard.file.path), shard.file.size
    with checks.reading(path), open(shard.file.path, "rb") as file:
        sizes = pages.unpacked(file, column)
    if sum(sizes) > max(UNPACKED_BYTES, MAX_GROWTH * length):
        raise UsageError(
            f"{path} must grow to at most {MAX_GROWTH} times its length, got {length:,} bytes that "
            f"grow to {sum(sizes):,} in column {files.shown(column)}"
        )
    return sizes


def _columns(shard: Shard, chosen: Sequence[str], root: Path) -> Columns:
    """Which columns are image and label."""
    path = files.shown(shard.file.path)
    with _opened(shard) as file:
        schema, features = file.schema_arrow, _features(file.schema_arrow)
    images = [field.name for field in schema if _is_image(field.type)]
    labels = [field.name for field in schema if _is_integer(field.type)]
    for name, known, what in zip(
        reversed(chosen), (labels, images), ("of integer labels", "of image bytes"), strict=False
    ):
        if name not in known:
            raise UsageError(
                f"{path} must have a column {what} {files.shown(name)!r}, got {_worded(known)}"
            )
    image = chosen[0] if len(chosen) == 2 else None
    if image is None:
        marked = [name for name in images if features.get(name, {}).get("_type") == "Image"]
        image = _only(marked or images, IMAGE_NAMES)
    if image is None:
        raise UsageError(
            f"{path} must have one column of image bytes, got {_worded(images)} among "
            f"{_worded(schema.names)}; choose as parquet:{files.shown(root)}#IMAGE,LABEL"
        )
    label = chosen[-1] if chosen else None
    if label is None:
        marked = [name for name in labels if features.get(name, {}).get("_type") == "ClassLabel"]
        named = [name for name in labels if re.search("label|class|target", name.lower())]
        label = _only(marked or named or labels, LABEL_NAMES)
    if label is None:
        example = labels[0] if labels else "LABEL"
        raise UsageError(
            f"{path} must have one column of integer labels, got {_worded(labels)} among "
            f"{_worded(schema.names)}; choose as parquet:{files.shown(root)}#{files.shown(example)}"
        )
    names = features.get(label, {}).get("names")
    classes = tuple(map(str, names)) if isinstance(names, list) and names else None
    return Columns(image, label, classes)


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """What the metadata of Hugging Face says of each column; of others nothing."""
    try:
        said = json.loads((schema.metadata or {})[b"huggingface"])
        features = dict(said["info"]["features"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return {name: value for name, value in features.items() if isinstance(value, dict)}


def _is_image(kind: Any) -> bool:
    """Whether a column may hold the bytes of images."""
    from pyarrow import types

    if types.is_struct(kind):
        position = kind.get_field_index("bytes")
        return position >= 0 and _is_image(kind.field(position).type)
    return types.is_binary(kind) or types.is_large_binary(kind)


def _is_integer(kind: Any) -> bool:
    from pyarrow import types

    return types.is_integer(kind)


def _only(names: Sequence[str], usual: Sequence[str]) -> str | None:
    """The only name, or the first usual one; None where neither is."""
    if len(names) == 1:
        return names[0]
    return next((name for name in usual if name in names), None)


def _worded(names: Sequence[str]) -> str:
    return ", ".join(map(files.shown, names[:12])) or "none"


def _labels(shard: Shard, columns: Columns) -> np.ndarray:
    """`[rows]` int64, -1 for rows without a label."""
    import pyarrow

    _unpacked(shard, columns.label)
    with _opened(shard) as file:
        memory.check(
            16 * file.metadata.num_rows, files.shown(shard.file.path), "the labels of its rows"
        )
        batches = [
            batch.column(0).cast(pyarrow.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
            for batch in file.iter_batches(columns=[columns.label])
        ]
    return np.concatenate([np.zeros(0, np.int64), *batches])


def _pictures(
    shards: Sequence[Shard], columns: Columns, kept: Sequence[np.ndarray]
) -> Iterator[pictures.Picture]:
    """The images of the rows that are kept."""
    for shard, of_shard in zip(shards, kept, strict=True):
        path, row = files.shown(shard.file.path), 0
        sizes = _unpacked(shard, columns.image)
        with _opened(shard) as file:
            for value in _values(file, columns.image, sizes):
                if row < len(of_shard) and of_shard[row]:
                    origin = f"{path}: row {row}"
                    content = _content(value, origin)
                    yield pictures.Picture(origin, functools.partial(bytes, content), len(content))
                row += 1
        if row != len(of_shard):
            raise UsageError(
                f"{path} must have as many images as labels, got {row} and {len(of_shard)}"
            )


def _values(file: Any, column: str, sizes: Sequence[int]) -> Iterator[Any]:
    """What a column holds, row by row; `sizes` is how much each row group of it unpacks to."""
    for number, unpacked in enumerate(sizes):
        # A value that is repeated is stored once: each row may be as long as all of them.
        rows = min(max(BATCH_BYTES // max(unpacked, 1), 1), BATCH_ROWS)
        for batch in file.iter_batches(rows, row_groups=[number], columns=[column]):
            yield from (value.as_py() for value in batch.column(0))


def _content(value: Any, origin: str) -> bytes:
    """The bytes of an image."""
    path = None
    if isinstance(value, dict):
        value, path = value.get("bytes"), value.get("path")
    if value is not None:
        return value
    got = "none" if path is None else f"only the path {files.shown(str(path))}"
    raise UsageError(f"{origin} must hold the bytes of an image, got {got}")
