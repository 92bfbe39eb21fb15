"""Who has a directory in use: the files of locks, as anybody may read them; see `lock`."""

import contextlib
import json
import os
import re
import socket
import time
import zlib
from pathlib import Path
from typing import NamedTuple

import psutil

NAME = ".protonorm.lock"
PARTS = "shards"  # Folders in there may be in use each by a process of its own.


class Place(NamedTuple):
    """Where a number means one process.

    Attributes:
      host: its name.
      boot: what changes whenever the system starts, or nothing where that is not known.
      processes: of a container, the name of its own count of processes.
    """

    host: str
    boot: str
    processes: str


class Holder(NamedTuple):
    """Who holds a lock.

    Attributes:
      process: its number.
      started: when the process began, in units that mean something to its system only.
      place: where it runs.
      since: when it took the lock, by the clock there.
    """

    process: int
    started: str
    place: Place
    since: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.place.host} since {self.since}"


class Seen(NamedTuple):
    """A file of the chain.

    Attributes:
      content: all of it.
      token: what names the lock; made of the content where that is damaged.
      holder: None where it is damaged.
    """

    content: bytes
    token: str
    holder: Holder | None


def last_of(directory: Path) -> Seen | None:
    """The last file of the chain, whose maker holds the lock; None where nobody does."""
    seen, path = None, directory / NAME
    while True:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return seen
        seen = parse(content)
        path = directory / f"{NAME}.after-{seen.token}"


def holder_of(directory: Path) -> Holder | None:
    """Who has a directory in use, as far as can be told without waiting.

    A holder on another host may be dead.
    """
    try:
        seen = last_of(directory)
    except OSError:
        return None
    if seen is None or seen.holder is None:
        return None
    return seen.holder if seen.holder.place != here() or lives(seen.holder) else None


FREE, DEAD, SILENT, ALIVE = "free", "dead", "silent", "alive"


class Use(NamedTuple):
    """Whether a directory is in use.

    Attributes:
      life: `FREE` without a lock, else that of its holder: `DEAD`, `ALIVE`, or `SILENT` where it is
        of another host, or not known, and cannot be told.
      holder: who, unless dead.
    """

    life: str
    holder: Holder | None = None

    @property
    def is_over(self) -> bool:
        """Whether nobody has it in use."""
        return self.life in (FREE, DEAD)


class Pulse:
    """Whether directories are in use, also by other hosts: their locks change while one looks.

    Args:
      patience: seconds without a change after which a holder on another host is silent.
    """

    def __init__(self, patience: float = 5.0) -> None:
        self._patience = patience
        self._here = here()
        # By token: the content, when it was first seen or has last changed, and whether it has.
        self._seen: dict[str, tuple[bytes, float, bool]] = {}

    def of(self, *directories: Path) -> Use:
        """The use of something that is locked by either of some directories."""
        uses = [Use(FREE)]
        for directory in directories:
            with contextlib.suppress(OSError):
                seen = last_of(directory)
                if seen is not None:
                    life = self._life(seen)
                    uses.append(Use(life, None if life == DEAD else seen.holder))
        return max(uses, key=lambda use: (FREE, DEAD, SILENT, ALIVE).index(use.life))

    def is_certain(self) -> bool:
        """Whether looking again would tell no more."""
        now = time.monotonic()
        return all(
            changed or now - since >= self._patience for _, since, changed in self._seen.values()
        )

    def _life(self, seen: Seen) -> str:
        if seen.holder is not None and seen.holder.place == self._here:
            return ALIVE if lives(seen.holder) else DEAD
        now = time.monotonic()
        before = self._seen.get(seen.token)
        if before is None or before[0] != seen.content:
            before = (seen.content, now, before is not None)
            self._seen[seen.token] = before
        if seen.holder is None:  # Damaged, or only just being written.
            return SILENT
        return ALIVE if now - before[1] < self._patience else SILENT


def parse(content: bytes) -> Seen:
    """What a file of the chain says; nothing of it is believed if it is not as it was written."""
    try:
        found = json.loads(content)
        token, began, since = (str(found[name]) for name in ("token", "started", "since"))
        place = Place(*(str(found[name]) for name in Place._fields))
        if re.fullmatch(r"[0-9a-f]{16}", token):
            return Seen(content, token, Holder(int(found["process"]), began, place, since))
    except (ValueError, KeyError, TypeError):
        pass
    return Seen(content, f"damaged-{zlib.crc32(content):08x}", None)


def here() -> Place:
    """Where this process is."""
    boot, processes = "", ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with contextlib.suppress(OSError):
        processes = os.readlink("/proc/self/ns/pid")
    return Place(socket.gethostname(), boot, processes)


def started(process: int) -> str:
    """When a process began: as Linux counts, which no clock that is set changes; else seconds.

    Raises:
      psutil.NoSuchProcess: there is none.
      psutil.AccessDenied: this user may not know.
    """
    with contextlib.suppress(OSError, IndexError):
        # The name of the program, in brackets, may hold anything.
        text = Path(f"/proc/{process}/stat").read_text(errors="replace")
        return text.rpartition(")")[2].split()[19]
    return f"{psutil.Process(process).create_time():.0f}"


def lives(holder: Holder) -> bool:
    """Whether a process of this place lives, and is not another one with the same number."""
    try:
        ended = psutil.Process(holder.process).status() in (
            psutil.STATUS_ZOMBIE,
            psutil.STATUS_DEAD,
        )
        return not ended and started(holder.process) == holder.started
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
