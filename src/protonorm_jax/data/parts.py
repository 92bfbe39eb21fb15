"""What the parts of published sets are called."""

import re
from collections.abc import Sequence

import numpy as np

from protonorm_jax.types import Part

NAMES = {
    "train": Part.TRAIN,
    "training": Part.TRAIN,
    "val": Part.VALIDATION,
    "valid": Part.VALIDATION,
    "validation": Part.VALIDATION,
    "test": Part.TEST,
    "testing": Part.TEST,
}
"""Names of parts, in lower case."""


def of_name(name: str) -> Part | None:
    """The part that a word of a name says, as in `val-00000-of-00002`; None where none does."""
    words = re.split(r"[\W\d_]+", name.lower())
    return next((NAMES[word] for word in words if word in NAMES), None)


def numbers(parts: Sequence[Part]) -> np.ndarray | None:
    """The parts of the samples as `Dataset.parts`; None where all samples are of one."""
    return np.array(parts, np.uint8) if len(set(parts)) > 1 else None
