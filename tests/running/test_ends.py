"""Whatever goes wrong at the end of a run costs no rows, and no other run."""

import json
import os
import shutil

import numpy as np
import pytest
from test_checkpoint import Watcher

from protonorm_jax import data, metrics
from protonorm_jax.command import cli
from protonorm_jax.errors import UsageError
from protonorm_jax.running import job, record, sweep
from recorded import SMALL, rows_of

pytestmark = pytest.mark.usefixtures("hastily", "compiled_once", "undrawn")

FEW = SMALL.replace(family="mlp", num_clients=4, feature_dim=8, rounds=2)


def strict(path):
    """What JSON files hold; numbers that JSON does not have are none."""

    def refuse(name):
        raise AssertionError(f"{name} in {path}")

    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    return [json.loads(line, parse_constant=refuse) for line in lines]


def test_clients_without_test_samples(small_set, tmp_path, capsys):
    data.save_npz(small_set, tmp_path / "small.npz")
    flags = ("--data", str(tmp_path / "small.npz"), "--family", "mlp", "--num-clients", "4")
    flags += ("--feature-dim", "8", "--devices", "1", "--rounds", "2", "--train-fraction", "1")
    out, many = tmp_path / "run", tmp_path / "sweep"
    assert cli.main(["run", *flags, "--out", str(out)]) == 0
    assert cli.main(["compare", str(out), "--out", str(tmp_path / "x.png")]) == 0
    assert cli.main(["sweep", *flags, "--seeds", "2", "--out", str(many)]) == 0
    assert cli.main(["compare", str(many)]) == 0
    for folder in (out, many, *(many / "runs").iterdir()):
        for path in folder.glob("*.json*"):
            strict(path)
    (summary,) = strict(out / "summary.json")
    assert summary["status"] == "finished" and "warnings" not in summary
    assert summary["majority_accuracy"] is None and summary["head_accuracy"] is None
    assert [row["status"] for row in strict(many / "results.jsonl")] == ["finished"] * 2
    assert len(rows_of(out)) == 2


@pytest.mark.filterwarnings("ignore:.*could not be drawn:RuntimeWarning")
def test_what_cannot_be_drawn_or_written_costs_itself_alone(
    small_set, tmp_path, monkeypatch, capsys
):
    def fail(*_):
        raise ValueError("no\npicture")

    with monkeypatch.context() as patch:
        patch.setattr(record.report, "draw_curves", fail)
        summary = job.run(FEW, tmp_path / "a", display=Watcher(), dataset=small_set)
    assert summary["warnings"] == ["curves.png could not be drawn: ValueError: no"]
    assert summary["status"] == "finished" and strict(tmp_path / "a/summary.json") == [summary]
    assert (tmp_path / "a/prototypes.png").exists() and len(rows_of(tmp_path / "a")) == 2
    killed = shutil.copytree(tmp_path / "a", tmp_path / "killed")
    (killed / "summary.json").unlink()
    with open(killed / "metrics.jsonl", "a") as file:
        file.write('{"round": 3, "lo')
    capsys.readouterr()
    assert cli.main(["compare", str(killed), str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out.endswith(f"{killed}: killed after round 2\n")

    for owner, name, words in (
        (np, "savez", "the arrays could not be written: ValueError: no"),
        (metrics, "summary", "no summary could be made: ValueError: no"),
    ):
        folder = tmp_path / name
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, lambda *_, **__: fail())
            with pytest.raises(UsageError, match=words):
                job.run(FEW, folder, display=Watcher(), dataset=small_set)
        (summary,) = strict(folder / "summary.json")
        assert summary["status"] == "failed" and summary["error"] == words
        assert rows_of(folder) == rows_of(tmp_path / "a")
    assert job.resume(folder, display=Watcher(), dataset=small_set)["status"] == "finished"


@pytest.mark.large
def test_in_a_sweep_the_other_runs_go_on(small_set, tmp_path, monkeypatch):
    """One whose arrays are beyond numpy, and then one whose folder cannot be written."""
    own, calls = np.savez, []

    def one_fails(file, **given):
        calls.append(file.name)
        if "0001" in file.name:
            raise ValueError("no")
        own(file, **given)

    grid = {"seed": [0, 1, 2]}
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", one_fails)
        rows = sweep.run(FEW, grid, tmp_path / "a", dataset=small_set, runs_per_program=2)
    assert [row["status"] for row in rows] == ["finished", "failed", "finished"]
    assert rows[1]["error"] == "the arrays could not be written: ValueError: no"
    assert strict(tmp_path / "a" / "results.jsonl") == rows

    replace = os.replace

    def full(source, target):
        if str(target).endswith("0001/summary.json"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    folder = tmp_path / "b"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(UsageError, match=r"--out must be writable, got .*0001': .*No space"):
            sweep.run(FEW, grid, folder, dataset=small_set, runs_per_program=3)
    # The disk may have room again: that run is not done, the others are.
    assert [row["run"] for row in strict(folder / "results.jsonl")] == ["0000", "0002"]
    rows = sweep.train(sweep.resume(folder, dataset=small_set), folder, resumed=True)
    assert [row["status"] for row in rows] == ["finished"] * 3
    assert sorted(row["run"] for row in strict(folder / "results.jsonl")) == [
        "0000",
        "0001",
        "0002",
    ]
