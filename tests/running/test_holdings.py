"""Who holds what, listed in a manifest or as arrays beside it: both say the same."""

import numpy as np
import pytest

from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import plan as plans
from protonorm_jax.running import holdings, runs
from protonorm_jax.statistics.runs import Run, clients_right, held


@pytest.fixture(scope="module")
def plan(small_set):
    config = Config(family="mlp,cnn", num_clients=4, validation_fraction=0.2, devices=1)
    return plans.make([config], small_set)


def failed(manifest, arrays=None):
    """A run that has diverged, whose clients guess."""
    error = "loss must be finite, got a value that is not from client 1 in round 2"
    summary = {"status": "failed", "error": error, "rounds": 1}
    run = Run("run", {"evaluate_on": "own"}, summary, [], manifest, {}, {})
    return run if arrays is None else run._replace(holdings=arrays)


def test_the_arrays_of_many_clients_say_what_a_list_does(plan, monkeypatch):
    listed = holdings.described(plan, 0)
    assert holdings.arrays(plan, 0) == {} and len(listed["clients"]) == 4
    monkeypatch.setattr(holdings, "MOST_LISTED", 3)
    assert holdings.described(plan, 0) == {"clients_in": "holdings.npz"}
    arrays = holdings.arrays(plan, 0)
    assert arrays["architecture"].tolist() == [one["architecture"] for one in listed["clients"]]
    for part in ("train", "test", "validation"):
        assert arrays[part].dtype == np.uint8
        sums = [one[f"{part}_samples"] for one in listed["clients"]]
        assert arrays[part].sum(axis=1).tolist() == sums
    of_list, of_arrays = held(failed(listed)), held(failed({}, arrays))
    assert of_list.names == of_arrays.names == ["0", "1", "2", "3"]
    for one, other in zip(of_list[1:], of_arrays[1:], strict=True):
        np.testing.assert_array_equal(one, other[:, : one.shape[1]])
        assert not other[:, one.shape[1] :].any()
    right = [clients_right(failed(*given)) for given in ((listed,), ({}, arrays))]
    np.testing.assert_array_equal(*right)
    assert held(failed({}, arrays | {"name": np.array(list("abcd"))})).names == list("abcd")


@pytest.mark.parametrize(
    "arrays", [{"train": np.zeros((4, 2), int)}, {"train": np.zeros(4), "test": np.zeros((4, 2))}]
)
def test_arrays_of_another_form_are_refused(tmp_path, arrays):
    np.savez(tmp_path / "holdings.npz", **arrays)
    with pytest.raises(UsageError, match=r"readable holdings\.npz.* must be integers"):
        runs.read_holdings(tmp_path)
