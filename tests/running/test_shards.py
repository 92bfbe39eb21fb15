"""A sweep that several jobs share comes to what one job would have made of it."""

import multiprocessing
import shutil

import pytest

from protonorm_jax.errors import UsageError
from protonorm_jax.running import directory as places
from protonorm_jax.running import holders, lock, reading, shards, sweep
from protonorm_jax.running.shards import Shard
from recorded import SMALL, assert_same, without_times
from running.test_checkpoint import Watcher, terminate

pytestmark = pytest.mark.usefixtures("hastily", "compiled_once", "undrawn")

SETTINGS = SMALL.replace(rounds=3, checkpoint_every=1)
GRID = {"scale": [1.0, 4.0], "seed": [0, 1, 2]}
NAMES = [f"{number:04d}" for number in range(6)]


def planned(dataset, settings=SETTINGS, grid=GRID, **sizes):
    sizes = {"runs_per_program": 2} | sizes
    return sweep.plan(settings, sweep.expand(settings, grid), dataset, **sizes)


def train(dataset, directory, number, num_shards, watcher=None, **given):
    return shards.train(
        planned(dataset, **given),
        directory,
        Shard(number, num_shards),
        display=watcher or Watcher(),
        dataset=dataset,
    )


@pytest.fixture(scope="module")
def whole(small_set, tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    sweep.run(SETTINGS, GRID, directory, dataset=small_set, runs_per_program=2)
    return directory


def assert_same_sweep(first, second):
    assert without_times(first / "results.jsonl") == without_times(second / "results.jsonl")
    for name in NAMES:
        assert_same(first / "runs" / name, second / "runs" / name)
    both = ({path.name for path in one.iterdir()} for one in (first, second))
    assert next(both) == next(both)
    assert (first / "sweep.json").read_bytes() == (second / "sweep.json").read_bytes()


def test_shares_are_disjoint_whatever_stops_a_job(whole, small_set, tmp_path):
    """The second job is stopped between checkpoints of its second call, and comes back."""
    out = tmp_path / "shared"
    assert train(small_set, out, 1, 2).own == NAMES[:2]
    assert [row["run"] for row in reading.read_sweep(out)[1]] == NAMES[:2]
    calls = []
    watcher = Watcher()
    watcher.add = lambda step: (calls.append(step.round_index), len(calls) == 5 and terminate())
    stopped = train(small_set, out, 2, 2, watcher)
    assert stopped.own == NAMES[2:] and stopped.missing() == 2
    assert [row["run"] for row in stopped.rows] == NAMES[:4]
    assert not (out / "results.jsonl").read_bytes() and not (out / "checkpoints").exists()
    again = Watcher()
    done = train(small_set, out, 2, 2, again)
    assert again.rounds == [3] and done.missing() == 0 and len(done.rows) == 6
    assert_same_sweep(whole, out)
    finished = Watcher()
    assert train(small_set, out, 1, 2, finished).missing() == 0 and finished.rounds == []
    assert_same_sweep(whole, out)


def test_another_number_of_jobs_goes_on_with_what_is_there(whole, small_set, tmp_path):
    out = tmp_path / "shared"
    train(small_set, out, 1, 3, Watcher(2, terminate))
    first = Watcher()
    assert train(small_set, out, 1, 2, first).own == NAMES[:2]
    assert first.rounds == [3]
    # And one job alone.
    alone = Watcher()
    train(small_set, out, 2, 2, Watcher(1, terminate))
    resumed = sweep.resume(out, dataset=small_set)
    assert len(sweep.train(resumed, out, display=alone, resumed=True)) == 6
    assert alone.rounds == [2, 3, 1, 2, 3]
    assert_same_sweep(whole, out)


@pytest.mark.large
def test_who_would_share_it_in_another_way_is_refused_while_a_job_is_at_work(small_set, tmp_path):
    out = tmp_path / "shared"
    train(small_set, out, 1, 3, Watcher(1, terminate))
    busy = out / places.SHARDS / "1-of-3"
    process = multiprocessing.get_context("spawn").Process(target=_hold, args=(busy,))
    process.start()
    try:
        while holders.holder_of(busy) is None:
            process.join(0.05)
        assert reading.read_state(out / "runs" / "0000")[0]["status"] == "stopped"
        (out / "runs" / "0000" / "summary.json").unlink()
        assert reading.read_state(out / "runs" / "0000")[0]["status"] == "running"
        for use in (
            lambda: train(small_set, out, 1, 2),
            lambda: train(small_set, out, 1, 3),
            lambda: sweep.train(sweep.resume(out, dataset=small_set), out, resumed=True),
            lambda: sweep.run(SETTINGS, GRID, out, dataset=small_set, overwrite=True),
        ):
            with pytest.raises(UsageError, match=r"1-of-3 is in use by process \d+"):
                use()
        assert train(small_set, out, 3, 3).missing() == 0
    finally:
        process.kill()
        process.join()
    assert reading.read_state(out / "runs" / "0000")[0]["status"] == "killed"


def _hold(folder):
    lock.Lock(folder).acquire()
    multiprocessing.Event().wait()


def test_it_must_be_the_same_sweep(small_set, tmp_path):
    out = tmp_path / "shared"
    train(small_set, out, 1, 3, Watcher(1, terminate))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"Config.rounds must be 3 as in the sweep in .*, got 4"):
        train(small_set, out, 2, 3, settings=SETTINGS.replace(rounds=4))
    with pytest.raises(UsageError, match=r"--grid and --seeds must be those of the sweep"):
        train(small_set, out, 2, 3, grid={"scale": [1.0, 4.0]})
    run = tmp_path / "run"
    shutil.copytree(out / "runs" / "0000", run)
    with pytest.raises(UsageError, match="--out must be a new or empty directory"):
        train(small_set, run, 2, 3)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.large
def test_a_new_sweep_in_its_place_leaves_nothing_of_the_jobs(small_set, tmp_path):
    out = tmp_path / "shared"
    train(small_set, out, 1, 3, Watcher(1, terminate))
    other = out / places.SHARDS / "notes"
    other.mkdir()
    sweep.run(SETTINGS, {"seed": [5]}, out, dataset=small_set, overwrite=True)
    assert [path.name for path in (out / places.SHARDS).iterdir()] == ["notes"]
    assert [row["run"] for row in without_times(out / "results.jsonl")] == ["0000"]


def test_as_many_runs_at_a_time_as_leave_something_for_every_job(small_set):
    for runs_per_program, num_shards, shares in (
        (0, 1, [6]),
        (0, 3, [2, 2, 2]),
        (0, 4, [1, 2, 1, 2]),
        (4, 4, [0, 4, 0, 2]),
        (2, 2, [2, 4]),
    ):
        settings = SETTINGS.replace(devices=4)
        made = planned(
            small_set, settings, runs_per_program=runs_per_program, num_shards=num_shards
        )
        size, total = made.plans[0].runs_per_program, 6
        found = [
            [min(size, total - first) for _, first in shards.share(made, Shard(one, num_shards))]
            for one in range(1, num_shards + 1)
        ]
        assert [sum(one) for one in found] == shares


ARRAY = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "4"}


@pytest.mark.parametrize(
    ("text", "environ", "found"),
    [
        ("2/3", {}, Shard(2, 3)),
        ("auto", ARRAY | {"SLURM_ARRAY_TASK_STEP": "2"}, Shard(3, 4)),
        ("auto", ARRAY | {"SLURM_ARRAY_TASK_ID": "6"}, Shard(4, 4)),
        ("0/3", {}, "--shard must be I/N with 1 <= I <= N, or auto, got '0/3'"),
        ("4/3", {}, "--shard must be I/N"),
        ("²/3", {}, "--shard must be I/N"),
        ("auto", {}, "--shard auto must be within a Slurm array"),
        ("auto", ARRAY, "--shard auto must be in an array with even steps, got task 7 of 4 from 3"),
    ],
)
def test_which_job_it_is(text, environ, found):
    if isinstance(found, Shard):
        assert shards.parse(text, environ) == found
    else:
        with pytest.raises(UsageError, match=found.replace("(", "\\(")):
            shards.parse(text, environ)
