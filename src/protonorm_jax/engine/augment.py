"""Random crops and flips of images, drawn anew for every sample of every step."""

import jax
import jax.numpy as jnp

_BLACK = -1.0  # As `types.take` scales a pixel of 0.


def images(key: jax.Array, batch: jax.Array, how: str) -> jax.Array:
    """Crops and flips images at random, each by itself.

    A crop pads an image with black by an eighth of its height and width, rounded up, and cuts its
    size out of that, as torchvision's `RandomCrop(32, padding=4)` does before it normalises. A flip
    is from left to right, of half of the images, as `RandomHorizontalFlip`. The crop comes first.

    Args:
      key: consumed.
      batch: `[B, H, W, channels]`, in [-1, 1].
      how: one of `config.AUGMENTATIONS`.

    Returns:
      `[B, H, W, channels]`: pixels of the batch, moved, and black.
    """
    _, height, width, _ = batch.shape
    row_key, column_key, flip_key = jax.random.split(key, 3)
    rows = _places(row_key, batch.shape[0], height, "crop" in how)
    columns = _places(column_key, batch.shape[0], width, "crop" in how)
    if "flip" in how:
        flipped = jax.random.bernoulli(flip_key, shape=(batch.shape[0], 1))
        columns = jnp.where(flipped, columns[:, ::-1], columns)
    return jax.vmap(_moved)(batch, rows, columns)


def _places(key: jax.Array, count: int, side: int, crops: bool) -> jax.Array:
    """`[count, side]` int32, from where along a side each pixel comes; outside of it is black."""
    places = jnp.broadcast_to(jnp.arange(side), (count, side))
    if not crops:
        return places
    padding = -(-side // 8)
    places += jax.random.randint(key, (count, 1), -padding, padding + 1)
    return jnp.where(places < 0, side, places)  # `take` would count negative ones from the end.


def _moved(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """An image `[H, W, channels]` of the pixels at these places."""
    image = jnp.take(image, rows, axis=0, mode="fill", fill_value=_BLACK)
    return jnp.take(image, columns, axis=1, mode="fill", fill_value=_BLACK)
