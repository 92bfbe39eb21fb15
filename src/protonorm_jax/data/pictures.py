"""Image files to arrays: decoded, brought to grey or colour of 8 bits a channel, and resized.

What comes out is what torchvision's `ImageFolder` shows, but that grey images stay grey: of an
animation the first frame, transparency dropped (not laid over a colour), palettes and CMYK
resolved to RGB, EXIF's orientation not applied. Grey of 16 bits is scaled, 0..65535 to 0..255 and
rounded. Grey of 32 bits and floats are refused, as what is white in them cannot be told.

Resizing is torchvision's `Resize(N)` and then `CenterCrop(N)`, without rounding where it cuts: the
largest square in the middle of each image is resized, bilinear and antialiased, on uint8.
"""

import contextlib
import functools
import io
import logging
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import PIL.Image

from protonorm_jax.data import checks, memory, threads
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Dataset

GREY_MODES = ("1", "L", "LA")
DEEP_GREY_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")

FORMATS = (
    *("PNG", "JPEG", "MPO", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF"),
    *("ICO", "DIB", "PCX", "SGI", "TGA"),
)
"""What is read, of what Pillow reads: formats of pixels, none that another program draws (EPS)."""

MAX_PIXELS = 2**26
"""An image with more pixels is taken for a bomb: a small file that fills the memory."""

MAX_FILE_BYTES = 2**29
"""So is a longer file; an image of `MAX_PIXELS` has 192 MiB as it is."""

_LARGE = 2**22
_alone = threading.Lock()


class Picture(NamedTuple):
    """One image as a file has it.

    Attributes:
      origin: what messages call it, on one line.
      read: gives the bytes.
      num_bytes: how many.
    """

    origin: str
    read: Callable[[], bytes]
    num_bytes: int


def stack(
    pictures: Iterable[Picture],
    count: int,
    *,
    origin: str,
    image_size: int = 0,
    on_progress: threads.Progress | None = None,
) -> np.ndarray:
    """Decodes images, in threads, into one array.

    Args:
      pictures: the images; read one after the other, few at a time.
      count: how many there are, at least one.
      origin: what messages call the set.
      image_size: side of the square that each is resized to; 0 leaves them as they are.
      on_progress: told of the images done.

    Returns:
      `[count, H, W, 1]` uint8 where all images are grey, else `[count, H, W, 3]`.

    Raises:
      UsageError: an image cannot be decoded, is larger than `MAX_PIXELS`, or not sized as the
        first; or they do not fit into memory.
    """
    pictures = iter(pictures)
    with _in_silence():
        first = next(pictures)
        image = _decode(first, image_size)
        images = _room(count, image.shape, origin)
        images[0] = image

        def one(picture: Picture) -> tuple[Picture, np.ndarray]:
            return picture, _decode(picture, image_size)

        work = threads.mapped(one, pictures, lambda picture: picture.num_bytes + image.nbytes)
        for done, (picture, image) in enumerate(work, 1):
            if image.shape[:2] != images.shape[1:3]:
                raise UsageError(
                    f"{picture.origin}: images must all have one size, got {_size(image)} and "
                    f"{_size(images[0])} in {first.origin}; --image-size makes them equal"
                )
            if image.shape[2] > images.shape[3]:
                images = _in_colour(images, done, origin)
            images[done] = image
            if on_progress:
                on_progress("decoding images", done + 1, count)
    return images


def _decode(picture: Picture, image_size: int) -> np.ndarray:
    """One image as `[H, W, 1]` or `[H, W, 3]` uint8; see `stack`."""
    if picture.num_bytes > MAX_FILE_BYTES:
        raise UsageError(
            f"{picture.origin} must have at most {MAX_FILE_BYTES:,} bytes, got "
            f"{picture.num_bytes:,}"
        )
    with checks.reading(picture.origin):
        content = picture.read()
        with _opened(content, picture.origin) as image, _one_of_the_large(image):
            array = np.asarray(_resized(_plain(image, picture.origin), image_size))
    return array[..., None] if array.ndim == 2 else array


def resized(dataset: Dataset, image_size: int) -> Dataset:
    """The set with all images resized to squares, each channel by itself.

    Args:
      dataset: the set.
      image_size: side of the square; 0 leaves them as they are.

    Raises:
      UsageError: the images would not fit into memory.
    """
    height, width, channels = dataset.images.shape[1:]
    if not image_size or height == width == image_size:
        return dataset
    shape = (image_size, image_size, channels)
    images = _room(len(dataset.images), shape, dataset.name)
    for image, target in zip(dataset.images, images, strict=True):
        target[:] = resized_array(image, image_size)
    return dataset._replace(images=images)


def resized_array(image: np.ndarray, image_size: int) -> np.ndarray:
    """One image `[H, W, channels]` uint8 resized to a square; 0 leaves it as it is."""
    if not image_size:
        return image
    # Pillow takes a second or fourth channel for transparency, and weighs the others by it.
    planes = [image] if image.shape[2] == 3 else [image[..., i] for i in range(image.shape[2])]
    made = [_resized(PIL.Image.fromarray(np.ascontiguousarray(one)), image_size) for one in planes]
    return np.dstack([np.asarray(one) for one in made])


@contextlib.contextmanager
def _in_silence() -> Iterator[None]:
    """Silences Pillow, which warns of odd metadata; what matters is an error."""
    logger = logging.getLogger("PIL")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with."""
    PIL.Image.init()
    return tuple(one for one in FORMATS if one in PIL.Image.OPEN)


def _opened(content: bytes, origin: str) -> PIL.Image.Image:
    """The image, of which only the header has been read."""
    rule = f"{origin} must have at most {MAX_PIXELS:,} pixels"
    try:
        image = PIL.Image.open(io.BytesIO(content), formats=_formats())
    except PIL.UnidentifiedImageError:
        # Its own message names an object in memory.
        raise UsageError(
            f"{origin} must be readable, got UnidentifiedImageError: "
            f"{'no image of a known format' if content else 'an empty file'}"
        ) from None
    except PIL.Image.DecompressionBombError as error:
        raise UsageError(f"{rule}, got {checks.one_line(error)}") from error
    if image.width * image.height > MAX_PIXELS:
        raise UsageError(f"{rule}, got {image.height}x{image.width}")
    return image


@contextlib.contextmanager
def _one_of_the_large(image: PIL.Image.Image) -> Iterator[None]:
    """Lets only one thread decode a large image."""
    with _alone if image.width * image.height > _LARGE else contextlib.nullcontext():
        yield


def _plain(image: PIL.Image.Image, origin: str) -> PIL.Image.Image:
    """The image in mode `L` or `RGB`."""
    if image.mode in ("L", "RGB"):
        return image
    if image.mode in GREY_MODES:
        return image.convert("L")
    if image.mode in DEEP_GREY_MODES:
        return PIL.Image.fromarray(_of_8_bits(np.asarray(image)))
    if image.mode in COLOUR_MODES:
        # By way of RGBA, which Pillow wants for palettes with transparency.
        return image.convert("RGBA" if image.mode in ("P", "PA") else "RGB").convert("RGB")
    raise UsageError(
        f"{origin} must have 8 bits a channel, or 16 of grey, got Pillow mode {image.mode}"
    )


def _of_8_bits(deep: np.ndarray) -> np.ndarray:
    """0..65535 to 0..255, rounded; row by row, as it takes four bytes a pixel on the way."""
    made = np.empty(deep.shape, np.uint8)
    for row, target in zip(deep, made, strict=True):
        target[:] = (row.astype(np.uint32) * 255 + 32767) // 65535
    return made


def _resized(image: PIL.Image.Image, image_size: int) -> PIL.Image.Image:
    """The square in the middle, resized."""
    if not image_size:
        return image
    side = min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    return image.resize(
        (image_size, image_size),
        PIL.Image.Resampling.BILINEAR,
        box=(left, top, left + side, top + side),
    )


def _room(count: int, shape: tuple[int, ...], origin: str) -> np.ndarray:
    """An array for `count` images, its contents undefined."""
    height, width, channels = shape
    memory.check(count * height * width * channels, origin, f"{count:,} images of {height}x{width}")
    return np.empty((count, *shape), np.uint8)


def _in_colour(images: np.ndarray, done: int, origin: str) -> np.ndarray:
    """Room for colour images, the first `done` grey ones copied."""
    wider = _room(len(images), (*images.shape[1:3], 3), origin)
    wider[:done] = images[:done]
    return wider


def _size(image: np.ndarray) -> str:
    """`HxW`."""
    return f"{image.shape[0]}x{image.shape[1]}"
