"""Files that are whole or not there, also after a kill or a power cut."""

import contextlib
import errno
import json
import math
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from protonorm_jax.errors import UsageError

# What a process that was killed may leave of a file: named so now, and by older versions.
_TEMPORARY = re.compile(r"\..+\.(\d+-[0-9a-f]{8}\.)?tmp")


@contextlib.contextmanager
def writing(directory: Path, flag: str = "--out") -> Iterator[None]:
    """Turns a failure to write into a `UsageError`, which names the flag that gave the place."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{flag} must be writable, got {str(directory)!r}: {error}") from error


@contextlib.contextmanager
def replacing(path: Path, *, parents: bool = False) -> Iterator[BinaryIO]:
    """A file that appears under its name only once it is complete and on the disk.

    Args:
      path: of the file.
      parents: whether folders that are missing above it are made.
    """
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:100]}.{unique()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def unique() -> str:
    """Part of a file's name that no other process takes, on this host or another."""
    return f"{os.getpid()}-{secrets.token_hex(4)}"


def write_json(path: Path, value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Writes a JSON file, whole or not at all; numbers that JSON does not have become null."""
    with replacing(path) as file:
        file.write((json.dumps(finite(value), indent=2, allow_nan=False) + "\n").encode())


def line(row: Mapping[str, Any]) -> bytes:
    """A row as a line of a `.jsonl` file."""
    return (json.dumps(finite(row), allow_nan=False) + "\n").encode()


def append_line(path: Path, row: Mapping[str, Any], *, sync: bool = True) -> None:
    """Adds a line to a file, whole or not at all.

    Args:
      path: of the file.
      row: what the line holds.
      sync: whether to wait until the disk has it.

    Raises:
      UsageError: it cannot be written.
    """
    with writing(path.parent), open(path, "ab", buffering=0) as file:
        size, content = file.tell(), line(row)
        try:
            if file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if sync:
                os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def finite(value: Any) -> Any:
    """The same, with None for every number that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [finite(one) for one in value]
    return value


def sync_file(path: Path) -> None:
    """Waits until the disk has what was written to a file."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Has the disk remember which files a folder holds, where the file system can be asked to."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_temporary(path: Path) -> bool:
    """Whether a file was never finished, by its name."""
    return bool(_TEMPORARY.fullmatch(path.name))


def remove_temporary(folder: Path, names: Sequence[str]) -> None:
    """Removes what killed processes have left unfinished of the files with these names."""
    for path in folder.glob(".*.tmp"):
        if is_temporary(path) and any(path.name.startswith(f".{name}.") for name in names):
            path.unlink(missing_ok=True)
