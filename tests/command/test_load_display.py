"""How it is shown that a data set is read: not at all, in lines, or as a bar."""

import io

import pytest
from rich.console import Console

from protonorm_jax import data
from protonorm_jax.command import progress
from protonorm_jax.config import Config


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def shown(terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=80, _environ={})


def read(clock, seconds, what="decoding images"):
    """Acts as `data.load` does while it reads a set of so many seconds."""
    tell = data._watcher.get()
    for second in range(seconds + 1):
        tell(what, 1000 * (second + 1), 1000 * (seconds + 1))
        clock[0] += 1.0


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_read_at_once_is_read_without_a_word(clock, terminal):
    console = shown(terminal)
    with progress.LoadDisplay(console):
        read(clock, 1, "reading files, MiB")
        read(clock, 1)
    assert console.file.getvalue() == ""
    assert data._watcher.get() is None


def test_elsewhere_a_line_now_and_then(clock):
    console = shown(False)
    with progress.LoadDisplay(console):
        read(clock, 12)
        read(clock, 1)
    assert console.file.getvalue().splitlines() == [
        "decoding images: 3,000/13,000",
        "decoding images: 8,000/13,000",
        "decoding images: 13,000/13,000",
    ]


def test_in_a_terminal_a_bar_that_goes_away(clock):
    console = shown(True)
    display = progress.LoadDisplay(console)
    with display:
        read(clock, 3, "reading files, MiB")
        assert not display._progress.tasks
        tell = data._watcher.get()
        tell("decoding images", 1, 10)
        assert not display._progress.tasks[0].visible
        clock[0] += 2.0
        tell("decoding images", 4, 10)
        (task,) = display._progress.tasks
        assert (task.visible, task.completed, task.total) == (True, 4, 10)
        assert task.description == "decoding images"
        assert display._progress.live.is_started
    assert not display._progress.live.is_started


def test_among_the_bars_of_a_run(clock):
    console = shown(True)
    with progress.RunDisplay(Config(rounds=5), console) as display:
        tell = data._watcher.get()
        tell("decoding images", 1, 10)
        clock[0] += 3.0
        tell("decoding images", 4, 10)
        described = [task.description for task in display._progress.tasks if task.visible]
        assert described == ["compiling", "decoding images"]
        tell("decoding images", 10, 10)
        assert [task.description for task in display._progress.tasks] == ["compiling"]
    assert data._watcher.get() is None
