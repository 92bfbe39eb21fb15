"""Ctrl-C at moments when Python would drop it."""

import gc
import signal
import time

import pytest

from protonorm_jax.command import interruption


@pytest.fixture(autouse=True)
def ordinary():
    """Tests started in the background inherit that Ctrl-C is to be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt(*_):
    signal.raise_signal(signal.SIGINT)
    time.sleep(0)  # The handler has run by now.


class Finalised:
    def __del__(self):
        interrupt()


def at_the_end(phase, info):
    if phase == "stop":
        interrupt()


def in_a_collection():
    gc.callbacks.append(at_the_end)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(at_the_end)


def in_a_finaliser():
    Finalised()


@pytest.mark.parametrize("moment", [interrupt, in_a_collection, in_a_finaliser])
def test_an_interruption_arrives(moment):
    with pytest.raises(KeyboardInterrupt), interruption.certain():
        moment()
        time.sleep(10)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_meaning_of_ctrl_c_is_left_alone():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruption.certain():
        interrupt()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
