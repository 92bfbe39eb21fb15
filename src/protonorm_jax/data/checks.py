"""What every source must hold to: one place that checks, one kind of error."""

import contextlib
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from protonorm_jax.errors import UsageError
from protonorm_jax.types import Dataset, Part, Partition

MAX_CLASSES = 65_536
"""More classes than this are taken for a mistake (ids or regression targets as labels)."""

_UNREADABLE = (
    OSError,  # missing, no permission, a folder, truncated gzip, not an image
    EOFError,
    ValueError,
    KeyError,
    SyntaxError,  # pillow, on a broken PNG; numpy, on a broken header
    NotImplementedError,  # zipfile, on a compression it does not know
    RuntimeError,  # zipfile, on an encrypted member
    MemoryError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
)


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turns whatever goes wrong while `path` is read into one line that names it.

    Raises:
      UsageError: the file is missing, unreadable, truncated or of another format.
    """
    try:
        yield
    except UsageError:
        raise
    except FileNotFoundError as error:
        raise UsageError(f"{path} must exist, got no such file or folder") from error
    except _UNREADABLE as error:
        raise UsageError(f"{path} must be readable, got {one_line(error)}") from error


def regular(path: Path) -> None:
    """Refuses pipes and devices, on which a reader might wait for ever.

    Raises:
      UsageError: the path is something else than a file or a folder.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UsageError(f"{path} must be a file, got a pipe or device")


def one_line(error: BaseException, limit: int = 200) -> str:
    """`TypeName: message` on one line, cut at `limit` characters."""
    text = printable(" ".join(f"{type(error).__name__}: {error}".split()))
    return text if len(text) <= limit else text[: limit - 3] + "..."


def printable(text: str) -> str:
    """The text with what cannot be printed, or would end the line, escaped."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def dataset(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    origin: str,
    name: str,
    num_classes: int | None = None,
    parts: np.ndarray | None = None,
    dealt: Partition | None = None,
) -> Dataset:
    """Checks the arrays of a source and makes a `Dataset` of them.

    Args:
      images: `[N, H, W]` or `[N, H, W, channels]` with 1 or 3 channels, of any integer dtype,
        values in 0..255. Floats are refused: whether they mean 0..1, -1..1 or 0..255 cannot be
        told from them.
      labels: `[N]` or `[N, 1]` of any integer dtype.
      origin: what messages name as the place of the mistake, usually a path.
      name: name of the set.
      num_classes: number of classes; by default the highest label plus one. Classes that no
        sample has are allowed.
      parts: `[N]` of any integer dtype, of each sample its `Part`; None where there are none.
      dealt: who holds which samples, where the source says so itself.

    Returns:
      The set, images `[N, H, W, channels]` uint8 and labels `[N]` int32.

    Raises:
      UsageError: an array breaks a rule.
    """
    images = _checked_images(np.asarray(images), origin)
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise UsageError(f"{origin}: labels must have shape [N], got {list(labels.shape)}")
    if labels.dtype.kind not in "iu":
        raise UsageError(f"{origin}: labels must be integers, got dtype {labels.dtype}")
    if len(labels) != len(images):
        raise UsageError(
            f"{origin}: images and labels must be equally many, "
            f"got {len(images)} images and {len(labels)} labels"
        )
    low, high = int(labels.min()), int(labels.max())
    limit = MAX_CLASSES if num_classes is None else num_classes
    if not 2 <= limit <= MAX_CLASSES:
        raise UsageError(f"{origin}: num_classes must be in [2, {MAX_CLASSES}], got {limit}")
    if low < 0 or high >= limit:
        raise UsageError(f"{origin}: labels must be in [0, {limit}), got {low}..{high}")
    if low == high:
        raise UsageError(f"{origin}: labels must hold at least 2 classes, got only class {low}")
    return Dataset(
        images=images,
        labels=labels.astype(np.int32),
        num_classes=high + 1 if num_classes is None else num_classes,
        name=name,
        parts=None if parts is None else _checked_parts(np.asarray(parts), len(images), origin),
        dealt=dealt,
    )


def _checked_parts(parts: np.ndarray, num_samples: int, origin: str) -> np.ndarray:
    """The parts as `[N]` uint8."""
    if parts.shape != (num_samples,) or parts.dtype.kind not in "iu":
        raise UsageError(
            f"{origin}: parts must be [{num_samples}] integers, got {parts.dtype} of shape "
            f"{list(parts.shape)}"
        )
    if not np.isin(parts, list(Part)).all():
        raise UsageError(
            f"{origin}: parts must be {', '.join(f'{int(one)} ({one.name})' for one in Part)}, got "
            f"{parts.min()}..{parts.max()}"
        )
    return parts.astype(np.uint8)


def _checked_images(images: np.ndarray, origin: str) -> np.ndarray:
    """The images as `[N, H, W, channels]` uint8."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise UsageError(
            f"{origin}: images must have shape [N, H, W] or [N, H, W, channels], "
            f"got {list(images.shape)}"
        )
    if 0 in images.shape:
        raise UsageError(f"{origin}: images must not be empty, got shape {list(images.shape)}")
    if images.shape[3] not in (1, 3):
        raise UsageError(
            f"{origin}: images must have 1 or 3 channels, in the last dimension, "
            f"got shape {list(images.shape)}"
        )
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise UsageError(f"{origin}: images must be finite, got NaN or infinity")
    if images.dtype.kind not in "iu":
        raise UsageError(
            f"{origin}: images must be uint8 in 0..255, got dtype {images.dtype}; "
            "for values in 0..1 store (images * 255).round().astype('uint8')"
        )
    if images.dtype != np.uint8:
        low, high = images.min(), images.max()
        if low < 0 or high > 255:
            raise UsageError(f"{origin}: images must be uint8 in 0..255, got {low}..{high}")
    return np.ascontiguousarray(images, dtype=np.uint8)
