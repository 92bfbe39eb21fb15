"""Signals and limits of time."""

import argparse
import signal
import time

import pytest

from protonorm_jax.command import cli, commands, values
from protonorm_jax.running import stopping
from protonorm_jax.running.stopping import StopRequest


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_a_signal_is_heard_by_all_that_are_within_each_other(number):
    before = signal.getsignal(number)
    with StopRequest() as outer:
        with StopRequest() as inner:
            assert not inner.asked
            signal.raise_signal(number)
            assert inner.asked and outer.asked
        with StopRequest() as later:
            assert later.asked
    assert signal.getsignal(number) == before
    with StopRequest() as after:
        assert not after.asked


@pytest.mark.parametrize("command", ["run", "sweep", "resume"])
def test_a_signal_is_heard_before_a_command_has_been_read(command, monkeypatch):
    def read(arguments):
        signal.raise_signal(signal.SIGUSR1)
        with StopRequest() as stop:
            return argparse.Namespace(command=lambda parsed: 75 if stop.asked else 0)

    monkeypatch.setattr(commands, "parse", read)
    assert cli.main([command]) == stopping.EXIT_CODE
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_a_limit_of_time_is_seen_beforehand(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with StopRequest(60.0) as outer, StopRequest() as inner:
        for stop in (outer, inner):
            assert not stop.asked and not stop.asked_within(59.0) and stop.asked_within(60.0)
        now += 60.0
        assert outer.asked and inner.asked


@pytest.mark.parametrize(
    ("text", "found"),
    [("3h50m", 13800.0), ("90m", 5400.0), ("1d12h", 129600.0), ("45s", 45.0), ("1h1s", 3601.0)],
)
def test_times_as_people_write_them(text, found):
    assert values.duration(text) == found


@pytest.mark.parametrize("text", ["", "0s", "3", "50m3h", "-1h", "1.5h", "3h 50m", "٣h"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="must be a time such as 3h50m"):
        values.duration(text)
