"""Locks: one holder, also after kills, on other hosts, in races, and on odd file systems."""

import json
import os
import pathlib
import subprocess
import sys
import threading
import time
import zlib

import pytest

from protonorm_jax.errors import UsageError
from protonorm_jax.running import holders, lock

HERE = holders.here()
ELSEWHERE = HERE._replace(host="elsewhere", boot="another")


def make(directory, said=None, **options):
    said = [] if said is None else said
    return lock.Lock(directory, **{"without_life": 0.6, "beat": 0.05, "say": said.append} | options)


def leave(directory, **changes):
    """The lock of a process that was killed; returns what is in it."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    record = {
        "process": ended.pid,
        "started": "1",
        **HERE._asdict(),
        "since": "2026-01-02T03:04:05Z",
        "token": "0123456789abcdef",
        "beat": "0000000007",
    }
    content = json.dumps(record | changes) + "\n"
    (directory / holders.NAME).write_text(content)
    return content


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_second_holder_is_refused_at_once_and_comes_after_the_first(tmp_path):
    first, second = make(tmp_path), make(tmp_path)
    first.acquire()
    began = time.monotonic()
    with pytest.raises(UsageError) as caught:
        second.acquire()
    assert time.monotonic() - began < 0.5
    since = json.loads((tmp_path / holders.NAME).read_text())["since"]
    process = f"process {os.getpid()} on {HERE.host}"
    assert str(caught.value) == f"{tmp_path} is in use by {process} since {since}"
    assert names(tmp_path) == [holders.NAME]
    first.release()
    assert names(tmp_path) == []
    second.acquire()
    second.release()


def test_a_dead_holder_on_this_host_is_no_obstacle(tmp_path):
    """Gone, its number taken by another process, or dead and not yet buried by its parent."""
    zombie = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    started = holders.started(zombie.pid)
    zombie.kill()
    while holders.lives(holders.Holder(zombie.pid, started, HERE, "")):
        time.sleep(0.01)
    assert zombie.returncode is None
    for changes in (
        {},
        {"process": os.getpid(), "started": "1"},
        {"process": zombie.pid, "started": started},
    ):
        leave(tmp_path, **changes)
        said = []
        ours = make(tmp_path, said, without_life=60)
        began = time.monotonic()
        ours.acquire()
        assert time.monotonic() - began < 0.5 and said == []
        assert names(tmp_path) == [holders.NAME]
        ours.release()
    zombie.wait()
    leave(tmp_path, process=os.getpid(), started=holders.started(os.getpid()))
    with pytest.raises(UsageError, match="is in use by process"):
        make(tmp_path).acquire()


def test_a_holder_elsewhere_is_seen_alive_by_its_counter(tmp_path):
    """Whatever its clock says, and as soon as it moves."""
    theirs = make(tmp_path, place=ELSEWHERE, beat=0.1)
    theirs.acquire()
    os.utime(tmp_path / holders.NAME, (1, 1))
    said, began = [], time.monotonic()
    with pytest.raises(UsageError, match=r"is in use by process \d+ on elsewhere since 20"):
        make(tmp_path, said, without_life=30).acquire()
    assert time.monotonic() - began < 5
    assert len(said) == 1 and "waiting up to 30 s for a sign of life of process" in said[0]
    theirs.release()


@pytest.mark.parametrize(
    "place", [ELSEWHERE, HERE._replace(boot="other"), HERE._replace(processes="pid:[1]")]
)
def test_a_holder_elsewhere_that_shows_no_life_is_given_up(tmp_path, place):
    """The same number on another host, or before the host started anew, means another process."""
    leave(tmp_path, **place._asdict())
    said, began = [], time.monotonic()
    ours = make(tmp_path, said)
    ours.acquire()
    assert 0.6 <= time.monotonic() - began < 5 and len(said) == 1
    ours.check()
    ours.release()
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"token": "../../x"}', b"[1]", b"\xff\xfe"])
def test_a_damaged_lock_is_given_up_too(tmp_path, content):
    (tmp_path / holders.NAME).write_bytes(content)
    said = []
    ours = make(tmp_path, said)
    ours.acquire()
    assert "an unknown process" in said[0]
    ours.release()
    assert names(tmp_path) == []


@pytest.mark.parametrize("stale", ["dead here", "dead elsewhere", "empty", "none"])
def test_of_many_at_once_one_wins(tmp_path, stale):
    """Time and again: all find the same lock of a dead holder, or none."""
    for _ in range(4):
        if stale == "empty":
            (tmp_path / holders.NAME).write_bytes(b"")
        elif stale != "none":
            leave(tmp_path, **(ELSEWHERE if "elsewhere" in stale else HERE)._asdict())
        barrier, won, lost = threading.Barrier(8), [], []

        def contend(barrier=barrier, won=won, lost=lost):
            ours = make(tmp_path, without_life=0.3, beat=0.02)
            barrier.wait()
            try:
                ours.acquire()
            except UsageError as error:
                lost.append(str(error))
            else:
                won.append(ours)

        threads = [threading.Thread(target=contend) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1 and len(lost) == 7
        assert all("is in use by process" in one for one in lost)
        won[0].check()
        won[0].release()
        assert names(tmp_path) == []


def test_only_one_has_it_at_any_time(tmp_path):
    """Many take it and give it back, and some die without giving it back."""
    inside, most, times = [0], [0], [0]
    guard = threading.Lock()

    def work(number):
        for turn in range(12):
            ours = make(tmp_path, place=HERE if number % 2 else ELSEWHERE, without_life=0.2)
            try:
                ours.acquire()
            except UsageError:
                continue
            with guard:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                times[0] += 1
            time.sleep(0.002)
            with guard:
                inside[0] -= 1
            if turn % 5 == 4:  # As if killed: the lock stays, and nothing moves in it.
                ours._released.set()
                ours._heart.join()
                content = json.loads((tmp_path / holders.NAME).read_text())
                dead = json.dumps(content | {"started": "1"}) + "\n"
                os.pwrite(ours._file, dead.encode().ljust(len(ours._content(0)), b"\n"), 0)
            else:
                ours.release()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1 and times[0] >= 8


def test_a_claim_that_was_cut_short_is_succeeded(tmp_path):
    """Killed between the two files that take the place of a dead holder's."""
    leave(tmp_path)
    claim = tmp_path / f"{holders.NAME}.after-0123456789abcdef"
    (tmp_path / holders.NAME).rename(claim)
    claim.write_text(claim.read_text().replace("0123456789abcdef", "fedcba9876543210"))
    leave(tmp_path)
    (tmp_path / f"{holders.NAME}.new-1-00000000").write_text("x")
    ours = make(tmp_path)
    ours.acquire()
    assert names(tmp_path) == [holders.NAME]
    ours.check()
    ours.release()
    assert names(tmp_path) == []


def test_a_claim_upon_a_lock_that_was_given_back_is_worth_nothing(tmp_path, monkeypatch):
    """Somebody else has the lock by the time that the claim is made."""
    leave(tmp_path)
    ours, others = make(tmp_path), make(tmp_path, place=ELSEWHERE)
    make_file = ours._make

    def late(name):
        monkeypatch.setattr(ours, "_make", make_file)
        (tmp_path / holders.NAME).unlink()
        others.acquire()
        return make_file(name)

    monkeypatch.setattr(ours, "_make", late)
    with pytest.raises(UsageError, match=r"is in use by process .* on elsewhere"):
        ours.acquire()
    others.check()
    others.release()
    assert names(tmp_path) == []


def test_who_was_taken_for_dead_writes_no_more(tmp_path):
    """As after a pause that was too long."""
    with lock.holding(tmp_path / "run") as directory:
        (directory / "runs" / "0001").mkdir(parents=True)
        lock.check(directory)
        leave(directory)
        for folder in (directory, directory / "runs" / "0001"):
            with pytest.raises(UsageError, match=r"must stay in use by this process, \d+, alone"):
                lock.check(folder)
    # Another's lock is not given back.
    assert (tmp_path / "run" / holders.NAME).exists()
    lock.check(tmp_path)


def test_without_hard_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    test_of_many_at_once_one_wins(tmp_path, "dead elsewhere")
    test_a_second_holder_is_refused_at_once_and_comes_after_the_first(tmp_path)


def test_a_directory_is_made_and_goes_again_if_it_stays_empty(tmp_path):
    wanted = tmp_path / "a" / "b"
    with lock.holding(wanted) as directory:
        assert names(directory) == [holders.NAME]
        with lock.holding(wanted):  # A thread may ask twice.
            pass
        assert names(directory) == [holders.NAME]
    assert names(tmp_path) == []
    with pytest.raises(ValueError), lock.holding(wanted):
        raise ValueError
    assert names(tmp_path) == []
    with lock.holding(wanted) as directory:
        (directory / "x").touch()
    assert names(wanted) == ["x"]
    with lock.holding(tmp_path / "none", create=False):
        assert not (tmp_path / "none").exists()


def test_what_is_checked_is_checked_under_the_lock(tmp_path):
    seen = []

    def refuse(directory):
        seen.append(names(directory))
        raise UsageError("no")

    with pytest.raises(UsageError, match="no"), lock.holding(tmp_path / "new", check=refuse):
        pass
    assert seen == [[holders.NAME]] and names(tmp_path) == []


def test_fresh_directories_differ(tmp_path):
    """Also of those that are made at once."""
    found, barrier = [], threading.Barrier(6)

    def take():
        barrier.wait()
        with lock.holding(tmp_path / "runs" / "one", fresh=True) as directory:
            (directory / "x").touch()
            found.append(directory.name)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["one", *(f"one-{number}" for number in range(2, 7))]


def test_other_threads_are_others(tmp_path):
    with lock.holding(tmp_path):
        errors = []

        def other():
            try:
                with lock.holding(tmp_path):
                    pass
            except UsageError as error:
                errors.append(str(error))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(errors) == 1 and f"is in use by process {os.getpid()}" in errors[0]


@pytest.mark.skipif(not pathlib.Path("/proc/version").exists(), reason="the system has no /proc")
def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (file := tmp_path / "file").touch()
    for place in (file, file / "below", "/proc/new"):
        refused = pytest.raises(UsageError, match=r"--out must be writable, got")
        with refused, lock.holding(pathlib.Path(place)):
            pass


def test_damaged_contents_have_tokens_of_their_own():
    seen = holders.parse(b'{"token": "0123456789abcdef", "process": "x"}')
    assert seen.holder is None and seen.token == f"damaged-{zlib.crc32(seen.content):08x}"
