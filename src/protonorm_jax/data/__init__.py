"""Data sets: a source's name and where it lies in, one `Dataset` out.

| spec | what is read |
|---|---|
| `digits` | 1,797 digits of 8x8 pixels, shipped with the package |
| `npz:PATH` or `PATH.npz` | one numpy archive with `images` and `labels` |
| `pfllib:FOLDER` | the clients of PFLlib, HtFLlib, FedTGP and ProtoNorm, as they are |
| `cifar:PATH` | CIFAR-10 or CIFAR-100 as downloaded, python version, unpacked or not |
| `cifar-coarse:PATH` | CIFAR-100 with its 20 coarse labels |
| `idx:FOLDER` or `idx:FOLDER/PREFIX` | the MNIST family's idx files, gzipped or not |
| `folder:PATH` | one sub-folder a class, image files in it; maybe below `train`, `val`, `test` |
| `parquet:PATH` | image sets of Hugging Face: a parquet file, or a folder of shards |
| `tfds:NAME` | an image classification set of TensorFlow Datasets |

How to bring your own data: put the images in one folder a class (`folder:PATH`), or save
`np.savez("mine.npz", images=images, labels=labels)` with `images` `[N, H, W, channels]` uint8 and
`labels` `[N]` integers from 0 (`npz:mine.npz`). All images of a set have one size, or are brought
to one by `image_size`. Training and
test files are joined: each client splits its own share again.

How to add a source: one file with `load(argument, **options) -> Dataset` that ends in
`checks.dataset(...)`, and one row in `SOURCES`. `options` are those of `load` below; `image_size`
is for sources whose images differ in size, all others are resized here. Files come from anywhere:
a source executes nothing of them, and checks what they declare (`limits`) before it allocates.
"""

import contextlib
import contextvars
import os
from collections.abc import Callable, Iterator

from protonorm_jax.data import cifar, digits, folder, idx, npz, parquet, pfllib, tfds
from protonorm_jax.data.npz import save as save_npz
from protonorm_jax.data.pictures import resized
from protonorm_jax.data.threads import Progress
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Dataset

__all__ = ["SOURCES", "Progress", "load", "resized", "save_npz", "watched"]

SOURCES: dict[str, Callable[..., Dataset]] = {
    "digits": digits.load,
    "npz": npz.load,
    "pfllib": pfllib.load,
    "cifar": cifar.load,
    "cifar-coarse": cifar.load_coarse,
    "idx": idx.load,
    "folder": folder.load,
    "parquet": parquet.load,
    "tfds": tfds.load,
}
"""Source name -> `load(argument, *, cache_dir, data_dir, image_size, inexact_pixels,
on_progress)`."""

_watcher: contextvars.ContextVar[Progress | None] = contextvars.ContextVar("watcher", default=None)


@contextlib.contextmanager
def watched(on_progress: Progress) -> Iterator[None]:
    """Within, whatever calls `load` without `on_progress` is shown by this one."""
    before = _watcher.set(on_progress)
    try:
        yield
    finally:
        _watcher.reset(before)


def load(
    spec: str = "digits",
    *,
    image_size: int = 0,
    cache_dir: str | os.PathLike | None = None,
    data_dir: str | os.PathLike | None = None,
    inexact_pixels: bool = False,
    on_progress: Progress | None = None,
) -> Dataset:
    """Reads a data set.

    Args:
      spec: `SOURCE` or `SOURCE:ARGUMENT` (see the table above), or a path that ends in `.npz`.
      image_size: side of the square that all images are resized to (see `pictures`); 0 leaves them
        as they are.
      cache_dir: where sets that are slow to read are kept (see `cache.folder`).
      data_dir: where prepared TFDS sets lie (see `tfds.load`).
      inexact_pixels: whether pixels that are no whole ones are rounded (see `pfllib.load`).
      on_progress: told of the progress; by default who was given to `watched`.

    Returns:
      The set, checked: images `[N, H, W, channels]` uint8, labels `[N]` int32.

    Raises:
      UsageError: the source is unknown, or what it reads is missing, broken or not a labelled
        image set. The message is one line.
    """
    name, _, argument = spec.partition(":")
    if name in SOURCES and (argument or name == "digits"):
        dataset = SOURCES[name](
            argument,
            cache_dir=cache_dir,
            data_dir=data_dir,
            image_size=image_size,
            inexact_pixels=inexact_pixels,
            on_progress=on_progress or _watcher.get(),
        )
        return resized(dataset, image_size)
    if spec.endswith(".npz"):
        return resized(npz.load(spec), image_size)
    raise UsageError(
        f"Config.data must be one of {', '.join(SOURCES)} (as SOURCE:ARGUMENT) "
        f"or a path ending in .npz, got {spec!r}"
    )
