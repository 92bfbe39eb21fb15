"""Source `digits`: 1,797 handwritten digits of 8x8 pixels, shipped with the package.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
Learning Repository, 1998, doi:10.24432/C50P49, licensed CC BY 4.0
(https://creativecommons.org/licenses/by/4.0/). These are the images of its test file
`optdigits.tes`, the same that scikit-learn ships. Changed: the pixel counts 0..16 are scaled to
0..255 (`round(255 / 16 * count)`) and stored as a numpy archive.
"""

from importlib import resources

from protonorm_jax.data import npz
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Dataset


def load(argument: str = "", **_: object) -> Dataset:
    """Reads the embedded digits.

    Args:
      argument: must be empty.

    Returns:
      Images `[1797, 8, 8, 1]`, ten classes of 174 to 183 samples.

    Raises:
      UsageError: there is an argument.
    """
    if argument:
        raise UsageError(f"Config.data must be 'digits' alone, got 'digits:{argument}'")
    with resources.as_file(resources.files(__package__) / "digits.npz") as path:
        return npz.load(str(path))
