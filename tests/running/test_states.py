"""Where runs, sweeps and tuned experiments are, told from files and locks that others write."""

import json
import os

import pytest

from protonorm_jax.errors import UsageError
from protonorm_jax.running import directory as places
from protonorm_jax.running import holders, lock, states

CONFIG = {"method": "local", "data": "digits", "seed": 3, "num_clients": 2, "rounds": 10}
LONG_AGO, YET_TO_COME = "2000-01-01T00:00:00Z", "2100-01-01T00:00:00Z"


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def make_run(folder, *, started=None, rows=0, status=None, error=None, after=0, **config):
    """Writes what a run has in its directory at some moment."""
    write(folder / "config.json", CONFIG | config)
    if started:
        described = {"versions": {}, "config_digest": "0", "started": started}
        write(folder / "manifest.json", described | {"goes_on_after": after})
        lines = [json.dumps({"round": number + 1}) for number in range(rows)]
        write(folder / "metrics.jsonl", "".join(f"{line}\n" for line in lines))
    if status:
        summary = {"method": "local", "status": status, "rounds": rows}
        write(folder / "summary.json", summary | ({"error": error} if error else {}))


def make_lock(folder, *, host=None, beat=0, process=2**22 + 1):
    """Writes the lock of a dead process of this host, or of one on another."""
    place = holders.here()
    place = place if host is None else place._replace(host=host, boot="other")
    record = {"process": process, "started": "1", **place._asdict(), "since": LONG_AGO}
    write(folder / holders.NAME, record | {"token": "0123456789abcdef", "beat": f"{beat:010d}"})


def state_of(folder, patience=0.0, looks=1):
    pulse = holders.Pulse(patience)
    for _ in range(looks):
        (entry,) = states.read([folder], pulse)
    return entry


@pytest.fixture
def used(tmp_path):
    """The directory `run`, which this process has in use."""
    folder = tmp_path / "run"
    folder.mkdir()
    own = lock.Lock(folder)
    own.acquire()
    yield folder
    own.release()


@pytest.mark.parametrize(
    ("made", "status"),
    [
        ({"started": LONG_AGO, "rows": 10, "status": "finished"}, "finished"),
        ({"started": LONG_AGO, "rows": 4, "status": "stopped"}, "stopped"),
        ({"started": LONG_AGO, "rows": 4, "status": "interrupted"}, "interrupted"),
        ({"started": LONG_AGO, "status": "failed", "error": "loss is not finite"}, "diverged"),
        ({"started": LONG_AGO, "status": "failed", "error": "no space left"}, "failed"),
        ({"started": LONG_AGO, "rows": 4}, "killed"),
        ({}, "killed"),
    ],
)
def test_a_run_that_nobody_has_in_use(made, status, tmp_path):
    make_run(tmp_path / "run", **made)
    make_lock(tmp_path / "run")  # Of a process that is dead.
    entry = state_of(tmp_path)
    assert (entry.kind, entry.status) == ("run", status)
    assert entry.runs[0].done == made.get("rows", 0) and entry.runs[0].rounds == 10
    assert (entry.holder, entry.runs[0].method, entry.runs[0].seed) == (None, "local", 3)


@pytest.mark.parametrize(
    ("made", "status"),
    [
        ({}, "compiling"),
        ({"started": LONG_AGO, "rows": 4}, "compiling"),  # What it goes on from.
        ({"started": LONG_AGO, "rows": 4, "status": "stopped"}, "compiling"),
        ({"started": YET_TO_COME, "rows": 4}, "running"),
        ({"started": YET_TO_COME, "rows": 10, "status": "finished"}, "finished"),
    ],
)
def test_a_run_that_a_process_has_in_use(made, status, used):
    make_run(used, **made)
    entry = state_of(used)
    assert entry.status == status
    if status != "finished":
        assert entry.holder.process == os.getpid() and entry.runs[0].holder == entry.holder


def test_speed_is_that_of_the_process_which_trains_it(used):
    """Rounds before the checkpoint were not done since it has compiled."""
    make_run(used, started=YET_TO_COME, rows=7, after=4)
    os.utime(used / "manifest.json", (1000, 1000))
    os.utime(used / "metrics.jsonl", (1006, 1006))
    entry = state_of(used)
    assert (entry.speed, entry.seconds_left) == (0.5, 6.0)
    make_run(used, started=YET_TO_COME, rows=4, after=4)
    assert (state_of(used).speed, state_of(used).seconds_left) == (None, None)


def test_a_row_that_is_half_written_is_not_there_yet(used):
    make_run(used, started=YET_TO_COME, rows=2)
    with (used / "metrics.jsonl").open("a") as file:
        file.write('{"round": 3, "head_acc')
    assert state_of(used).runs[0].done == 2


def test_a_process_of_another_host_is_alive_while_its_lock_changes(tmp_path):
    make_run(tmp_path, started=YET_TO_COME, rows=2)
    make_lock(tmp_path, host="other")
    pulse = holders.Pulse(patience=0.0)
    patient = holders.Pulse(patience=60.0)
    assert states.read([tmp_path], patient)[0].status == "running"
    assert not patient.is_certain()
    make_lock(tmp_path, host="other", beat=1)
    assert states.read([tmp_path], patient)[0].status == "running" and patient.is_certain()
    states.read([tmp_path], pulse)
    (entry,) = states.read([tmp_path], pulse)
    assert (entry.status, entry.holder.place.host) == ("silent", "other") and pulse.is_certain()


def make_sweep(folder, runs=5):
    changes = [{"seed": number, "rounds": 10 + number} for number in range(runs)]
    described = {"base": CONFIG, "runs": changes, "runs_per_program": [2], "vmap_runs": 1}
    write(folder / "sweep.json", described)
    rows = [{"run": "0000", "method": "local", "status": "finished", "rounds": 10}]
    rows += [{"run": "0001", "method": "local", "status": "failed", "rounds": 1}]
    write(folder / "results.jsonl", "".join(json.dumps(row) + "\n" for row in rows) + '{"run": "00')
    for number in (0, 1):
        make_run(folder / "runs" / f"{number:04d}", started=LONG_AGO, rows=10, status="finished")
    for number in (2, 3):
        run = folder / "runs" / f"{number:04d}"
        make_run(run, started=YET_TO_COME, rows=5, seed=number, rounds=10 + number)
        os.utime(run / "manifest.json", (1000, 1000))
        os.utime(run / "metrics.jsonl", (1010, 1010))


def test_a_sweep_under_way_and_killed(used):
    make_sweep(used)
    entry = state_of(used)
    counts = {"waiting": 1, "running": 2, "diverged": 1, "finished": 1}
    assert (entry.kind, entry.status, states.counts(entry.runs)) == ("sweep", "running", counts)
    assert [run.rounds for run in entry.runs] == [10, 11, 12, 13, 14]
    assert entry.speed == 1.0 and entry.seconds_left == (12 - 5) + (13 - 5) + 14
    assert entry.holder.process == os.getpid()


def test_a_sweep_that_nobody_has_in_use(tmp_path):
    make_sweep(tmp_path)
    make_lock(tmp_path)
    entry = state_of(tmp_path)
    assert entry.status == "killed" and states.counts(entry.runs)["killed"] == 2
    for number in (2, 3, 4):
        make_run(tmp_path / "runs" / f"{number:04d}", started=LONG_AGO, rows=9, status="finished")
    assert state_of(tmp_path).status == "finished"
    (tmp_path / holders.NAME).unlink()
    (tmp_path / "runs" / "0004" / "summary.json").unlink()
    (tmp_path / "runs" / "0004" / "config.json").unlink()
    assert state_of(tmp_path).status == "stopped"  # Between two runs: the next has not begun.


def test_runs_of_a_sweep_wait_for_each_other(used):
    """What an earlier process has left unfinished comes when it is its turn."""
    make_sweep(used)
    make_run(used / "runs" / "0003", started=LONG_AGO, rows=2, status="stopped")
    assert state_of(used).runs[3].status == "waiting"


def test_a_tuned_experiment_counts_its_two_sweeps(used):
    cell = {"changes": {}, "ranges": {"learning_rate": {"values": [0.1, 0.2]}}}
    cell |= {"points": [{"learning_rate": 0.1}, {"learning_rate": 0.2}]}
    described = {"format": 1, "tune": 2, "runs_per_program": 0, "rounds": 4, "seeds": [7, 8]}
    described |= {"final_seeds": [0, 1, 2], "learning_rates": [0.1, 0.2], "data_digests": ["0"]}
    described |= {"cells": [cell], "base": CONFIG, "vmap_runs": 0}
    write(used / "tuning.json", described)
    entry = state_of(used)
    assert (entry.kind, entry.status) == ("tuned", "compiling")
    assert (entry.num_tried, len(entry.runs)) == (4, 7)
    assert [run.rounds for run in entry.runs] == [4] * 4 + [10] * 3
    make_sweep(used / "tuning")
    inner = lock.Lock(used / "tuning")
    inner.acquire()
    entry = state_of(used)
    inner.release()
    assert (entry.status, entry.num_tried, len(entry.runs)) == ("running", 5, 8)


def test_a_run_on_its_way_to_more_rounds(used):
    make_run(used, started=LONG_AGO, rows=10, status="finished")
    make_run(used / places.LONGER, started=YET_TO_COME, rows=12, rounds=20)
    (run,) = state_of(used).runs
    assert (run.status, run.done, run.rounds, run.directory) == ("running", 12, 20, used)


def test_a_run_that_gives_way_to_another(tmp_path):
    make_run(tmp_path, started=LONG_AGO, rows=10, status="finished")
    new = {"name": "config.json", "content": CONFIG | {"rounds": 77}, "moved": []}
    write(tmp_path / places.REPLACEMENT, new)
    entry = state_of(tmp_path)
    assert (entry.status, entry.runs[0].done, entry.runs[0].rounds) == ("killed", 0, 77)


@pytest.mark.parametrize("name", ["summary.json", "manifest.json", "metrics.jsonl"])
def test_what_cannot_be_read_is_said(name, used):
    status = "finished" if name == "summary.json" else None
    make_run(used, started=YET_TO_COME, rows=2, status=status)
    write(used / "curves.png", "")
    write(used / name, "garbage\n")
    if name == "manifest.json":  # Then it could be a copy of a config, but for the other files.
        (used / "curves.png").unlink()
    entry = state_of(used)
    assert entry.status == "damaged" and name in entry.error


def test_everything_below_is_found_and_nothing_is_changed(used):
    top = used.parent
    make_run(used, started=YET_TO_COME, rows=2)
    make_sweep(top / "a" / "sweep")
    make_run(top / "a" / ".hidden" / "run", started=LONG_AGO)
    make_run(top / "b" / "c", started=LONG_AGO, rows=1, status="stopped")
    (top / "b" / "up").symlink_to(top)
    write(top / "b" / "config.json", {"other": 1})

    def contents():
        files = [path for path in top.rglob("*") if path.is_file() and path.name != holders.NAME]
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    before = contents()
    found = states.read([top], holders.Pulse())
    assert [(str(one.directory.relative_to(top)), one.kind) for one in found] == [
        ("a/sweep", "sweep"),
        ("b/c", "run"),
        ("run", "run"),
    ]
    assert contents() == before


@pytest.mark.parametrize("name", ["nowhere", "empty", "file"])
def test_a_directory_without_anything_of_ours(name, tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "file", "")
    with pytest.raises(UsageError, match=f"^DIR must (be|have) .*{name}'$"):
        states.read([tmp_path / name], holders.Pulse())
