"""Paths as people write them on the command line."""

import argparse
import os

PICTURES = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".eps", ".ps")


def path(text: str) -> str:
    """The type of a flag that names a file or directory; a tilde is a user's home.

    Raises:
      argparse.ArgumentTypeError: it names nothing, or the home of a user that there is not.
    """
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"must name a file or directory, got {text!r}")
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise argparse.ArgumentTypeError(
            f"must begin with the home of a user that there is, got {text!r} (./{text} is a file "
            "of that name)"
        )
    return expanded


def directory(text: str) -> str:
    """As `path`, for results that are a directory, not a picture."""
    if text.lower().endswith(PICTURES) and not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"must name a directory, not a picture, got {text!r}")
    return path(text)


def add_directories(parser: argparse.ArgumentParser, words: str) -> None:
    """Adds the directories that a command looks into; `words` say of what."""
    parser.add_argument("directories", type=path, metavar="DIR", nargs="+", help=words)
