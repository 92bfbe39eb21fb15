"""Pictures as files, drawn alike whatever matplotlib has been set to."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from protonorm_jax.errors import UsageError

FORMATS = ("png", "pdf", "svg", "jpg", "jpeg", "webp", "tif", "tiff", "eps", "ps")
_DOTS_PER_INCH = 120


def prepare() -> None:
    """Imports matplotlib, whatever backend the environment asks for: none is used.

    Raises:
      UsageError: it cannot be imported.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # It tells of folders and fonts.
    asked = os.environ.pop("MPLBACKEND", None)  # Of notebooks often one that is not installed.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import matplotlib.figure  # noqa: F401
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UsageError(
            "matplotlib must be able to start, with a matplotlibrc that it can read and a folder "
            f"for temporary files, got {type(error).__name__}: {reason}"
        ) from error
    finally:
        if asked is not None:
            os.environ["MPLBACKEND"] = asked


def format_of(path: Path) -> str:
    """The format of a picture by the ending of its name.

    Raises:
      UsageError: no picture is written in such a format.
    """
    ending = path.suffix.removeprefix(".").lower()
    if ending not in FORMATS:
        raise UsageError(f"--out must end in one of .{', .'.join(FORMATS)}, got {str(path)!r}")
    return ending


def printable(text: str) -> str:
    """The text with letters that cannot be seen by their number, as in `\\n` and `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "replace").decode()
        for letter in text
    )


def label(text: str) -> str:
    """A name as a picture can show it: printable, not hidden, and without formulas."""
    shown = printable(text).replace("$", r"\$")
    return f"./{shown}" if shown.startswith("_") else shown


@contextlib.contextmanager
def drawing(file: BinaryIO, form: str = "png", **options: Any) -> Iterator[Any]:
    """A `matplotlib.figure.Figure` that is written when the block ends.

    Settings of the user's own for matplotlib do not count, and what it warns of is not said.

    Args:
      file: receives the picture.
      form: one of `FORMATS`.
      **options: of the figure.

    Raises:
      UsageError: matplotlib cannot be imported.
    """
    prepare()
    import matplotlib
    from matplotlib.figure import Figure

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        defaults = {
            name: value
            for name, value in matplotlib.rcParamsDefault.items()
            if not name.startswith("backend")
        }
        with matplotlib.rc_context(defaults):
            figure = Figure(layout="constrained", **options)
            yield figure
            figure.savefig(file, format=form, dpi=_DOTS_PER_INCH)
