"""The round that validation samples select, and what is kept of single clients."""

import numpy as np
import pytest
from test_checkpoint import Watcher

from protonorm_jax.command import cli
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.methods import METHODS, Row
from protonorm_jax.methods.local import local
from protonorm_jax.planning import inputs, plan
from protonorm_jax.running import driver, job, programs, reading
from recorded import SMALL, rows_of

pytestmark = pytest.mark.usefixtures("hastily", "compiled_once", "undrawn")

FEW = SMALL.replace(
    **{"family": "mlp", "num_clients": 4, "feature_dim": 8, "rounds": 5, "eval_every": 2},
    **{"validation_fraction": 0.2, "keep_features": 1000, "learning_rate": 0.3},
)


@pytest.fixture(scope="module")
def run(small_set, tmp_path_factory):
    folder = tmp_path_factory.mktemp("selected")
    job.run(FEW, folder, display=Watcher(), dataset=small_set)
    return folder


def test_single_clients_add_up_to_the_rows_of_both_rounds(run):
    rows, summary = {row["round"]: row for row in rows_of(run)}, reading.read_summary(run)
    clients = reading.read_arrays(run)["clients.npz"]
    assert summary["predictor"] == "prototype"
    best = max(row["prototype_validation_accuracy"] for row in rows.values())
    first = next(
        number for number, row in rows.items() if row["prototype_validation_accuracy"] == best
    )
    assert summary["selected_round"] == first and clients["rounds"].tolist() == [first, 5]
    assert clients["parts"].tolist() == ["test", "validation", "train"]
    for name in ("head", "prototype"):
        for place, number in enumerate(clients["rounds"]):
            right = clients[f"{name}_correct"][place].sum(axis=0) / clients["count"].sum(axis=0)
            columns = [f"{name}_{part}accuracy" for part in ("", "validation_", "train_")]
            assert [rows[number][column] for column in columns] == right.tolist()
        assert summary[f"{name}_accuracy_selected"] == rows[first][f"{name}_accuracy"]
    held = reading.read_manifest(run)["clients"]
    assert [one["validation_samples"] for one in held] == clients["count"][:, 1].tolist()


def test_kept_features_are_classified_as_the_run_has_counted(run):
    """By the nearest prototype, of all test samples of all clients."""
    arrays = reading.read_arrays(run)
    features, prototypes = arrays["features.npz"], arrays["prototypes.npz"]
    vectors = np.where(prototypes["known"][:, None], prototypes["prototypes"], np.inf)
    vectors = vectors * FEW.method_settings["scale"]
    gaps = features["features"][:, None, :] - vectors
    right = np.square(gaps).sum(axis=2).argmin(axis=1) == features["labels"]
    clients = arrays["clients.npz"]
    count = np.bincount(features["clients"], minlength=4)
    assert count.tolist() == clients["count"][:, 0].tolist()
    found = np.bincount(features["clients"], weights=right, minlength=4)
    assert found.tolist() == clients["prototype_correct"][-1, :, 0].tolist()


def test_few_features_are_spread_over_the_clients(small_set):
    settings = FEW.replace(keep_features=6, rounds=1)
    simulation = driver.prepare([settings], small_set)
    (step,) = driver.train(simulation)
    kept = step.news[0].features
    assert kept["features"].shape == (6, 8)
    tested = simulation.plan.runs[0].partition.test_count
    assert (np.bincount(kept["clients"], minlength=4) <= np.minimum(tested, 2)).all()


def test_no_net_is_compiled_again_for_further_parts(small_set):
    """One forward loop scores all of them: as many products as without."""
    texts = [
        programs.texts(made, inputs.of_call(made, 0))[-1]
        for made in (plan.make([FEW.replace(validation_fraction=v)], small_set) for v in (0.0, 0.2))
    ]
    counts = [text.count("dot_general") for text in texts]
    assert counts[0] == counts[1] > 0


def test_a_predictor_that_there_is_not_is_refused(small_set, monkeypatch):
    def factory(setup, fixed):
        return local(setup, fixed)._replace(predictor="nearest")

    monkeypatch.setitem(METHODS, "odd", Row(factory))
    config = Config(**{**FEW.to_dict(), "method": "odd", "method_settings": {}})
    with pytest.raises(UsageError, match=r"Method.predictor must be one of head, got 'nearest'"):
        driver.prepare([config], small_set)


def test_tables_quote_the_selected_round(run, capsys):
    assert cli.main(["compare", str(run)]) == 0
    output = capsys.readouterr().out
    summary = reading.read_summary(run)
    assert "selected round" in output and "best" not in output
    assert f"{summary['prototype_accuracy_selected']:.3f}" in output
