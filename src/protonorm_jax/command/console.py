"""Where the command line talks: nothing that is printed can end a run."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from rich.console import Console as RichConsole

WIDTH_OF_FILES = 120
"""Columns of tables that go to no terminal; there they need not be narrow."""
_ANY_WIDTH = 10_000
_PLAIN = str.maketrans({"±": "+-", "…": "...", "°": " degrees"})
"""What stands for a letter that the encoding of the output lacks."""


class Stream:
    """A text stream that takes everything.

    A letter that its encoding lacks is written as one that it has, or by its number. Once the
    reader has left, or the stream cannot be written for another reason, what comes is dropped.

    Attributes:
      error: why the stream cannot be written; None if it can, or if the reader has left.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream: Any = stream
        self._lost = stream is None
        self.error: BaseException | None = None

    def write(self, text: str) -> int:
        """Writes what can be written; returns the length of all."""
        if not self._lost:
            try:
                try:
                    self._stream.write(text)
                except UnicodeEncodeError:
                    encoding = self._stream.encoding or "ascii"
                    plain = text.translate(_PLAIN).encode(encoding, "backslashreplace")
                    self._stream.write(plain.decode(encoding))
            except (OSError, ValueError) as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Hands on what has been written."""
        if not self._lost:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._lose(error)

    def isatty(self) -> bool:
        """Whether somebody looks on."""
        return not self._lost and self._stream.isatty()

    def _lose(self, error: BaseException) -> None:
        self._lost = True
        if not isinstance(error, BrokenPipeError):
            self.error = error
        # Python flushes once more when it ends; that must have somewhere to go.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def lenient() -> Iterator[Stream]:
    """Within, `sys.stdout` and `sys.stderr` are `Stream`s; yields the former."""
    before = sys.stdout, sys.stderr
    out, err = map(Stream, before)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def open_missing() -> None:
    """Opens the standard streams that the process was started without.

    Otherwise the next files that are opened take their numbers, and get what is meant for them.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError as error:
            if error.errno == errno.EBADF:
                os.open(os.devnull, os.O_RDWR)  # Takes the lowest number that is free.


class Console(RichConsole):
    """A console that prints text as it is, without markup; tables too."""

    def __init__(self, **options: Any) -> None:
        options = {"markup": False, "emoji": False, "highlight": False, **options}
        if not sys.stdout.isatty():
            options.setdefault("width", WIDTH_OF_FILES)
        super().__init__(**options)

    def say(self, text: str) -> None:
        """Prints one line, however long."""
        self.print(one_line(text), soft_wrap=True)


def unfolded() -> Console:
    """A console that cuts no path into pieces, but in a terminal that is too narrow for it."""
    return Console() if sys.stdout.isatty() else Console(width=_ANY_WIDTH)


def show_caution(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Prints a warning as one line; takes the place of `warnings.showwarning`."""
    print(f"protonorm: {one_line(str(message))}", file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """The text with what would end the line, or mean something to a terminal, by its number."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "replace").decode()
        for letter in " ".join(text.splitlines())
    )
