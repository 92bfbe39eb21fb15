"""Stopped, killed, damaged, out of space: what comes in the end is what would have come anyway."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from protonorm_jax.errors import UsageError
from protonorm_jax.planning import plan as planning
from protonorm_jax.running import checkpoint, job, reading, sweep
from recorded import SMALL, assert_same, rows_of, without_times

pytestmark = pytest.mark.usefixtures("hastily", "compiled_once", "undrawn")

SETTINGS = SMALL.replace(rounds=8)


class Watcher:
    """A display that calls a function once at a round, and another one at the start."""

    def __init__(self, round_index=None, then=lambda: None, at_start=lambda: None):
        self.rounds = []
        self._round_index = round_index
        self._then = then
        self._at_start = at_start

    def plan(self, planned):
        pass

    def start(self, simulation, round_index=0):
        self.first = round_index
        self._at_start()

    def add(self, step):
        self.rounds.append(step.round_index)
        if step.round_index == self._round_index:
            self._then()

    def start_call(self, num_runs, round_index):
        pass

    def finish_call(self, num_runs, rounds):
        pass


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def whole(small_set, tmp_path_factory):
    """A run that nothing has disturbed."""
    directory = tmp_path_factory.mktemp("whole")
    summary = job.run(SETTINGS, directory, display=Watcher(), dataset=small_set)
    assert summary["status"] == "finished" and summary["rounds"] == 8
    return directory


@pytest.fixture(scope="module")
def stopped(small_set, tmp_path_factory):
    """The same, stopped by SIGTERM after five rounds; copy it before going on."""
    directory = tmp_path_factory.mktemp("stopped")
    summary = job.run(SETTINGS, directory, display=Watcher(5, terminate), dataset=small_set)
    assert summary["status"] == "stopped" and summary["rounds"] == 5
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    return directory


@pytest.fixture
def copy(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "copy")


@pytest.mark.parametrize("devices", [None, 4])
def test_a_stopped_run_goes_on_on_any_number_of_devices(whole, copy, small_set, devices):
    watcher = Watcher()
    summary = job.resume(copy, display=watcher, num_devices=devices, dataset=small_set)
    assert watcher.first == 5 and watcher.rounds == [6, 7, 8]
    assert summary["status"] == "finished" and summary["seconds"] > 0
    assert_same(whole, copy)


def test_a_run_goes_on_where_clients_are_kept_in_their_own_shapes(
    whole, copy, small_set, monkeypatch
):
    """On TPUs they are, elsewhere flat; it makes no difference to the bits."""
    made = planning.program_of
    monkeypatch.setattr(planning, "program_of", lambda *given: made(*given)._replace(tiled=True))
    job.resume(copy, display=Watcher(), dataset=small_set)
    assert_same(whole, copy)


def test_checkpoints_come_when_they_are_due(whole, small_set, tmp_path):
    """Also between evaluations; and a run without any starts over."""
    settings = SETTINGS.replace(eval_every=4, checkpoint_every=3)
    watcher = Watcher(4, terminate)
    summary = job.run(settings, tmp_path, display=watcher, dataset=small_set)
    assert summary["status"] == "stopped" and watcher.rounds[-2:] == [3, 4]
    assert {path.name for path in (tmp_path / checkpoint.FOLDER).iterdir()} == {"3", "4"}
    assert [row["round"] for row in rows_of(tmp_path)] == [4]
    shutil.rmtree(tmp_path / checkpoint.FOLDER)
    watcher = Watcher()
    job.resume(tmp_path, display=watcher, dataset=small_set)
    assert watcher.first == 0 and rows_of(tmp_path) == rows_of(whole)[3::4]


def test_a_finished_run_stays_as_it_is(whole, small_set):
    before = {path: path.stat().st_mtime_ns for path in whole.iterdir()}
    watcher = Watcher()
    assert job.resume(whole, display=watcher, dataset=small_set)["rounds"] == 8
    assert watcher.rounds == []
    assert before == {path: path.stat().st_mtime_ns for path in whole.iterdir()}


def test_rows_of_the_checkpoint_count(whole, copy, small_set):
    """Rows that were lost, doubled or left incomplete after it do not matter."""
    with open(copy / "metrics.jsonl", "a") as file:
        file.write('{"round": 6}\n{"round": 6}\n{"rou')
    job.resume(copy, display=Watcher(), dataset=small_set)
    assert_same(whole, copy)


# In a process of its own: what tensorstore leaves behind after an error is noticed at the end of
# a test session.
READ = """
import json, sys, zlib
from pathlib import Path
from protonorm_jax import config
from protonorm_jax.errors import UsageError
from protonorm_jax.running import checkpoint
for name in sys.argv[1:]:
    try:
        found = checkpoint.latest(Path(name), [[config.load(Path(name) / "config.json")]])
    except UsageError as error:
        print(json.dumps(str(error)))
    else:
        bits = {key: zlib.crc32(value.tobytes()) for key, value in sorted(found.arrays.items())}
        print(json.dumps([found.round_index, found.rows, bits]))
"""


def read_in_child(*directories):
    result = subprocess.run(
        [sys.executable, "-c", READ, *map(str, directories)],
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_damage_is_refused_or_does_not_matter(stopped, tmp_path):
    """Each file of a checkpoint in turn is cut in half, has one byte changed, and is gone."""

    def halve(path):
        os.truncate(path, path.stat().st_size // 2)

    def change(path):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    files = [path for path in stopped.rglob("*") if checkpoint.FOLDER in path.parts]
    files = [path.relative_to(stopped) for path in files if path.is_file() and path.stat().st_size]
    copies = []
    for name in files:
        for damage in (halve, change, os.remove):
            copies.append(shutil.copytree(stopped, tmp_path / str(len(copies))))
            damage(copies[-1] / name)
    wanted, *found = read_in_child(stopped, *copies)
    assert wanted[0] == 5 and len(found) == len(copies) >= 30
    refused = [one for one in found if isinstance(one, str)]
    assert all(one == wanted for one in found if one not in refused)
    assert all("checkpoint must be" in one and "\n" not in one for one in refused)
    # Whatever is done to the document or to the arrays.
    for name, one in zip([name for name in files for _ in range(3)], found, strict=True):
        assert "document/metadata" not in str(name) or one in refused
    assert len(refused) >= 10


def test_a_foreign_checkpoint_is_refused(copy, small_set, tmp_path):
    (copy / "config.json").write_text(json.dumps(SETTINGS.replace(scale=5.0).to_dict()))
    with pytest.raises(UsageError, match=r"Config\.method_settings must be .* 4\.0.* as in"):
        job.resume(copy, display=Watcher(), dataset=small_set)
    (copy / "config.json").write_text(json.dumps(SETTINGS.to_dict()))
    other = small_set._replace(num_classes=6)
    with pytest.raises(UsageError, match=r"checkpoint must hold \S* as float32\[.*, got float32"):
        job.resume(copy, display=Watcher(), dataset=other)
    (empty := tmp_path / "empty" / checkpoint.FOLDER / "7").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"checkpoint must be whole, got"):
        checkpoint.latest(empty.parent.parent, [[SETTINGS]])


def test_a_checkpoint_from_before_a_setting_came_is_taken(whole, small_set, tmp_path, monkeypatch):
    """It had the default then."""
    signed = checkpoint._signed

    def signed_before(document):
        for values in document["configs"]:
            del values["shared_model"]
        return signed(document)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_signed", signed_before)
        job.run(SETTINGS, tmp_path, display=Watcher(5, terminate), dataset=small_set)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["shared_model"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    watcher = Watcher()
    job.resume(tmp_path, display=watcher, dataset=small_set)
    assert watcher.first == 5 and rows_of(tmp_path) == rows_of(whole)


@pytest.mark.large
def test_checkpoints_of_finished_runs_are_no_obstacle(
    whole, whole_sweep, copy, tmp_path, small_set
):
    """As a kill leaves them that comes between the last result and their removal."""
    done = shutil.copytree(whole, tmp_path / "done")
    shutil.copytree(copy / checkpoint.FOLDER, done / checkpoint.FOLDER)
    job.resume(done, display=Watcher(), dataset=small_set)
    assert_same(whole, done)

    folder = tmp_path / "sweep"
    settings = SETTINGS.replace(rounds=4, checkpoint_every=1)
    calls = []
    watcher = Watcher()
    watcher.add = lambda step: (calls.append(step.round_index), len(calls) == 3 and terminate())
    planned = sweep.plan(settings, sweep.expand(settings, GRID), small_set, runs_per_program=2)
    assert sweep.train(planned, folder, display=watcher) == []
    lines = (whole_sweep / "results.jsonl").read_text().splitlines(keepends=True)
    (folder / "results.jsonl").write_text("".join(lines[:2]) + lines[2][:40])
    before = (folder / "results.jsonl").read_bytes()
    assert len(reading.read_sweep(folder)[1]) == 2
    assert (folder / "results.jsonl").read_bytes() == before  # To look changes nothing.
    calls.clear()
    watcher.add = lambda step: (calls.append(step.round_index), len(calls) == 2 and terminate())
    planned = sweep.resume(folder, dataset=small_set)
    assert len(sweep.train(planned, folder, display=watcher, resumed=True)) == 2
    assert {path.name for path in (folder / checkpoint.FOLDER).iterdir()} == {"1", "2"}
    watcher = Watcher()
    planned = sweep.resume(folder, dataset=small_set)
    assert len(sweep.train(planned, folder, display=watcher, resumed=True)) == 6
    assert watcher.rounds[:2] == [3, 4]  # It goes on with the second call.


GRID = {"scale": [1.0, 4.0], "seed": [0, 1, 2]}


@pytest.fixture(scope="module")
def whole_sweep(small_set, tmp_path_factory):
    directory = tmp_path_factory.mktemp("sweep")
    settings = SETTINGS.replace(rounds=4)
    sweep.run(settings, GRID, directory, dataset=small_set, runs_per_program=2)
    return directory


@pytest.mark.large
def test_a_stopped_sweep_goes_on_on_other_devices(whole_sweep, small_set, tmp_path):
    """Twice: in the second program call, between the evaluations of the last."""
    settings = SETTINGS.replace(rounds=4)
    calls = []
    watcher = Watcher()
    watcher.add = lambda step: (calls.append(step.round_index), len(calls) == 6 and terminate())
    planned = sweep.plan(settings, sweep.expand(settings, GRID), small_set, runs_per_program=2)
    rows = sweep.train(planned, tmp_path, display=watcher)
    assert [row["run"] for row in rows] == ["0000", "0001"]
    with open(tmp_path / "results.jsonl", "a") as file:
        file.write('{"run": "00')  # As a kill may leave it.
    for stops_at in (5, 0):
        calls.clear()
        watcher.add = lambda step, at=stops_at: (calls.append(1), len(calls) == at and terminate())
        planned = sweep.resume(tmp_path, num_devices=4, dataset=small_set)
        rows = sweep.train(planned, tmp_path, display=watcher, resumed=True)
    assert len(rows) == 6
    assert without_times(tmp_path / "results.jsonl") == [
        {**row, "config_digest": other["config_digest"]}
        for row, other in zip(
            without_times(whole_sweep / "results.jsonl"),
            without_times(tmp_path / "results.jsonl"),
            strict=True,
        )
    ]
    for number in range(6):
        name = f"runs/{number:04d}"
        assert_same(whole_sweep / name, tmp_path / name)
    assert not (tmp_path / checkpoint.FOLDER).exists()
