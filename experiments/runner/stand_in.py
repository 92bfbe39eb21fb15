"""Sets of the shape of real ones, of which nothing can be learned, to plan and compile with."""

from typing import Any

import numpy as np

from protonorm_jax import data
from protonorm_jax.data import checks
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Dataset

SHAPES = {
    "mnist": (70_000, 28, 1, 10),
    "fashion_mnist": (70_000, 28, 1, 10),
    "cifar10": (60_000, 32, 3, 10),
    "cifar100": (60_000, 32, 3, 100),
}
"""Sets of TensorFlow Datasets: samples, side of an image, channels, classes."""


def take_place() -> None:
    """From now on in this process, `tfds:NAME` is black images of the shape of that set."""
    data.SOURCES["tfds"] = load


def load(argument: str, **options: Any) -> Dataset:
    """A set of the shape of a known one, all black, its classes equally large.

    Raises:
      UsageError: its shape is not known.
    """
    if argument not in SHAPES:
        raise UsageError(f"--stand-in must be for one of {', '.join(SHAPES)}, got {argument!r}")
    count, side, channels, classes = SHAPES[argument]
    images = np.zeros((count, side, side, channels), np.uint8)
    labels = (np.arange(count) % classes).astype(np.int32)
    return checks.dataset(
        images, labels, origin=argument, name=f"stand-in for {argument}", num_classes=classes
    )
