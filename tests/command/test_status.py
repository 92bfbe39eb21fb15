"""`protonorm status` as a person sees it; what it tells is in tests/running/test_states.py."""

import json
import os

import pytest

from protonorm_jax import report
from protonorm_jax.command import cli, status
from protonorm_jax.running import holders, lock

CONFIG = {"method": "local", "data": "digits", "seed": 3, "num_clients": 2, "rounds": 1000}


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def finish(folder, rounds=1000):
    summary = {"method": "local", "status": "finished", "rounds": rounds}
    write(folder / "summary.json", summary)


@pytest.fixture
def top(tmp_path):
    """A run that this process trains, and a sweep of two that waits for its second."""
    folder = tmp_path / "run"
    write(folder / "config.json", CONFIG)
    own = lock.Lock(folder)
    own.acquire()
    started = {"versions": {}, "config_digest": "0", "started": "2100-01-01T00:00:00Z"}
    write(folder / "manifest.json", started)
    write(folder / "metrics.jsonl", '{"round": 400}\n')
    os.utime(folder / "manifest.json", (1000, 1000))
    os.utime(folder / "metrics.jsonl", (1004, 1004))
    described = {"base": CONFIG, "runs": [{"seed": 0}, {"seed": 1}], "runs_per_program": [1]}
    write(tmp_path / "sweep" / "sweep.json", described | {"vmap_runs": 0})
    row = {"run": "0000", "method": "local", "status": "finished", "rounds": 1000}
    write(tmp_path / "sweep" / "results.jsonl", json.dumps(row) + "\n")
    yield tmp_path
    own.release()


def shown(capsys, *words):
    code = cli.main(["status", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_table_of_all_there_is(top, capsys):
    code, out, err = shown(capsys, top)
    lines = [line.split() for line in out.splitlines() if str(top) in line]
    assert (code, err) == (0, "") and len(lines) == 2
    assert lines[0][:6] == [f"{top}/run", "running", "400/1,000", "100", "6", "s"]
    assert " ".join(lines[0][6:]) == f"local, seed 3; process {os.getpid()} on " + (
        holders.here().host
    )
    assert lines[1][:3] == [f"{top}/sweep", "stopped", "1,000/2,000"]
    assert " ".join(lines[1][3:]) == "sweep: 1 of 2 finished, 1 waiting"
    _, out, _ = shown(capsys, top, "--runs")
    lines = [line.split()[:4] for line in out.splitlines() if str(top) in line]
    assert lines[2:] == [
        [f"{top}/sweep/runs/0000", "finished", "1,000/1,000", "local,"],
        [f"{top}/sweep/runs/0001", "waiting", "0/1,000", "local,"],
    ]


def test_one_json_object(top, capsys):
    code, out, err = shown(capsys, top, "--json")
    (line,) = out.splitlines()
    run, sweep = json.loads(line)["entries"]
    assert (code, err) == (0, "")
    assert (run["rounds_per_second"], run["seconds_left"]) == (100.0, 6.0)
    assert (run["process"], run["host"]) == (os.getpid(), holders.here().host)
    assert sweep["counts"] == {"waiting": 1, "finished": 1} and sweep["seconds_left"] is None
    assert [one["seed"] for one in sweep["runs"]] == [0, 1]


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_it_watches_until_all_have_ended(form, top, capsys, monkeypatch):
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        assert len(slept) < 3
        finish(top / "run")

    monkeypatch.setattr(status.time, "sleep", sleep)
    code, out, _ = shown(capsys, top / "run", "--watch", "7", *form)
    assert (code, slept) == (0, [7.0])
    lines = [line for line in out.splitlines() if "local" in line]
    assert len(lines) == 2 and "running" in lines[0] and "finished" in lines[1]


def test_ctrl_c_ends_watching(top, capsys, monkeypatch):
    def sleep(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(status.time, "sleep", sleep)
    assert shown(capsys, top, "--watch")[::2] == (0, "")


def test_a_process_of_another_host_is_looked_at_twice(tmp_path, capsys, monkeypatch):
    """Whether its lock changes, which at first nobody can know."""
    write(tmp_path / "config.json", CONFIG)
    place = holders.here()._replace(host="other", boot="b")._asdict()
    record = {"process": 7, "started": "1", **place, "since": "2000-01-01T00:00:00Z"}
    record |= {"token": "0123456789abcdef", "beat": "1"}
    write(tmp_path / holders.NAME, record)
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        write(tmp_path / holders.NAME, record | {"beat": "2"})

    monkeypatch.setattr(status.time, "sleep", sleep)
    _, out, _ = shown(capsys, tmp_path)
    assert len(slept) == 1 and "compiling" in out and "process 7 on other" in out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nowhere"], "DIR must be a directory, got"),
        (["."], "DIR must have a run, a sweep or a tuned experiment in it or below it, got"),
        ([], "the following arguments are required: DIR"),
        ([".", "--watch", "0"], "--watch must be a number of seconds > 0, got '0'"),
        ([".", "--watch", "nan"], "--watch must be a number of seconds > 0, got 'nan'"),
    ],
)
def test_mistakes_are_one_line(words, complaint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = shown(capsys, *words)
    assert (code, out) == (2, "") and err.startswith(f"protonorm: {complaint}")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.6, "1 min 00 s"),
        (61, "1 min 01 s"),
        (3599.9, "1 h 00 min"),
        (7260, "2 h 01 min"),
        (90000, "1 d 01 h"),
    ],
)
def test_times_have_two_units(seconds, text):
    assert report.duration(seconds) == text
