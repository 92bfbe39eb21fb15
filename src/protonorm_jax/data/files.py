"""Files and folders as they lie about: what is left out, what is followed, what is refused."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from protonorm_jax.data import checks, threads
from protonorm_jax.errors import UsageError

JUNK = frozenset(
    (
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
        *("__macosx", "icon\r", "@eadir", "lost+found"),
    )
)
"""Names, in lower case, of what systems leave between the files of their users."""

TEXTS = frozenset((".txt", ".csv", ".tsv", ".json", ".xml", ".md", ".html", ".pdf", ".yaml"))
"""Endings of what people write about their images, and lay beside them."""

MAX_DEPTH = 16
"""Folders within folders; more than that are links that multiply."""


class Entry(NamedTuple):
    """A file or folder, links followed.

    Attributes:
      path: as it was come to.
      is_folder: else it is a regular file.
      size: bytes.
      identity: device and inode, by which loops of links are seen.
    """

    path: Path
    is_folder: bool
    size: int
    identity: tuple[int, int]


def path_of(argument: str) -> Path:
    """The path that a user wrote, `~` and `~name` resolved.

    Raises:
      UsageError: there is no such user.
    """
    try:
        return Path(argument).expanduser()
    except RuntimeError as error:
        raise UsageError(
            f"{shown(argument)} must begin with a home folder that exists, got "
            f"{checks.one_line(error)}"
        ) from error


def shown(path: str | Path) -> str:
    """A path as messages and names have it: on one line, what cannot be printed escaped."""
    return checks.printable(str(path))


def name_of(path: Path) -> str:
    """What a data set is called that lies there."""
    return shown(path.resolve().name) or "data"


def below(path: Path, root: Path) -> str:
    """The path within a folder that it was come to from; fast."""
    return os.fspath(path).removeprefix(os.fspath(root) + os.sep)


def entry(path: Path) -> Entry:
    """Looks at a file or folder, without opening it.

    Raises:
      UsageError: it is missing, a link to nowhere or to itself, a pipe, a socket or a device.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UsageError(f"{shown(path)} must lead somewhere, got a link to itself") from error
        if path.is_symlink():
            raise UsageError(
                f"{shown(path)} must lead to a file or folder, got a link to "
                f"{shown(os.readlink(path))}, which cannot be reached"
            ) from error
        with checks.reading(shown(path)):
            raise
    kind = stat.S_IFMT(found.st_mode)
    if kind not in (stat.S_IFDIR, stat.S_IFREG):
        kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise UsageError(
            f"{shown(path)} must be a file or folder, got {kinds.get(kind, 'a device')}"
        )
    return Entry(path, kind == stat.S_IFDIR, found.st_size, (found.st_dev, found.st_ino))


def entries(folder: Path) -> list[Entry]:
    """What lies in a folder, sorted by name; hidden files, junk and texts left out.

    Raises:
      UsageError: the folder cannot be read, or holds what `entry` refuses.
    """
    with checks.reading(shown(folder)):
        names = sorted(os.listdir(folder))
    found = (entry(folder / name) for name in names if not _is_left_out(name))
    return [one for one in found if one.is_folder or one.path.suffix.lower() not in TEXTS]


def _is_left_out(name: str) -> bool:
    return name.startswith(".") or name.lower() in JUNK


def walk(folder: Entry, above: Sequence[Entry] = ()) -> Iterator[Entry]:
    """The files in a folder and in the folders in it, in the order of their names.

    Args:
      folder: where to begin.
      above: the folders that it lies in, which links may not lead back to.

    Raises:
      UsageError: links lead in a circle, or `entries` refuses something.
    """
    chain = (*above, folder)
    for one in entries(folder.path):
        if not one.is_folder:
            yield one
            continue
        for other in chain:
            if one.identity == other.identity:
                raise UsageError(
                    f"{shown(one.path)} must not lead in a circle, got a link to "
                    f"{shown(other.path)}, which it lies in"
                )
        if len(chain) > MAX_DEPTH:
            raise UsageError(
                f"{shown(folder.path)} must be at most {MAX_DEPTH} folders deep, got more"
            )
        yield from walk(one, chain)


def digests(found: Sequence[Entry], on_progress: threads.Progress | None = None) -> list[str]:
    """SHA-256 of each file, in hex digits.

    Args:
      found: the files.
      on_progress: told of the bytes read.

    Raises:
      UsageError: a file cannot be read.
    """

    def digest(one: Entry) -> str:
        with checks.reading(shown(one.path)), open(one.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    total, done, made = sum(one.size for one in found), 0, []
    for one, hexadecimal in zip(
        found, threads.mapped(digest, found, lambda one: one.size), strict=True
    ):
        made.append(hexadecimal)
        done += one.size
        if on_progress:
            on_progress("reading files, MiB", -(-done // 2**20), -(-total // 2**20))
    return made
