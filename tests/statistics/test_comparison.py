"""Which runs are compared, what arms and comparisons are called, and what is set apart."""

import pytest
from made_runs import CONFIG, diverged, run

from protonorm_jax.statistics import comparisons, outcome
from protonorm_jax.statistics.runs import clients_right, yardstick


def labels(comparison):
    return [arm.label for arm in comparison.arms]


def only(runs):
    """The one comparison of runs of which none is set apart."""
    (found,), apart = comparisons(runs)
    assert apart == []
    return found


def test_the_outcome_is_by_the_own_predictor_in_the_selected_round():
    assert outcome(run("protonorm", value=0.7)) == (0.7, False, 5)
    last = run("protonorm", value=0.7, validation_fraction=0.0)
    assert outcome(last) == (0.7, False, 10), "without validation samples the last round"


def test_a_run_that_diverged_counts_with_the_yardstick():
    assert outcome(diverged("protonorm", value=0.7)) == (0.3, True, None)
    without = diverged(value=0.7)
    del without.summary["majority_accuracy"]
    (found,), apart = comparisons([run(), without])
    assert len(found.arms[0].runs) == 1
    assert "yardstick is not recorded" in apart[0].reason


def test_the_yardstick_can_be_had_from_who_holds_what():
    failed = diverged()
    del failed.summary["majority_accuracy"]
    failed.manifest["clients"] = [
        {"train_by_class": {"3": 5, "2": 5}, "test_by_class": {"2": 3, "3": 7}, "test_samples": 10},
        {"train_by_class": {"1": 5}, "test_by_class": {"0": 6}, "test_samples": 6},
        {"train_by_class": {}, "test_by_class": {}, "test_samples": 0},
    ]
    right, count = clients_right(failed)
    assert (right.tolist(), count.tolist()) == ([3, 0, 0], [10, 6, 0]), "the lowest of equals"
    assert yardstick(failed) == 3 / 16
    failed.config["evaluate_on"] = "common"
    assert clients_right(failed) is None


def test_a_sweep_over_methods_is_one_comparison():
    found = only([run(method, seed) for method in ("protonorm", "local") for seed in (1, 0)])
    assert labels(found) == ["protonorm", "local"]
    assert [one.config["seed"] for one in found.arms[0].runs] == [0, 1]
    assert found.title == "digits" and not found.fixed_partition and not found.notes
    assert found.conditions["data_digest"] == "d" * 64
    assert {"alpha", "rounds", "validation_fraction"} < found.conditions.keys()
    assert {"classes_per_client", "straggler_work"}.isdisjoint(found.conditions)


def test_settings_of_a_method_tell_its_arms_apart():
    runs = [run("protonorm", settings={"scale": scale, "align": "auto"}) for scale in (4.0, 20)]
    found = only([*runs, run("fedproto", settings={"proximity": 1.0})])
    assert labels(found) == ["protonorm, scale=4", "protonorm, scale=20", "fedproto"]
    assert found.arms[0].shown == {"scale": 4.0}
    assert found.arms[0].settings["learning_rate"] == 0.01
    assert found.arms[0].settings["align"] == "auto"


def test_what_is_trained_otherwise_says_so_in_every_label():
    found = only([run("protonorm", local_epochs=5), run("local"), run("fedproto", local_epochs=5)])
    assert labels(found) == [
        "protonorm, local_epochs=5",
        "local, local_epochs=1",
        "fedproto, local_epochs=5",
    ]


def test_what_changes_no_result_does_not_matter():
    found = only([run(seed=0), run(seed=1, devices=4, checkpoint_every=3)])
    assert labels(found) == ["local"] and len(found.arms[0].runs) == 2


def tuned(method, seed, rate, cell, margin=None, points=2, **more):
    """A final run of a tuned experiment."""
    changes = {**cell, "learning_rate": rate, "seed": seed}
    if margin is not None:
        changes[f"{method}.margin"] = margin
        more["settings"] = {"margin": margin, **more.get("settings", {})}
    choice = {"changes": cell, "tried": [{}] * points, "seconds": 60.0}
    named = {"learning_rate": rate, "cell": cell, "changes": changes, "choice": choice}
    return run(method, seed, **named, **more)


def test_tuned_arms_are_cells_whatever_was_chosen_for_them():
    runs = [
        tuned("fedtgp", 0, 0.03, {"method": "fedtgp"}, margin=3.0),
        tuned("fedtgp", 1, 0.03, {"method": "fedtgp"}, margin=3.0),
        tuned("local", 0, 0.1, {"method": "local"}),
    ]
    found = only(runs)
    assert labels(found) == ["fedtgp", "local"]
    assert set(found.arms[0].tuned) == {"learning_rate", "margin"}
    assert found.notes == []


def test_cells_are_told_apart_by_the_grid_and_not_by_what_was_tuned():
    runs = [
        tuned(
            "protonorm", 0, rate, {"method": "protonorm", "align": align}, settings={"align": align}
        )
        for align, rate in (("auto", 0.1), ("none", 0.2))
    ]
    assert labels(only(runs)) == ["protonorm, align=auto", "protonorm, align=none"]


def test_two_experiments_that_chose_otherwise_are_not_mixed():
    cell = {"method": "local"}
    found = only([tuned("local", 0, 0.1, cell), tuned("local", 1, 0.2, cell, points=5)])
    assert labels(found) == ["local, learning_rate=0.1", "local, learning_rate=0.2"]
    assert found.notes == [
        "not all arms were tuned with equally many points: 2 (local, learning_rate=0.1), "
        "5 (local, learning_rate=0.2)"
    ]


def test_a_tuned_arm_beside_an_untuned_one_says_so():
    runs = [tuned("local", 0, 0.1, {"method": "local"}), run("local"), run("protonorm")]
    found = only(runs)
    assert labels(found) == ["local, tuned", "local", "protonorm"]
    assert "0 (local; protonorm), 2 (local, tuned)" in found.notes[0]
    found = only([*runs, run("fd", learning_rate=0.02)])
    assert labels(found) == [
        "local, tuned",
        "local, learning_rate=0.01",
        "protonorm, learning_rate=0.01",
        "fd, learning_rate=0.02",
    ]


def test_other_conditions_are_other_comparisons_named_by_what_differs():
    runs = [
        run(method, alpha=alpha, num_clients=clients)
        for alpha in (0.1, 0.5)
        for clients in (4, 8)
        for method in ("local", "protonorm")
    ]
    found, apart = comparisons(runs)
    assert [one.title for one in found] == [
        "num_clients=4, alpha=0.1",
        "num_clients=8, alpha=0.1",
        "num_clients=4, alpha=0.5",
        "num_clients=8, alpha=0.5",
    ]
    assert all(labels(one) == ["local", "protonorm"] for one in found) and not apart


@pytest.mark.parametrize(
    ("changed", "title"),
    [
        ({"family": "cnn"}, "family=cnn"),
        ({"rounds": 20}, "rounds=20"),
        ({"validation_fraction": 0.0}, "validation_fraction=0"),
        ({"train_fraction": 0.5}, "train_fraction=0.5"),
        ({"participation": 0.5}, "participation=0.5"),
        ({"eval_every": 1}, "eval_every=1"),
        ({"evaluate_on": "common"}, "evaluate_on=common"),
        ({"data": "tfds:mnist", "digest": "e" * 64}, "tfds:mnist"),
        ({"digest": "e" * 64}, "digits (SHA-256 eeeeeeee)"),
        ({"digest": "e" * 64, "classes": "0-4"}, "classes=0-4"),
    ],
)
def test_every_condition_makes_a_comparison_of_its_own(changed, title):
    found, apart = comparisons([run(), run("fedavg", **changed)])
    assert [one.title for one in found][1] == title and not apart
    assert [labels(one) for one in found] == [["local"], ["fedavg"]]


def test_equal_data_are_one_data_set_wherever_they_come_from():
    found = only([run(seed=0), run(seed=1, data="npz:copy.npz"), run(seed=2, evaluate_on="both")])
    assert len(found.arms[0].runs) == 3
    unknown, _ = comparisons([run(digest=None), run(seed=1, digest=None, data="tfds:mnist")])
    assert [one.title for one in unknown] == ["digits", "tfds:mnist"]


def test_settings_of_other_partitions_do_not_matter():
    found = only([run(seed=seed, partition="iid", alpha=seed + 1.0) for seed in (0, 1)])
    assert "alpha" not in found.conditions


def test_fixed_partitions_are_told_and_told_apart():
    def made(seed, digest, name="file:split.json"):
        return run(seed=seed, shares=digest, partition=name, validation_fraction=0.0)

    found, _ = comparisons([made(0, "a" * 64), made(1, "a" * 64, "file:copy.json")])
    assert len(found) == 1 and found[0].fixed_partition
    found, _ = comparisons([made(0, "a" * 64), made(1, "b" * 64)])
    assert [one.title for one in found] == [
        "partition_digest=aaaaaaaa",
        "partition_digest=bbbbbbbb",
    ]


def test_pooled_runs_stand_beside_the_arms_whose_conditions_they_share():
    pooled = {"num_clients": 2, "pooled_clients": 4}
    runs = [
        *[run(method, rounds=rounds) for rounds in (10, 20) for method in ("local", "protonorm")],
        run(num_clients=2),
        run(**pooled, name="p", rounds=10),
    ]
    found, apart = comparisons(runs)
    assert [[bound.label for bound in one.bounds] for one in found] == [["pooled"], [], []]
    assert not apart and len(found) == 3, "and makes none of its own"
    longer = run(**pooled, rounds=40, participation=0.5)
    found, _ = comparisons([*runs, longer])
    assert [[bound.label for bound in one.bounds] for one in found] == [
        ["pooled", "pooled, rounds=40, participation=0.5"],
        ["pooled, rounds=40, participation=0.5"],
        [],
    ]
    other = run(num_clients=2, pooled_clients=5)
    found, apart = comparisons([*runs[:4], other])
    assert [one.run for one in apart] == [other] and "pooled clients" in apart[0].reason


@pytest.mark.parametrize("status", ["stopped", "interrupted", "running", "killed"])
def test_what_has_not_ended_is_set_apart(status):
    unfinished = run(seed=1, summary={"status": status, "rounds": 5}, rows=[{"round": 5}])
    (found,), apart = comparisons([run(), unfinished])
    assert apart == [(unfinished, f"{status} after round 5 of 10")]
    assert len(found.arms[0].runs) == 1


def test_a_full_disk_is_no_divergence():
    failed = run(summary={"status": "failed", "error": "the arrays could not be written: disk"})
    found, apart = comparisons([failed])
    assert found == [] and apart[0].reason.endswith("the arrays could not be written: disk")
    assert len(only([run(seed=1), diverged(seed=0)]).arms[0].runs) == 2


def test_a_run_without_an_accuracy_is_set_apart():
    (_,), apart = comparisons([run(), run(seed=1, value=None)])
    assert apart[0].reason == "no accuracy on test samples is recorded"
    (_,), apart = comparisons([run(), run(seed=1, summary={"status": "not begun", "rounds": 0})])
    assert apart[0].reason == "not begun"


def test_of_two_runs_that_are_the_same_the_first_counts():
    again = run(value=0.6, name="again")
    (found,), apart = comparisons([run(name="first"), again, run(seed=1)])
    assert [one.name for one in found.arms[0].runs] == ["first", "local-1"]
    assert apart == [
        (again, "same settings and seed as first, which counts with 0.5000, this one had 0.6000")
    ]
    unfinished = run(name="killed", summary={"status": "killed", "rounds": 1})
    (found,), _ = comparisons([unfinished, run(name="second")])
    assert found.arms[0].runs[0].name == "second", "what is unfinished stands in nobody's way"


def test_other_versions_are_one_arm_and_noted():
    found = only([run(seed=0), run(seed=1, commit="a" * 40), run("fedproto")])
    assert labels(found) == ["local", "fedproto"]
    assert found.notes == [
        "commit is not the same in all runs: cccccccccccc (local: 1; fedproto: 1), "
        "aaaaaaaaaaaa (local: 1)"
    ]


def test_without_a_selected_round_the_last_counts_and_that_is_noted():
    one = run(summary={"selected_round": None})
    found = only([one, run(seed=1)])
    assert outcome(one) == (0.1, False, 10)
    assert found.notes == ["no round could be selected, so that the last counts: local-0"]


def test_the_order_of_runs_decides_the_order_alone():
    runs = [run(m, s, alpha=a) for a in (0.1, 1.0) for m in ("local", "fedproto") for s in (0, 1)]
    forward, _ = comparisons(runs)
    backward, _ = comparisons(reversed(runs))
    assert [one.title for one in forward] == [one.title for one in reversed(backward)]
    for one, other in zip(forward, reversed(backward), strict=True):
        assert one.conditions == other.conditions
        assert {arm.label: arm.runs for arm in one.arms} == {
            arm.label: arm.runs for arm in other.arms
        }


def test_made_runs_have_all_conditions():
    """So that a condition that is added here is tested here."""
    from protonorm_jax.statistics import comparison

    assert set(comparison.CONDITIONS) - CONFIG.keys() == {"failures"}
