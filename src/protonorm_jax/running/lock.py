"""One process at a time in a directory: a lock for shared file systems and several hosts.

The lock is a file, made by linking a complete one to its name, which file systems do once. Its
holder rewrites a counter in it every few seconds. Whether a holder on the same host lives is asked
of the system; of one elsewhere it is seen from whether the counter moves, so that no clocks are
compared. A dead holder's lock is not removed, which could hit the lock of whoever was faster:
its successor links a file that is named after the dead one's token, which again only one can do,
and is then the holder. From the lock's name on, files so named form a chain; who made its last
file holds the lock.
"""

import contextlib
import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from protonorm_jax.errors import UsageError
from protonorm_jax.planning import devices
from protonorm_jax.running import files, holders

_SECONDS_A_BEAT = 2.0
_SECONDS_WITHOUT_LIFE = 30.0
_SECONDS_A_LOOK = 0.25


class InUseError(UsageError):
    """Another process has a directory."""


class Lock:
    """The lock of a directory that exists.

    Args:
      directory: whose.
      place: where this process is.
      without_life: seconds after which a holder elsewhere is given up.
      beat: seconds between signs of life.
      say: told that there is something to wait for.
    """

    def __init__(
        self,
        directory: Path,
        *,
        place: holders.Place | None = None,
        without_life: float = _SECONDS_WITHOUT_LIFE,
        beat: float = _SECONDS_A_BEAT,
        say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
    ) -> None:
        self.directory = directory
        self._name = directory / holders.NAME
        self._place = place or holders.here()
        self._without_life = without_life
        self._beat = beat
        self._say = say
        self._token = ""
        self._record: dict[str, Any] = {}
        self._file = -1
        self._released = threading.Event()
        self._heart: threading.Thread | None = None

    def acquire(self) -> None:
        """Takes the lock, or the place of a holder that is dead.

        Raises:
          UsageError: another process has it; or the directory cannot be written.
        """
        self._token = secrets.token_hex(8)
        self._record = {
            "process": os.getpid(),
            "started": holders.started(os.getpid()),
            **self._place._asdict(),
            "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "token": self._token,
        }
        with files.writing(self.directory):
            while not self._try():
                pass
        self._released.clear()
        self._heart = threading.Thread(target=self._show_life, daemon=True)
        self._heart.start()

    def release(self) -> None:
        """Gives the lock back."""
        self._released.set()
        if self._heart is not None:
            self._heart.join(timeout=self._beat)
        with contextlib.suppress(OSError):
            if self.is_held():
                self._name.unlink(missing_ok=True)
        if self._heart is None or not self._heart.is_alive():
            os.close(self._file)

    def is_held(self) -> bool:
        """Whether nobody has taken this process for dead."""
        last = holders.last_of(self.directory)
        return last is not None and last.token == self._token

    def check(self) -> None:
        """Refuses to go on where another process has taken this one for dead.

        Raises:
          UsageError: the lock is no longer this process's.
        """
        last = holders.last_of(self.directory)
        if last is None or last.token != self._token:
            now = "nobody" if last is None else str(last.holder or "an unknown process")
            raise UsageError(
                f"{self.directory} must stay in use by this process, {os.getpid()}, alone, got a "
                f"lock of {now}"
            )

    def _try(self) -> bool:
        """One attempt; false if something has changed meanwhile."""
        last = holders.last_of(self.directory)
        if last is None:
            return self._make(self._name)
        if not self._is_dead(last):
            return False
        own = self._after(last)
        if not self._make(own):
            return False
        if not self.is_held():  # What it would succeed was given back, or is no longer the last.
            own.unlink(missing_ok=True)
            self._close()
            return False
        os.replace(own, self._name)
        for other in self.directory.glob(f"{holders.NAME}.*"):
            if other != self.directory / f"{holders.NAME}.after-{self._token}":
                other.unlink(missing_ok=True)
        return True

    def _after(self, seen: holders.Seen) -> Path:
        return self.directory / f"{holders.NAME}.after-{seen.token}"

    def _make(self, name: Path) -> bool:
        """Makes a file of this name with this process as holder; false if there is one."""
        whole = self.directory / f"{holders.NAME}.new-{files.unique()}"
        content = self._content(0)
        try:
            self._file = os.open(whole, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
            os.write(self._file, content)
            os.fsync(self._file)
            try:
                os.link(whole, name)
            except (FileExistsError, FileNotFoundError):
                # The answer to a link that was made may have been lost on its way.
                if os.fstat(self._file).st_nlink < 2:
                    self._close()
                    return False
            except OSError:  # A file system without links.
                self._close()
                return self._make_in_place(name, content)
        except OSError:
            self._close()
            raise
        finally:
            whole.unlink(missing_ok=True)
        return True

    def _make_in_place(self, name: Path, content: bytes) -> bool:
        """As `_make`; for a moment the file is there without its content."""
        try:
            self._file = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        except FileExistsError:
            return False
        os.write(self._file, content)
        os.fsync(self._file)
        return True

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _is_dead(self, seen: holders.Seen) -> bool:
        """Whether a lock's holder is dead; false if the lock is another one by now.

        Raises:
          UsageError: it lives.
        """
        holder = seen.holder
        if holder and holder.place == self._place:
            if not holders.lives(holder):
                return True
            raise InUseError(f"{self.directory} is in use by {holder}")
        self._say(
            f"protonorm: waiting up to {self._without_life:.0f} s for a sign of life of "
            f"{holder or 'an unknown process'}, which has {self.directory} in use"
        )
        end = time.monotonic() + self._without_life
        while time.monotonic() < end:
            time.sleep(min(_SECONDS_A_LOOK, self._beat))
            now = holders.last_of(self.directory)
            if now is None or now.token != seen.token:
                return False
            if now.content != seen.content:
                raise InUseError(f"{self.directory} is in use by {holder}")
        return True

    def _show_life(self) -> None:
        """Counts in the lock's file until the lock is given back."""
        count = 0
        while not self._released.wait(self._beat):
            count += 1
            # A disk that is gone for a while is no reason to stop.
            with contextlib.suppress(OSError):
                os.pwrite(self._file, self._content(count), 0)
                os.fsync(self._file)

    def _content(self, count: int) -> bytes:
        return (json.dumps({**self._record, "beat": f"{count:010d}"}) + "\n").encode()


class _Held(NamedTuple):
    """A lock of this process: whose thread, and the lock, if this process is the one that writes.

    A thread may take a lock that it has.
    """

    thread: int
    lock: Lock | None


_held: dict[str, _Held] = {}


@contextlib.contextmanager
def holding(
    directory: Path,
    *,
    fresh: bool = False,
    create: bool = True,
    check: Callable[[Path], None] = lambda directory: None,
    beside: Collection[str] = (),
    covers: Sequence[Path] = (),
    patience: float = 0.0,
) -> Iterator[Path]:
    """Within, no other process is in a directory that is made if need be, nor in a part of it.

    What was made for it goes again at the end if nothing is in there. Of several processes of one
    job the first takes the lock, and the others end with it if it does not get it. A thread that
    has the lock may ask for it again.

    Args:
      directory: to use.
      fresh: take a name that is not in use yet, numbered if need be.
      create: make the directory; without, one that is not there is not locked.
      check: called with the directory as soon as it is locked, by the process that writes.
      beside: names of the parts in which other processes may be.
      covers: other directories that are used under the same lock, see `check`.
      patience: seconds to wait for another process to give the directory back.

    Yields:
      The directory.

    Raises:
      UsageError: it is in use, or cannot be written; or what `check` raises.
    """
    thread = threading.get_ident()
    known = _held.get(os.path.realpath(directory))
    if not fresh and known and known.thread == thread:
        if devices.is_first():
            check(directory)
        yield directory
        return
    made: list[Path] = []
    lock = None
    try:
        if devices.is_first():
            with _telling_the_others(directory):
                if fresh:
                    directory = _make_fresh(directory, made)
                lock = _locked(directory, made, create, patience)
                _check_parts(directory, beside)
                check(directory)
        else:
            _hear_of_the_first(directory)
        keys = [os.path.realpath(path) for path in (directory, *covers)]
        _held.update(dict.fromkeys(keys, _Held(thread, lock)))
        try:
            yield directory
        finally:
            for key in keys:
                del _held[key]
    finally:
        if lock is not None:
            lock.release()
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()


def check(directory: Path) -> None:
    """Refuses to write into a directory whose lock this process had and has lost.

    Args:
      directory: what is locked, or a folder in there; nothing is asked of one without a lock.

    Raises:
      UsageError: another process has taken this one for dead.
    """
    path = Path(os.path.realpath(directory))
    for folder in (path, *path.parents):
        held = _held.get(str(folder))
        if held and held.lock:
            held.lock.check()


def _check_parts(directory: Path, beside: Collection[str]) -> None:
    """Refuses a directory that another process has a part of in use, but parts `beside`.

    Raises:
      UsageError: one is in use.
    """
    folders = [path.parent for path in directory.glob(f"{holders.PARTS}/*/{holders.NAME}")]
    parts = [Lock(folder) for folder in folders if folder.name not in beside]
    if not parts:
        return
    with ThreadPoolExecutor(len(parts)) as pool:  # Signs of life are waited for together.
        taken = [pool.submit(part.acquire) for part in parts]
    for part, one in zip(parts, taken, strict=True):
        if one.exception() is None:
            part.release()
    for one in taken:
        one.result()


def _locked(directory: Path, made: list[Path], create: bool, patience: float) -> Lock | None:
    """The lock of a directory, which is made if need be; adds what was made to `made`."""
    if not create and not directory.is_dir():
        return None
    lock = Lock(directory)
    end = time.monotonic() + patience
    for left in reversed(range(20)):
        try:
            with files.writing(directory):
                if create:
                    made += _make(directory)
            _acquire(lock, end)
            break
        except UsageError as error:
            # Whoever had made the directory may have removed it again.
            if not (create and left and isinstance(error.__cause__, FileNotFoundError)):
                raise
    return lock


def _acquire(lock: Lock, end: float) -> None:
    """Takes a lock, and waits for whoever has it until then."""
    while True:
        try:
            return lock.acquire()
        except InUseError:
            if time.monotonic() >= end:
                raise
            time.sleep(_SECONDS_A_LOOK)


def _make(directory: Path) -> list[Path]:
    """Makes a directory and those above it; returns those that were not there."""
    made = []
    for folder in reversed([directory, *directory.parents]):
        if not folder.is_dir():
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                made.append(folder)
    return made


def _make_fresh(directory: Path, made: list[Path]) -> Path:
    """Makes a directory that nobody has, of this name or a numbered one."""
    with files.writing(directory):
        made += _make(directory.parent)
        for number in range(1, 10_000):
            name = directory.with_name(f"{directory.name}-{number}") if number > 1 else directory
            with contextlib.suppress(FileExistsError):
                name.mkdir()
                made.append(name)
                return name
    raise UsageError(f"--out must be given, got {directory} and all that follow it in use")


@contextlib.contextmanager
def _telling_the_others(directory: Path) -> Iterator[None]:
    """Lets the other processes of a job know whether the first got through."""
    try:
        yield
    except BaseException:
        if devices.has_others():
            devices.agree(0)
        raise
    if devices.has_others():
        devices.agree(1)


def _hear_of_the_first(directory: Path) -> None:
    """Waits for what the first process of the job has to say.

    Raises:
      UsageError: it cannot use the directory.
    """
    if not devices.agree(0):
        raise UsageError(f"--out must be free for the first process, got {str(directory)!r}")
