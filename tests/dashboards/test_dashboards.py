"""What dashboards show of recorded runs: everything once, whatever became of the run meanwhile."""

import io
import json

import numpy as np
import pytest
import readers
from fake_dashboard import Fake, fails
from PIL import Image

from protonorm_jax import data
from protonorm_jax.command import cli
from protonorm_jax.dashboards import NAMES, folders, numbers, session
from protonorm_jax.errors import Caution, UsageError
from protonorm_jax.running import job, record, sweep, tuning
from recorded import SMALL, rows_of

pytestmark = pytest.mark.usefixtures("hastily", "compiled_once", "drawn_quickly")

FEW = SMALL.replace(family="mlp", num_clients=4, feature_dim=8, rounds=5, checkpoint_every=2)
PICTURES = {"clients", "curves", "prototypes"}


@pytest.fixture(scope="module")
def drawn_quickly():
    """Pictures are a few grey pixels."""

    def draw(*given):
        file = next(one for one in given if isinstance(one, io.IOBase))
        Image.new("RGB", (6, 4), "grey").save(file, "png")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_clients", "draw_curves", "draw_prototypes"):
            patch.setattr(record.report, name, draw)
        yield


class Stops:
    """A display of a run or sweep that stops it in a round, as an error would."""

    def __init__(self, round_index=None):
        self._round_index = round_index

    def add(self, step):
        if step.round_index == self._round_index:
            raise RuntimeError("the power is cut")

    def __getattr__(self, name):
        return lambda *_: None


@pytest.fixture(scope="module")
def resumed(small_set, tmp_path_factory):
    """A run that ended in its fourth round, after the checkpoint of the second, and went on."""
    directory = tmp_path_factory.mktemp("runs") / "one"
    with pytest.raises(RuntimeError, match="the power is cut"):
        job.run(FEW, directory, display=Stops(4), dataset=small_set, log=NAMES)
    assert [row["round"] for row in rows_of(directory)] == [1, 2, 3, 4]
    before = {name: getattr(readers, name)(place(directory, name)) for name in NAMES}
    assert all(rounds_of(points) == [1, 2, 3, 4] for points, _, _ in only(before))
    job.resume(directory, display=Stops(), dataset=small_set)
    return directory


def place(directory, name):
    return directory / folders.FOLDERS[name]


def only(found):
    """What each dashboard holds of the one run that it knows."""
    for runs in found.values():
        (one,) = runs.values()
        yield one


def rounds_of(points):
    return [step for step, _ in points["head_accuracy"]]


def assert_shown(directory, found, name):
    """Asserts that a dashboard holds the rows of a run, its settings and its end."""
    points, settings, _ = found
    rows = [(row["round"], numbers(row)) for row in rows_of(directory)]
    columns = {column for _, row in rows for column in row}
    assert columns == {one for one in points if not one.startswith("summary/")}
    for column in columns:
        expected = [(step, row[column]) for step, row in rows if column in row]
        assert [step for step, _ in points[column]] == [step for step, _ in expected], column
        np.testing.assert_allclose(
            [value for _, value in points[column]], [value for _, value in expected], rtol=1e-6
        )
    config = json.loads((directory / "config.json").read_text())
    own = config.pop("method_settings")
    config |= {f"{config['method']}.{key}": value for key, value in own.items()}
    for key in set(config) - {"relative_to", "devices"}:
        assert settings[key] == str(config[key]), key
    if name != "wandb":  # Which has it in another place than points.
        summary = json.loads((directory / "summary.json").read_text())
        assert points["summary/head_accuracy"][-1][1] == pytest.approx(summary["head_accuracy"])


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_was_resumed_has_every_round_once(resumed, name):
    found = getattr(readers, name)(place(resumed, name))
    (run,) = found.values()
    assert rounds_of(run[0]) == [1, 2, 3, 4, 5]
    assert_shown(resumed, run, name)
    assert run[2] == PICTURES


@pytest.mark.large
def test_a_longer_run_is_one_of_its_own(small_set, tmp_path):
    job.run(
        FEW.replace(rounds=2, keep_state=True),
        tmp_path / "one",
        display=Stops(),
        dataset=small_set,
        log=("tensorboard", "mlflow"),
    )
    job.extend(tmp_path / "one", 3, display=Stops(), dataset=small_set)
    (run,) = readers.tensorboard(tmp_path / "one/tensorboard").values()
    assert_shown(tmp_path / "one", run, "tensorboard")
    assert json.loads((tmp_path / "one/dashboards.json").read_text())["names"] == [
        "tensorboard",
        "mlflow",
    ]
    runs = list((tmp_path / "one/mlruns").glob("*/*/meta.yaml"))
    assert len(runs) == 2


@pytest.mark.parametrize("name", NAMES)
def test_runs_of_a_sweep_have_names_that_tell_them_apart(many, name):
    found = getattr(readers, name)(place(many, name))
    assert set(found) == {
        f"000{number},scale={scale},seed={seed}"
        for number, (scale, seed) in enumerate([(1.0, 0), (1.0, 1), (2.0, 0), (2.0, 1)])
    }
    for key, run in found.items():
        assert_shown(many / "runs" / key[:4], run, name)


@pytest.fixture(scope="module")
def many(small_set, tmp_path_factory):
    """A sweep that ended within its third run, and went on."""
    directory = tmp_path_factory.mktemp("sweeps") / "many"

    class StopsLate(Stops):
        calls = 0

        def start_call(self, num_runs, round_index):
            self.calls += 1
            self._round_index = 4 if self.calls == 3 else None

    planned = sweep.plan(
        FEW, sweep.expand(FEW, {"scale": [1, 2]}, 2), small_set, runs_per_program=1
    )
    with pytest.raises(RuntimeError, match="the power is cut"):
        sweep.train(planned, directory, display=StopsLate(), log=NAMES)
    sweep.train(sweep.resume(directory, dataset=small_set), directory, resumed=True)
    return directory


@pytest.mark.large
def test_both_sweeps_of_a_tuned_experiment_are_in_one_place(small_set, tmp_path):
    base = FEW.replace(rounds=1, validation_fraction=0.2)
    tuning.run(base, {}, tmp_path / "tuned", tune=2, dataset=small_set, log=["tensorboard"])
    assert not (tmp_path / "tuned/tuning/tensorboard").exists()
    names = sorted(readers.tensorboard(tmp_path / "tuned/tensorboard"))
    assert [name.partition(",")[0] for name in names] == ["0000", "tuning-0000", "tuning-0001"]
    assert all("learning_rate=" in name for name in names)


@pytest.mark.large
def test_what_is_overwritten_takes_its_dashboards_along(resumed, small_set, tmp_path):
    out = tmp_path / "out"
    job.run(FEW, out, display=Stops(), dataset=small_set, log=["tensorboard"])
    (out / "wandb").mkdir()
    (out / "wandb/mine.txt").write_text("of another program")
    with pytest.raises(UsageError, match="--out must hold no 'wandb' but one that was made"):
        job.run(FEW, out, display=Stops(), dataset=small_set, log=["wandb"])
    job.run(FEW, out, display=Stops(), dataset=small_set)
    assert not (out / "tensorboard").exists() and not (out / "dashboards.json").exists()
    assert (out / "wandb/mine.txt").read_text() == "of another program"


@pytest.mark.large
def test_a_resumed_run_has_the_dashboards_that_it_is_given(small_set, tmp_path):
    with pytest.raises(RuntimeError):
        job.run(FEW, tmp_path, display=Stops(4), dataset=small_set)
    job.resume(tmp_path, display=Stops(), dataset=small_set, log=["tensorboard"])
    (run,) = readers.tensorboard(tmp_path / "tensorboard").values()
    assert_shown(tmp_path, run, "tensorboard")


def test_a_dashboard_changes_no_bits(resumed, small_set, tmp_path):
    job.run(FEW, tmp_path, display=Stops(), dataset=small_set)
    for name in ("metrics.jsonl", "config.json"):
        assert (tmp_path / name).read_bytes() == (resumed / name).read_bytes()


@pytest.mark.parametrize("where", ["start", "add", "finish"])
def test_a_dashboard_that_raises_costs_a_warning(where, small_set, tmp_path, monkeypatch):
    fine = Fake(None, None)
    made = {"tensorboard": lambda: Fake(where, fails), "mlflow": lambda: fine}
    monkeypatch.setattr(session, "_made", lambda name, run: made[name]())
    with pytest.warns(Caution, match="--log tensorboard: SystemExit: no disk") as caught:
        summary = job.run(
            FEW, tmp_path, display=Stops(), dataset=small_set, log=["tensorboard", "mlflow"]
        )
    assert len(caught) == 1
    assert summary["status"] == "finished" and len(rows_of(tmp_path)) == 5
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert fine.told == ["start", *["add"] * 5, "finish"]


def test_mistakes_on_the_command_line(small_set, tmp_path, capsys, monkeypatch):
    data.save_npz(small_set, tmp_path / "small.npz")
    flags = ("--data", str(tmp_path / "small.npz"), "--out", str(tmp_path / "run"))

    def complaint(*more):
        assert cli.main(["run", *flags, *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "--log must be of tensorboard, wandb, mlflow, got 'tensorbord'" in complaint(
        "--log", "wandb,tensorbord"
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "got 'mlflow': pip install 'protonorm_jax[mlflow]'" in complaint("--log", "mlflow")
    assert not (tmp_path / "run").exists()
