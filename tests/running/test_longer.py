"""Runs that go on to more rounds than they were made for: as if they had been made for them."""

import json
import shutil
import subprocess
import sys

import pytest
from test_checkpoint import Watcher, terminate

from protonorm_jax.command import cli
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import plan
from protonorm_jax.running import checkpoint, holders, job, programs, reading, sweep
from protonorm_jax.running import directory as places
from recorded import SMALL, arrays_of, rows_of

pytestmark = pytest.mark.usefixtures("hastily", "compiled_once", "undrawn")

FEW = SMALL.replace(family="mlp", num_clients=4, feature_dim=8, rounds=3, keep_state=True)
FEW = FEW.replace(eval_every=2, validation_fraction=0.2, keep_features=9)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_equal(first, second):
    """Two runs with the same results, bit by bit, but for how long they took."""
    assert rows_of(first) == rows_of(second)
    one, other = (
        {name: value.tolist() for name, value in arrays_of(folder).items()}
        for folder in (first, second)
    )
    assert one == other
    one, other = (json.loads((folder / "summary.json").read_text()) for folder in (first, second))
    times = ("seconds", "compile_seconds")
    assert {name: one[name] for name in one if name not in times} == {
        name: other[name] for name in other if name not in times
    }
    one, other = (json.loads((folder / "config.json").read_text()) for folder in (first, second))
    assert one == other


@pytest.fixture(scope="module")
def whole(small_set, tmp_path_factory):
    """Seven rounds from the start."""
    folder = tmp_path_factory.mktemp("whole")
    job.run(FEW.replace(rounds=7), folder, display=Watcher(), dataset=small_set)
    return folder


@pytest.fixture(scope="module")
def kept(small_set, tmp_path_factory):
    """Three rounds, and their state."""
    folder = tmp_path_factory.mktemp("kept")
    job.run(FEW, folder, display=Watcher(), dataset=small_set)
    return folder


@pytest.fixture
def copy(kept, tmp_path):
    return shutil.copytree(kept, tmp_path / "copy")


def test_a_kept_state_goes_on(whole, copy, small_set, capsys):
    """Rows that are there only because the run ended then are not there in the longer one."""
    assert [row["round"] for row in rows_of(copy)] == [2, 3]
    assert [path.name for path in (copy / checkpoint.FOLDER).iterdir()] == ["3"]
    before = contents(copy)
    assert job.resume(copy, display=Watcher(), dataset=small_set)["rounds"] == 3
    assert contents(copy) == before
    watcher, said = Watcher(4, terminate), []
    stopped = job.extend(copy, 7, display=watcher, dataset=small_set, say=said.append)
    assert stopped["status"] == "stopped" and watcher.first == 3 and watcher.rounds == [4]
    # What is recorded stays until the rest is there.
    after = contents(copy)
    assert {path: after[path] for path in before} == before
    assert reading.read_state(copy)[0]["rounds"] == 3
    watcher = Watcher()
    assert job.resume(copy, display=watcher, dataset=small_set)["status"] == "finished"
    assert watcher.first == 4 and watcher.rounds[-1] == 7 and said == []
    assert_equal(whole, copy)
    assert [path.name for path in (copy / checkpoint.FOLDER).iterdir()] == ["7"]
    assert not (copy / places.LONGER).exists()
    assert job.is_done(copy)


@pytest.mark.large
def test_another_number_of_rounds_is_another_run(whole, copy, small_set):
    """One that was begun and is not wanted any more is left."""
    job.extend(copy, 9, display=Watcher(4, terminate), dataset=small_set)
    assert (copy / places.LONGER).exists()
    watcher = Watcher()
    job.extend(copy, 7, display=watcher, dataset=small_set)
    assert watcher.first == 3
    assert_equal(whole, copy)
    with pytest.raises(UsageError, match=r"--rounds must be >= 7, as many as .* has done, got 6"):
        job.extend(copy, 6, display=Watcher(), dataset=small_set)


@pytest.mark.large
def test_without_a_state_it_is_run_again(whole, copy, small_set):
    shutil.rmtree(copy / checkpoint.FOLDER)
    watcher, said = Watcher(), []
    job.extend(copy, 7, display=watcher, dataset=small_set, say=said.append)
    assert watcher.first == 0 and watcher.rounds[-1] == 7
    assert said == [f"no state of {copy} was kept (--keep-state): it is run again from the start"]
    assert_equal(whole, copy)


@pytest.mark.large
def test_a_stopped_run_can_be_made_longer_or_shorter(whole, small_set, tmp_path):
    for rounds in (7, 3):
        folder = tmp_path / str(rounds)
        settings = FEW.replace(rounds=5)
        job.run(settings, folder, display=Watcher(2, terminate), dataset=small_set)
        with pytest.raises(UsageError, match=r"--rounds must be >= 2, as many as"):
            job.extend(folder, 1, display=Watcher(), dataset=small_set)
        watcher = Watcher()
        job.extend(folder, rounds, display=watcher, dataset=small_set)
        assert watcher.first == 2
        if rounds == 7:
            assert_equal(whole, folder)
        assert json.loads((folder / "summary.json").read_text())["rounds"] == rounds


def test_where_the_course_depends_on_the_rounds_is_found_out(small_set):
    """From the programs: fedkd's share of the energy changes over the rounds."""
    for method, own, same in (
        ("fedkd", {}, False),
        ("protonorm", {}, True),
    ):
        settings = Config(**{**FEW.to_dict(), "method": method, "method_settings": own})
        plans = [plan.make([settings.replace(rounds=n)], small_set) for n in (3, 7)]
        assert programs.have_one_course(*plans) is same, method
        assert programs.have_one_course(plans[0], plans[0])
    other = plan.make([settings.replace(seed=1)], small_set)
    assert not programs.have_one_course(plans[0], other)


@pytest.mark.large
def test_what_depends_on_the_rounds_is_run_again(small_set, tmp_path):
    settings = Config(**{**FEW.to_dict(), "method": "fedkd", "method_settings": {}, "rounds": 2})
    job.run(settings, tmp_path, display=Watcher(), dataset=small_set)
    watcher, said = Watcher(), []
    job.extend(tmp_path, 3, display=watcher, dataset=small_set, say=said.append)
    assert watcher.first == 0 and "fedkd with these settings depends on the number" in said[0]
    assert json.loads((tmp_path / "summary.json").read_text())["rounds"] == 3


def test_the_lock_of_a_process_that_died_before_it_began_is_cleared(copy, capsys):
    """As after a kill of `resume --rounds` in its first moments; the state stays."""
    script = (
        "import pathlib, os, sys; from protonorm_jax.running import lock\n"
        "lock.Lock(pathlib.Path(sys.argv[1])).acquire()\n"
        "os.kill(os.getpid(), 9)"
    )
    before = contents(copy)
    subprocess.run([sys.executable, "-c", script, str(copy)], check=False)
    assert (copy / holders.NAME).exists()
    assert cli.main(["resume", str(copy)]) == 0
    assert "nothing is left to do" in capsys.readouterr().out
    assert not (copy / holders.NAME).exists() and contents(copy) == before
    assert (copy / places.CHECKPOINTS).exists()


def test_sweeps_keep_no_state(small_set, tmp_path, capsys):
    with pytest.raises(UsageError, match=r"Config\.keep_state must be false in a sweep, got True"):
        sweep.run(FEW, {"seed": [0, 1]}, tmp_path / "new", dataset=small_set)
    assert not (tmp_path / "new").exists()
    (tmp_path / places.SWEEP).write_text(json.dumps({"base": {}, "runs": []}))
    assert cli.main(["resume", str(tmp_path), "--rounds", "3"]) == 2
    assert "--rounds must be left out for a sweep, got 3" in capsys.readouterr().err
