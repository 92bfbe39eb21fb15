"""Directories of runs, sweeps and tuned experiments as the statistics take them."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from protonorm_jax import statistics
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.running import runs

RECORDED = pathlib.Path(__file__).parent.parent / "golden" / "recorded_before"


def write(directory, config, value=0.5, status="finished"):
    """A run's directory, with a share of right answers of `value` at 4 x 20 test samples."""
    directory.mkdir(parents=True)
    made = {"config_digest": config.digest(), "data_digest": "d", "partition_digest": "p"}
    summary = {"method": config.method, "predictor": "head", "rounds": 2, "status": status}
    summary |= {"head_accuracy": 0.1, "head_accuracy_selected": value, "selected_round": 1}
    row = {"round": 1, "head_accuracy": value}
    (directory / "config.json").write_text(json.dumps(config.to_dict()))
    (directory / "manifest.json").write_text(json.dumps(made))
    (directory / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    if status:
        (directory / "summary.json").write_text(json.dumps(summary))
    correct = np.full((2, 4, 1), round(20 * value), np.int32)
    arrays = {"parts": np.array(["test"]), "count": np.full((4, 1), 20, np.int32)}
    arrays |= {"rounds": np.array([1, 2], np.int32), "head_correct": correct}
    np.savez(directory / "clients.npz", **arrays)


def write_sweep(directory, base, changes, values):
    described = {"base": base.to_dict(), "runs": changes, "runs_per_program": [1], "vmap_runs": 1}
    directory.mkdir()
    (directory / "sweep.json").write_text(json.dumps(described))
    for number, (change, value) in enumerate(zip(changes, values, strict=False)):
        write(directory / "runs" / f"{number:04d}", base.replace(**change), value)


def test_runs_of_older_versions_are_read():
    found = runs.read_runs([RECORDED / "run", RECORDED / "sweep"])
    assert [one.name for one in found] == [
        str(RECORDED / "run"),
        str(RECORDED / "sweep" / "runs" / "0000"),
        str(RECORDED / "sweep" / "runs" / "0001"),
    ]
    assert [one.summary["predictor"] for one in found] == ["prototype", "prototype", "head"]
    assert [one.config["validation_fraction"] for one in found] == [0.0] * 3
    own = found[0].config["method_settings"]
    assert (own["scale"], own["align"], own["collect"]) == (4.0, "none", "before")
    assert own["proximity"] == Config().method_settings["proximity"]
    assert "collect" not in found[2].config["method_settings"] and "scale" not in found[0].config
    assert found[2].changes["method"] == "local" and found[0].changes == {}
    assert statistics.outcome(found[0]) == (found[0].summary["prototype_accuracy"], False, 2)
    assert len(found[0].rows) == 2 and found[0].manifest["versions"]["jax"] == "0.10.2"


def test_a_sweep_has_its_changes_clients_and_what_has_not_begun(tmp_path):
    base = Config(num_clients=4, validation_fraction=0.2, rounds=2)
    changes = [{"method": "local", "seed": seed} for seed in (0, 1, 2)]
    write_sweep(tmp_path / "sweep", base, changes, [0.5, 0.6])
    found = runs.read_runs([str(tmp_path / "sweep")])
    assert [one.changes for one in found] == changes
    assert [one.cell for one in found] == [None] * 3
    assert found[2].summary["status"] == "not begun" and found[2].config["seed"] == 2
    (comparison,), apart = statistics.comparisons(found)
    assert [one.reason for one in apart] == ["not begun"]
    (result,) = statistics.results(comparison, "local")
    assert result.values == [0.5, 0.6] and result.clients.mean == pytest.approx(0.55)


def test_a_run_that_was_killed_is_read_as_such(tmp_path):
    write(tmp_path / "run", Config(num_clients=4, rounds=2), status="")
    (found,) = runs.read_runs([tmp_path / "run"])
    assert found.summary["status"] == "killed" and found.summary["rounds"] == 1


def write_tuned(directory, choices):
    base = Config(num_clients=4, validation_fraction=0.2, rounds=2)
    changes = [
        {"method": "local", "learning_rate": 0.1, "seed": 5},
        {"method": "local", "alpha": 0.5, "learning_rate": 0.2, "seed": 5},
    ]
    write_sweep(directory, base, changes, [0.5, 0.6])
    (directory / "tuning.json").write_text("{}")
    (directory / "choices.json").write_text(json.dumps(choices))


def choice(cell, rate, seconds):
    point = {"learning_rate": rate}
    tried = {"point": point, "validation_accuracy": 0.5, "test_accuracy": 0.5, "diverged": 0}
    tried["seconds"] = seconds
    named = {"changes": cell, "chosen": 0, "point": point, "tried": [tried], "edges": []}
    return named | {"seconds": seconds}


def test_final_runs_know_their_cell_and_what_was_chosen(tmp_path):
    choices = [
        choice({"method": "local"}, 0.1, 9.0),
        choice({"method": "local", "alpha": 0.5}, 0.2, 8.0),
    ]
    write_tuned(tmp_path / "tuned", choices)
    found = runs.read_runs([tmp_path / "tuned"])
    assert [one.cell for one in found] == [one["changes"] for one in choices]
    assert [one.choice for one in found] == choices
    comparisons, _ = statistics.comparisons(found)
    assert [(one.title, one.arms[0].label) for one in comparisons] == [
        ("alpha=0.1", "local"),
        ("alpha=0.5", "local"),
    ]
    assert statistics.results(comparisons[0], "local")[0].seconds.tuning == 9.0


@pytest.mark.parametrize("damage", ["{}", '[{"changes": 3}]', '[{"changes": {}, "seconds": "x"}]'])
def test_damaged_choices_are_refused(tmp_path, damage):
    write_tuned(tmp_path / "tuned", [])
    (tmp_path / "tuned" / "choices.json").write_text(damage)
    with pytest.raises(UsageError, match=r"readable choices\.json"):
        runs.read_runs([tmp_path / "tuned"])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", {"seed": "one"}),
        ("config.json", {"method_settings": [3]}),
        ("manifest.json", {"clients": [{"test_samples": 3, "test_by_class": {"0": "x"}}]}),
        ("manifest.json", {"clients": [{"test_samples": 3, "train_by_class": {"x": 1}}]}),
        ("manifest.json", {"clients": [7]}),
        ("summary.json", {"head_accuracy_selected": "high"}),
    ],
    ids=["seed", "settings", "count", "label", "client", "accuracy"],
)
def test_records_of_another_form_are_refused(tmp_path, name, change):
    write(tmp_path / "run", Config(num_clients=4))
    path = tmp_path / "run" / name
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UsageError, match=f"readable {name}"):
        runs.read_runs([tmp_path / "run"])


def test_what_holds_no_final_run_is_refused(tmp_path):
    (tmp_path / "tuning.json").write_text("{}")
    with pytest.raises(UsageError, match="settings are not chosen yet"):
        runs.read_runs([tmp_path])
    (tmp_path / "tuning.json").unlink()
    with pytest.raises(UsageError, match=r"readable summary\.json"):
        runs.read_runs([tmp_path])


@pytest.mark.parametrize(
    "damage",
    [
        {"count": np.zeros((4, 2), np.int32)},
        {"count": np.zeros(4, np.int32)},
        {"head_correct": np.zeros((1, 4, 1), np.int32)},
        {"rounds": None},
    ],
    ids=["parts", "shape", "rounds", "missing"],
)
def test_clients_that_do_not_fit_are_refused(tmp_path, damage):
    write(tmp_path / "run", Config(num_clients=4))
    path = tmp_path / "run" / "clients.npz"
    with np.load(path) as file:
        arrays = dict(file) | damage
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(UsageError, match=r"readable clients\.npz"):
        runs.read_runs([tmp_path / "run"])
    path.write_bytes(b"no archive")
    with pytest.raises(UsageError, match=r"readable clients\.npz"):
        runs.read_runs([tmp_path / "run"])


def test_a_method_that_is_not_known_here_is_read(tmp_path):
    shutil.copytree(RECORDED / "run", tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    own = {"strength": 3.0}
    del config["collect"], config["scale"], config["align"], config["proximity"]
    config |= {"method": "mine", "method_settings": own, "methods_file": {"digest": "f" * 64}}
    path.write_text(json.dumps(config))
    (found,) = runs.read_runs([tmp_path / "run"])
    assert found.config["method_settings"] == own and found.summary["predictor"] == "head"
