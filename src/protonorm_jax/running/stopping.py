"""When a process is to stop before its work is done: a signal, or a limit of time."""

import signal
import threading
import time
from types import FrameType
from typing import Any

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: not finished, and to be tried again.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Takes note of what asks a process to stop; a context manager.

    SIGTERM is sent before a machine is taken away, SIGUSR1 by schedulers that are told to warn. One
    within another hears of what the outer one was told.

    Args:
      seconds: after which to stop, counted from now; None for no limit.

    Attributes:
      longest_compilation: seconds that the longest so far has taken, during which nobody can stop.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self.longest_compilation = 0.0
        self._noted = False
        self._outer: StopRequest | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
            outer = getattr(self._previous[signal.SIGTERM], "__self__", None)
            self._outer = outer if isinstance(outer, StopRequest) else None
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def asked(self) -> bool:
        """Whether it is time to stop."""
        return self.asked_within(0.0)

    def asked_within(self, seconds: float) -> bool:
        """Whether a signal has come, or the limit of time will have passed in so many seconds."""
        if self._noted or (self._outer is not None and self._outer.asked_within(seconds)):
            return True
        return self._deadline is not None and time.monotonic() + seconds >= self._deadline

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._outer is not None:  # What goes on after this one must stop, too.
            self._outer._note(number, frame)
        self._noted = True
