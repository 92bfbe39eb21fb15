"""Numpy's files, `.npy` within `.npz`, read as what they are: untrusted.

numpy believes a header, and a zip file its own list of contents. Here what they declare is compared
with the file's length before anything is allocated.
"""

import contextlib
import io
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from protonorm_jax.data import checks, limits, pickles
from protonorm_jax.errors import UsageError

MAX_DIRECTORY = 2**20
"""Bytes of the list of contents of an archive, which is read whole: some thousand arrays."""

_ALLOWED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,
}


class Archive:
    """An open `.npz` file; a context manager."""

    def __init__(self, path: Path) -> None:
        """Opens it and reads the list of what is in it.

        Raises:
          UsageError: it is missing or no such archive.
        """
        self.path = path
        with contextlib.ExitStack() as stack, checks.reading(path):
            checks.regular(path)
            file = stack.enter_context(open(path, "rb"))
            start = file.read(6)
            if start == np.lib.format.MAGIC_PREFIX:
                raise UsageError(f"{path} must be a .npz archive, got a single array (.npy)")
            if start[:2] != b"PK":
                raise UsageError(f"{path} must be a .npz archive, got {_begun(start)}")
            short = _Short(file)
            self._zip = stack.enter_context(zipfile.ZipFile(short))
            short.is_open = True
            self._members = {
                member.filename.removesuffix(".npy"): member for member in self._zip.infolist()
            }
            self._open = stack.pop_all()
        self.names = list(self._members)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def check(self, names: Iterable[str]) -> int:
        """Refuses arrays that together unpack to more than they should.

        Args:
          names: of arrays in it.

        Returns:
          How many bytes they unpack to.

        Raises:
          UsageError: they do, or are packed in a way that numpy does not write.
        """
        members = [self._members[name] for name in dict.fromkeys(names)]
        for member in members:
            if member.compress_type not in _ALLOWED:
                raise UsageError(
                    f"{self.path} must be stored or deflated, as numpy.savez writes it, got "
                    f"compression {member.compress_type}"
                )
        unpacked = sum(member.file_size for member in members)
        stored = sum(member.compress_size for member in members)
        limits.check_unpacked(self.path, unpacked, min(stored, self.path.stat().st_size))
        return unpacked

    def read(self, name: str, *, pickled: bool = False) -> Any:
        """Reads one array.

        Args:
          name: of the array.
          pickled: whether it may be pickled (see `pickles`); what the pickle holds is returned.

        Raises:
          UsageError: it cannot be read, or is no array of numbers or strings.
        """
        self.check([name])
        member = self._members[name]
        with checks.reading(self.path), self._zip.open(member) as file:
            return read_npy(file, member.file_size, f"{self.path}: {name}", pickled=pickled)


class _Short(io.RawIOBase):
    """A file of which no large part is read at once while it is opened: a list of contents is."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.is_open = False

    def read(self, size: int | None = -1) -> bytes:
        if self.is_open:
            return self._file.read(-1 if size is None else size)
        asked = MAX_DIRECTORY + 1 if size is None or size < 0 else min(size, MAX_DIRECTORY + 1)
        content = self._file.read(asked)
        if len(content) > MAX_DIRECTORY:
            raise ValueError("an archive of too many files")
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


def read_npy(file: Any, size: int, place: str, *, pickled: bool = False) -> Any:
    """Reads one array.

    Args:
      file: with `read` and `readinto`, at the start of the array.
      size: how many bytes it is said to have.
      place: what messages name.
      pickled: whether it may be pickled; what the pickle holds is returned then.

    Returns:
      The array, by rows and in the byte order of this machine.

    Raises:
      UsageError: it is broken, not as long as its header says, or holds anything else.
    """
    with checks.reading(place):
        begin = file.read(8)
        version = tuple(begin[6:])
        if begin[:6] != np.lib.format.MAGIC_PREFIX or version not in _HEADERS:
            raise UsageError(f"{place} must be an array of numpy, got {_begun(begin)}")
        shape, by_column, dtype = _header(file, version)
        left = size - file.tell()
        if dtype.hasobject and dtype.names is None:
            if not pickled:
                raise UsageError(f"{place} must hold no pickled objects (dtype object)")
            return pickles.load(file.read(left), place)
        if dtype.names is not None or dtype.subdtype is not None or dtype.kind not in "biufUS":
            raise UsageError(f"{place} must hold plain numbers, got dtype {limits.shown(dtype)}")
        needed = limits.num_bytes(place, shape, dtype.itemsize)
        if needed != left:
            raise UsageError(
                f"{place} must be as long as its header {list(shape)} of {dtype} says, {needed} "
                f"bytes, got {left}"
            )
        limits.check_memory(place, needed)
        array = np.empty(shape, dtype, order="F" if by_column else "C")
        if limits.read_into(file, array.T if by_column else array) < needed:
            raise EOFError("ends within an array")
        if file.read(1):  # Also has the checksum compared.
            raise ValueError("more bytes than it says")
    return np.ascontiguousarray(array, dtype.newbyteorder("=")).reshape(shape)


def _header(file: Any, version: tuple[int, ...]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether by column, and dtype."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of headers of Python 2, and of odd text.
            return _HEADERS[version](file)  # type: ignore[index]
    except Exception as error:  # numpy parses it as Python, which raises about anything.
        raise ValueError(f"a header that is none ({error})") from error


def _begun(start: bytes) -> str:
    return f"first bytes {start.hex(' ')}" if start else "an empty file"
