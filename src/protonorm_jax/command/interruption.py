"""Ctrl-C that is never lost."""

import contextlib
import gc
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_DELAY = 0.01
"""Seconds after which an interruption that came at a bad moment is tried again."""


@contextlib.contextmanager
def certain() -> Iterator[None]:
    """Within, Ctrl-C raises `KeyboardInterrupt` where somebody can catch it.

    Python drops whatever is raised in callbacks of the garbage collector, of which jax has one, and
    in finalisers. An interruption that falls into one of these is put off until they are done.
    Does nothing outside of the main thread, or where Ctrl-C has another meaning.
    """
    ordinary = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not ordinary or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _is_lost_in(frame):
        main = threading.main_thread().ident
        # Sent to the main thread, it also wakes it where it sleeps.
        timer = threading.Timer(_DELAY, signal.pthread_kill, [main, number])
        timer.daemon = True
        timer.start()
    else:
        signal.default_int_handler(number, frame)


def _is_lost_in(frame: FrameType | None) -> bool:
    """Whether an exception raised in a frame would be dropped."""
    callbacks = {getattr(callback, "__code__", None) for callback in gc.callbacks}
    while frame is not None:
        if frame.f_code in callbacks or frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False
