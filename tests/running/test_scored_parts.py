"""Clients that are tested on a common set, or on nothing: what is recorded, from end to end."""

import json

import numpy as np
import pytest

import protonorm_jax
from protonorm_jax.command import cli
from protonorm_jax.config import Config
from protonorm_jax.types import Part
from recorded import rows_of

pytestmark = pytest.mark.usefixtures("hastily", "compiled_once")

SETTINGS = {
    "method": "local",
    "family": "mlp",
    "feature_dim": 8,
    "rounds": 2,
    "num_clients": 3,
    "alpha": 0.5,
    "batch_size": 16,
    "learning_rate": 0.1,
    "devices": 1,
}
FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]


@pytest.fixture(scope="module")
def histories(small_set):
    """Runs with a test part, by what clients are tested on."""
    parts = np.where(np.arange(240) % 4 == 3, Part.TEST, Part.TRAIN).astype(np.uint8)
    dataset = small_set._replace(parts=parts)
    return {
        which: protonorm_jax.run(
            Config(split="own", evaluate_on=which, **SETTINGS), dataset=dataset
        )
        for which in ("own", "common", "both")
    }


def test_both_are_own_and_common_side_by_side(histories):
    own, common, both = (histories[which].rows for which in ("own", "common", "both"))
    for one, other, whole in zip(own, common, both, strict=True):
        for suffix in ("accuracy", "accuracy_std"):
            assert whole[f"head_{suffix}"] == one[f"head_{suffix}"]
            assert whole[f"head_common_{suffix}"] == other[f"head_{suffix}"]
            assert one[f"head_{suffix}"] != other[f"head_{suffix}"]
        assert whole["loss"] == one["loss"] == other["loss"]
        assert one.keys() == other.keys()


def test_summaries_have_the_best_and_the_yardstick_of_each(histories):
    own, common, both = (histories[which].summary for which in ("own", "common", "both"))
    assert both["head_common_accuracy_best"] == common["head_accuracy_best"]
    assert both["majority_accuracy"] == own["majority_accuracy"]
    assert both["majority_common_accuracy"] == common["majority_accuracy"]
    assert own["majority_accuracy"] != common["majority_accuracy"]
    assert "majority_common_accuracy" not in own


def test_a_run_without_test_samples_ends_well(tmp_path, capsys):
    run = tmp_path / "run"
    assert (
        cli.main(["run", *FLAGS, "--train-fraction=1", "--evaluate-on=both", "--out", str(run)])
        == 0
    )
    output = capsys.readouterr()
    assert "NaN" not in output.out and "nan" not in output.out.lower().split()
    for row in rows_of(run):
        for name in ("head_accuracy", "head_accuracy_std", "head_common_accuracy"):
            assert row[name] is None
        assert row["loss"] > 0
    text = (run / "summary.json").read_text() + (run / "manifest.json").read_text()
    assert "NaN" not in text
    summary = json.loads((run / "summary.json").read_text())
    assert summary["majority_accuracy"] is summary["majority_common_accuracy"] is None
    assert summary["head_accuracy_best"] is None and summary["status"] == "finished"
    assert cli.main(["compare", str(run)]) == 0


def test_a_partition_is_written_run_and_recorded(tmp_path, capsys):
    path, run = tmp_path / "who.json", tmp_path / "run"
    dealing = ["--num-clients=3", "--alpha=0.5", "--num-samples=200", "--seed=4"]
    assert cli.main(["partition", *dealing, "--out", str(path)]) == 0
    assert "3 clients" in capsys.readouterr().out
    assert (tmp_path / "who.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main(["partition", *dealing, "--out", str(path)]) == 2
    assert "--out must be a new file unless --overwrite is given" in capsys.readouterr().err
    shared = [flag for flag in FLAGS if not flag.startswith(("--num-clients", "--alpha"))]
    shared += ["--num-samples=200", "--seed=4"]
    dealt, again = tmp_path / "dealt", tmp_path / "run"
    assert cli.main(["run", *shared, *dealing[:2], "--out", str(dealt)]) == 0
    assert cli.main(["run", *shared, f"--partition=file:{path}", "--out", str(again)]) == 0
    assert rows_of(again) == rows_of(dealt)
    written = json.loads(path.read_text())
    clients = json.loads((run / "manifest.json").read_text())["clients"]
    for client, train, test in zip(clients, written["train"], written["test"], strict=True):
        assert client["train_samples"] == len(train) == sum(client["train_by_class"].values())
        assert client["test_samples"] == len(test) == sum(client["test_by_class"].values())
    assert clients == json.loads((dealt / "manifest.json").read_text())["clients"]
    assert (run / "clients.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((run / "config.json").read_text())["num_clients"] == 3
    other = ["--num-samples=300", f"--partition=file:{path}"]
    assert cli.main(["run", *shared[:-2], *other, "--out", str(tmp_path / "no")]) == 2
    assert "num_samples must be 300, as the data have, got 200" in capsys.readouterr().err
