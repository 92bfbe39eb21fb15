"""What is counted on the host: accuracies, class counts, rows and summaries."""

import numpy as np
import pytest

from protonorm_jax import metrics
from protonorm_jax.types import Partition, Scored


def test_accuracy_is_by_sample_and_its_deviation_by_client():
    mean, deviation = metrics.accuracy(np.array([9, 0, 0]), np.array([10, 2, 0]))
    assert mean == 9 / 12 and deviation == pytest.approx(np.std([0.9, 0.0]))
    assert all(np.isnan(metrics.accuracy(np.array([0]), np.array([0]))))


def test_counts_and_majority_by_hand():
    """Padding counts nowhere; of client 1's equally frequent classes the lower is guessed.

    The most frequent classes of the test samples, 2 for both, would be right more often.
    """
    labels = np.array([0, 0, 1, 1, 2, 1, 0, 2, 2, 2])
    partition = Partition(
        train=np.array([[0, 1, 2], [3, 4, 0]], np.int32),
        train_count=np.array([3, 2], np.int32),
        test=np.array([[6, 7, 8, 0], [5, 9, 4, 0]], np.int32),
        test_count=np.array([3, 3], np.int32),
    )
    assert metrics.class_counts(partition, labels, 4).tolist() == [[2, 1, 0, 0], [0, 1, 1, 0]]
    test = metrics.class_counts(partition, labels, 4, side="test")
    assert test.tolist() == [[1, 0, 2, 0], [0, 1, 2, 0]]
    own = Scored(("",), partition.test, partition.test_count[:, None])
    assert metrics.majority(partition, own, labels, 4) == {"majority_accuracy": 2 / 6}
    nothing = own._replace(counts=np.zeros((2, 1), np.int32))
    assert metrics.majority(partition, nothing, labels, 4) == {"majority_accuracy": None}


def test_majority_of_several_parts_by_hand():
    """Client 0 guesses 0 and client 1 guesses 2; rows are those of one part after the other's."""
    labels = np.array([0, 0, 2, 2, 0, 1, 2])
    partition = Partition(
        train=np.array([[0, 1], [2, 3]], np.int32),
        train_count=np.array([2, 2], np.int32),
        test=np.array([[4, 0], [6, 4]], np.int32),
        test_count=np.array([1, 2], np.int32),
    )
    rows = np.array([[4, 4, 5, 6, 0], [6, 4, 4, 5, 6]], np.int32)
    scored = Scored(("", "common"), rows, np.array([[1, 3], [2, 3]], np.int32))
    found = metrics.majority(partition, scored, labels, 3)
    assert found == {"majority_accuracy": 2 / 3, "majority_common_accuracy": 2 / 6}


def test_a_row_holds_means_over_the_clients_that_trained_and_what_was_sent():
    report = {
        "correct": {"head": np.array([[9], [0], [1]]), "prototype": np.array([[0], [0], [0]])},
        "trained": np.array([True, False, True]),
        "arrived": np.array([True, False, False]),
        "terms": {"loss": np.array([1.0, 100.0, 2.0]), "broken": np.array([1.0, 2.0, np.inf])},
        "server": {"min_angle": np.array(80.0), "prototypes": np.zeros((3, 2))},
        "floats_up": np.array([2**31 - 1, 0, 2**31 - 1], np.int32),
        "floats_down": np.array([2**31 - 1, 2**31 - 1, 0], np.int32),
        "floats": {"up": np.array([3, 5], np.uint32), "down": np.array([0, 2**32 - 1], np.uint32)},
    }
    expected = {
        "round": 4,
        "head_accuracy": 10 / 12,
        "head_accuracy_std": pytest.approx(np.std([0.9, 0.5])),
        "prototype_accuracy": 0.0,
        "prototype_accuracy_std": 0.0,
        "loss": 1.5,
        "broken": None,
        "min_angle": 80.0,
        "clients_trained": 2,
        "uploads_arrived": 1,
        "floats_up": 2**32 - 2,
        "floats_down": 2**32 - 2,
        "floats_up_total": 3 * 2**32 + 5,
        "floats_down_total": 2**32 - 1,
    }
    scored = Scored(("",), np.zeros((3, 10), np.int32), np.array([[10], [0], [2]]))
    assert metrics.row(4, report, scored) == expected
    nobody = report | {"trained": np.zeros(3, bool), "server": {}}
    row = metrics.row(4, nobody, scored._replace(counts=np.zeros((3, 1), int)))
    assert row["loss"] is row["head_accuracy"] is row["head_accuracy_std"] is None
    lost = metrics.row(4, report | {"arrived": np.zeros(3, bool)}, scored)
    assert lost["min_angle"] is None and lost["loss"] == 1.5


def test_predictors_are_found_by_their_accuracies():
    names = ["majority_accuracy", "mentee_accuracy", "head_accuracy", "head_accuracy_std", "loss"]
    assert metrics.predictors(dict.fromkeys(names)) == ["head", "mentee"]
    assert metrics.predictors({"head_accuracy": 1, "prototype_accuracy": 1})[0] == "prototype"
    assert metrics.predictors({"head_accuracy": 1, "head_common_accuracy": 1}) == ["head"]


def test_summary_takes_the_last_of_everything_and_the_best_accuracy():
    rows = [
        {"round": 1, "head_accuracy": 0.5, "head_accuracy_std": 0.9, "loss": 3.0},
        {"round": 3, "head_accuracy": None, "head_accuracy_std": None, "loss": 4.0},
        {"round": 5, "head_accuracy": 0.9, "head_accuracy_std": 0.2, "loss": 2.0},
        {"round": 7, "head_accuracy": 0.7, "head_accuracy_std": 0.3, "loss": 2.5},
    ]
    expected = {"rounds": 7, "head_accuracy": 0.7, "head_accuracy_std": 0.3, "loss": 2.5}
    assert metrics.summary(rows) == expected | {"head_accuracy_best": 0.9}
    assert metrics.summary(rows[1:2])["head_accuracy_best"] is None
    assert metrics.summary([]) == {"rounds": 0}


def test_the_round_that_validation_selects_is_the_first_of_the_best():
    def row(number, test, validation, other):
        return {
            "round": number,
            "head_accuracy": test,
            "head_validation_accuracy": validation,
            "head_train_accuracy": 1.0,
            "mentee_accuracy": other,
            "mentee_validation_accuracy": 1 - (validation or 0),
        }

    rows = [row(1, 0.9, None, 0.1), row(2, 0.6, 0.7, 0.2), row(3, 0.8, 0.7, 0.3)]
    rows.append(row(4, 0.7, 0.5, 0.4))
    summary = metrics.summary(rows, "head")
    assert summary["selected_round"] == 2 and summary["head_accuracy"] == 0.7
    assert summary["head_accuracy_selected"] == 0.6 and summary["head_accuracy_best"] == 0.9
    assert summary["mentee_accuracy_selected"] == 0.2
    assert summary["head_validation_accuracy_selected"] == 0.7
    assert "head_validation_accuracy_best" not in summary
    assert "head_train_accuracy_best" not in summary
    assert metrics.summary(rows, "mentee")["selected_round"] == 1
    assert metrics.predictors(summary) == ["head", "mentee"]
    assert "selected_round" not in metrics.summary(rows)
