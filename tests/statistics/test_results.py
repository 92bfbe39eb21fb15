"""What a comparison comes to: figures that follow by hand, and none where there is none."""

import json
import time

import numpy as np
import pytest
from made_runs import diverged, run
from scipy import stats

from protonorm_jax import statistics
from protonorm_jax.errors import UsageError

LOCAL = [0.50, 0.52, 0.54, 0.50]
OURS = [0.60, 0.58, 0.66, 0.64]


def results_of(runs, against="local"):
    (found,), _ = statistics.comparisons(runs)
    results = statistics.results(found, against)
    json.dumps(statistics.plain(results), allow_nan=False)
    return {one.label: one for one in results}


def several(method, values, **more):
    return [run(method, seed, value, **more) for seed, value in enumerate(values)]


def test_means_and_paired_differences_are_those_of_scipy():
    found = results_of([*several("local", LOCAL), *several("protonorm", OURS)])
    ours, local = found["protonorm"], found["local"]
    assert (ours.mean, local.mean) == pytest.approx((0.62, 0.515))
    assert ours.seeds == [0, 1, 2, 3] and ours.values == OURS and ours.diverged == []
    wanted = stats.ttest_rel(OURS, LOCAL)
    assert ours.difference.p == pytest.approx(wanted.pvalue)
    assert ours.difference.interval == pytest.approx(tuple(wanted.confidence_interval()))
    assert ours.difference.mean == pytest.approx(0.105)
    assert (ours.difference.pairs, ours.difference.unpaired) == (4, [])
    assert (ours.difference.holm, ours.difference.holm_over) == (ours.difference.p, 1)
    assert ours.interval == pytest.approx(tuple(stats.ttest_1samp(OURS, 0).confidence_interval()))
    assert ours.bootstrap is None and ours.difference.bootstrap is None, "four seeds are too few"
    assert ours.improvement == 1.0
    assert local.difference is None and local.improvement is None
    assert (ours.yardstick, ours.validation, ours.best_by_test) == pytest.approx((0.3, 0.6, 0.9))
    assert ours.predictors == {"prototype": ours.mean}
    assert ours.seconds == (2.0, 3.0, None)


def test_from_ten_seeds_on_there_is_a_bootstrap():
    generator = np.random.default_rng(0)
    values = 0.5 + 0.1 * generator.random((2, 10))
    found = results_of([*several("local", values[0]), *several("fedproto", values[1])])
    ours = found["fedproto"]
    low, high = ours.difference.bootstrap
    assert low < ours.difference.mean < high
    assert ours.bootstrap.low < ours.mean < ours.bootstrap.high
    again = results_of([*several("local", values[0]), *several("fedproto", values[1])])
    assert again["fedproto"] == ours


def test_holm_is_over_all_comparisons_of_a_data_set():
    def runs(alpha, digest, data="digits"):
        arms = {"local": LOCAL, "protonorm": OURS, "fedproto": [0.55, 0.5, 0.6, 0.51]}
        named = {"alpha": alpha, "digest": digest, "data": data}
        return [one for method, values in arms.items() for one in several(method, values, **named)]

    one, _ = statistics.comparisons(runs(0.1, "a" * 64))
    alone = statistics.every_result(one, "local")[0]
    plain = {one.label: one.difference.p for one in alone if one.difference}
    assert plain["protonorm"] < plain["fedproto"]
    assert alone[1].difference.holm == pytest.approx(2 * plain["protonorm"])
    assert alone[2].difference.holm == pytest.approx(plain["fedproto"])
    both, _ = statistics.comparisons(
        [*runs(0.1, "a" * 64), *runs(0.5, "a" * 64), *runs(0.1, "b" * 64, "tfds:mnist")]
    )
    found = statistics.every_result(both, "local")
    assert [results[1].difference.holm_over for results in found] == [4, 4, 2]
    assert found[0][1].difference.holm == pytest.approx(4 * plain["protonorm"])
    assert found[2][1].difference.holm == alone[1].difference.holm


def test_pairs_need_the_same_seed_and_the_same_partition():
    ours = [
        *(run("fedproto", 0, 0.6), run("fedproto", 1, 0.7, shares="other")),
        *(run("fedproto", 2, 0.8), run("fedproto", 3, 0.9, shares="")),
    ]
    ours[3].manifest["partition_digest"] = None
    found = results_of([*ours, *[run("local", seed, 0.5) for seed in (0, 1, 3, 4)]])
    difference = found["fedproto"].difference
    assert (
        difference.pairs == 1
        and difference.seeds == [0]
        and difference.values == [pytest.approx(0.1)]
    )
    assert difference.unpaired == [
        "seed 1: another partition",
        "seed 2: no run of local",
        "seed 3: the partition's digest is not recorded",
        "seed 4: no run of fedproto",
    ]
    assert (difference.interval, difference.p, difference.holm) == (None, None, None)
    assert found["fedproto"].mean == pytest.approx(0.75), "the mean is over all of its seeds"


def test_without_any_pair_there_is_no_difference():
    found = results_of([run("fedproto", 0), run("local", 1)])
    difference = found["fedproto"].difference
    assert difference.pairs == 0 and difference.mean is None and len(difference.unpaired) == 2


def test_equal_runs_have_neither_interval_nor_p():
    found = results_of([*several("local", [0.5] * 12), *several("fedproto", [0.5] * 12)])
    ours = found["fedproto"]
    assert (ours.interval, ours.bootstrap, ours.deviation) == (None, None, 0.0)
    difference = ours.difference
    assert difference.mean == 0 and difference.pairs == 12
    assert [difference.interval, difference.bootstrap, difference.p, difference.holm] == [None] * 4
    assert ours.improvement == 0.5


def test_a_seed_that_diverged_counts_and_is_marked():
    runs = [run("fedproto", 0, 0.6), diverged("fedproto", 1, 0.9), run("fedproto", 2, 0.7)]
    found = results_of([*runs, *several("local", LOCAL[:3])])
    ours = found["fedproto"]
    assert ours.values == [0.6, 0.3, 0.7] and ours.diverged == [1]
    assert ours.difference.values == pytest.approx([0.1, -0.22, 0.16])
    assert ours.predictors == {"prototype": pytest.approx(1.6 / 3)}
    assert ours.validation is None, "the yardstick on validation samples is not known"
    runs[1].summary["majority_validation_accuracy"] = 0.3
    found = results_of([*runs, *several("local", LOCAL[:3])])
    assert found["fedproto"].validation == pytest.approx(0.5)


def clients_of(method, right, seed=0, **more):
    return run(method, seed, right=right, count=COUNT, **more)


COUNT = [100, 50, 20, 19, 0, 40]


def test_figures_over_clients():
    local = clients_of("local", [50, 40, 10, 19, 0, 20])
    ours = clients_of("protonorm", [60, 30, 12, 0, 0, 20])
    found = results_of([local, ours])["protonorm"].clients
    shares = [0.6, 0.6, 0.6, 0.0, 0.5]
    assert found.mean == pytest.approx(np.mean(shares)), "without the one that has no samples"
    assert found.spread == pytest.approx(np.std(shares))
    assert (found.worst_tenth, found.best_tenth) == (0.5, pytest.approx(0.6))
    assert found.counted == 4, "nineteen samples are too few"
    assert (found.worse_than_local, found.local, found.pairs) == (2 / 5, "local", 1)


def test_a_tenth_of_many_clients_is_several():
    right = list(range(25))
    one = run("local", right=right, count=[25] * 25)
    found = results_of([one])["local"].clients
    assert found.worst_tenth == pytest.approx((0 + 1 + 2) / 3 / 25)
    assert found.best_tenth == pytest.approx((22 + 23 + 24) / 3 / 25)
    assert (found.worse_than_local, found.local, found.pairs) == (None, None, 0)


def test_clients_of_other_seeds_and_partitions_are_not_compared():
    ours = [
        clients_of("fedproto", [0, 0, 0, 0, 0, 0], seed=0),
        clients_of("fedproto", [100, 50, 20, 19, 0, 40], seed=1),
    ]
    local = [
        clients_of("local", [50, 40, 10, 19, 0, 20], seed=0),
        clients_of("local", [50, 40, 10, 19, 0, 20], seed=1, shares="other"),
    ]
    found = results_of([*ours, *local])["fedproto"].clients
    assert (found.worse_than_local, found.pairs) == (1.0, 1)
    assert found.mean == 0.5, "the mean of both seeds"


def test_clients_that_are_not_recorded_for_all_seeds_give_no_figure():
    found = results_of([clients_of("local", [1] * 4 + [0, 1]), run("local", 1)])["local"].clients
    assert found == (None, None, None, None, None, None, None, 0)
    # Of a round that is not the one quoted.
    other = clients_of("local", [1] * 4 + [0, 1])
    other.clients["rounds"][0] = 6
    assert results_of([other])["local"].clients.mean is None


def test_clients_of_a_run_that_diverged_guess():
    failed = diverged("fedproto", right=[100, 0], count=[100, 50])
    failed.manifest["clients"] = [
        {"train_by_class": {"0": 9, "1": 8}, "test_by_class": {"0": 60, "1": 40}}
        | {"test_samples": 100},
        {"train_by_class": {"1": 9}, "test_by_class": {"1": 25, "0": 25}, "test_samples": 50},
    ]
    local = run("local", right=[50, 30], count=[100, 50])
    found = results_of([failed, local])["fedproto"].clients
    assert found.mean == pytest.approx((0.6 + 0.5) / 2)
    assert found.worse_than_local == 0.5


def curve(values, totals=True):
    return [
        {"round": 5 * number, "head_accuracy": value}
        | ({"floats_up_total": 100 * number, "floats_down_total": number} if totals else {})
        for number, value in enumerate(values, 1)
    ]


def test_rounds_and_floats_to_reach_what_local_ends_with():
    local = [run("local", 0, 0.5, rows=curve([0.2, 0.5])), run("local", 1, 0.7, rows=curve([0.8]))]
    ours = [
        run("fd", 0, rows=curve([0.1, 0.59, 0.6, 0.9])),
        run("fd", 1, rows=curve([None, 0.7])),
        run("fd", 2, rows=curve([0.1, 0.2])),
    ]
    found = results_of([*local, *ours])
    assert found["fd"].reach == ("local", pytest.approx(0.6), 15.0, 303.0, 2, 3)
    assert found["local"].reach == ("local", pytest.approx(0.6), None, None, 1, 2)
    ours[1] = diverged("fd", 1, rows=curve([0.1, 0.7]))
    reach = results_of([*local, *ours])["fd"].reach
    assert (reach.rounds, reach.floats, reach.reached) == (None, None, 1)
    old = results_of([*local, run("fd", rows=curve([0.6], totals=False))])["fd"].reach
    assert (old.rounds, old.floats) == (5.0, None)
    assert results_of([ours[0]])["fd"].reach is None


def test_of_several_local_arms_the_one_trained_alike_counts():
    runs = [
        run(method, 0, value + epochs / 100, local_epochs=epochs)
        for method, value in (("local", 0.5), ("fedproto", 0.6))
        for epochs in (1, 5)
    ]
    found = results_of(runs)
    for epochs in (1, 5):
        own = found[f"fedproto, local_epochs={epochs}"]
        assert own.difference.against == f"local, local_epochs={epochs}"
        assert own.difference.mean == pytest.approx(0.1)
        assert own.reach.target == pytest.approx(0.5 + epochs / 100)
        assert found[f"local, local_epochs={epochs}"].difference is None
    named = results_of(runs, against="local, local_epochs=1")
    assert named["fedproto, local_epochs=5"].difference.against == "local, local_epochs=1"
    assert named["local, local_epochs=5"].difference.mean == pytest.approx(0.04)
    found, _ = statistics.comparisons(runs)
    statistics.check_against(found, "local")


def test_what_was_tuned_does_not_make_arms_unlike():
    def tuned(method, epochs, rate):
        cell = {"method": method, "local_epochs": epochs}
        choice = {"changes": cell, "tried": [{}], "seconds": 1.0}
        changes = cell | {"learning_rate": rate, "seed": 0}
        named = {"cell": cell, "changes": changes, "choice": choice}
        return run(method, learning_rate=rate, local_epochs=epochs, **named)

    found = results_of([tuned("local", 1, 0.1), tuned("local", 5, 0.2), tuned("fd", 5, 0.1)])
    assert found["fd, local_epochs=5"].difference.against == "local, local_epochs=5"


def test_what_is_no_arm_or_several_is_refused():
    arms = [run("protonorm", settings={"scale": scale}) for scale in (1, 2)]
    found, _ = statistics.comparisons([*arms, run("local")])
    with pytest.raises(UsageError, match=r"a method or an arm of the runs, .* got 'fedavg'"):
        statistics.check_against(found, "fedavg")
    with pytest.raises(UsageError, match="must be one arm, protonorm, scale=1; protonorm, scale=2"):
        statistics.check_against(found, "protonorm")
    statistics.check_against(found, "protonorm, scale=1")
    assert results_of([*arms, run("local")], "protonorm")["local"].difference is None
    held = results_of([*arms, run("local")], "protonorm, scale=1")
    assert held["protonorm, scale=2"].difference.against == "protonorm, scale=1"
    assert held["local"].difference.against == "protonorm, scale=1"


def test_bounds_are_shown_and_not_compared():
    pooled = run("local", value=0.95, num_clients=1, pooled_clients=4, shares="pooled")
    found = results_of([run("local"), run("fedproto"), pooled])
    assert list(found) == ["local", "fedproto", "pooled"]
    bound = found["pooled"]
    assert bound.bound and bound.mean == 0.95 and bound.difference is None and bound.reach is None
    assert found["fedproto"].difference.holm_over == 1
    assert not found["local"].bound


def test_what_tuning_took_is_told():
    choice = {"changes": {"method": "local"}, "tried": [{}], "seconds": 60.0}
    one = run(cell={"method": "local"}, changes={"method": "local", "seed": 0}, choice=choice)
    assert results_of([one])["local"].seconds.tuning == 60.0


def data_sets(count, values, **more):
    return [
        run(method, 0, value + number / 1000, digest=f"{number:064d}", data=f"set{number}", **more)
        for number in range(count)
        for method, value in values.items()
    ]


def test_mean_ranks_are_over_data_sets():
    runs = data_sets(2, {"local": 0.5, "fedproto": 0.6, "fedavg": 0.4})
    runs[3] = runs[3]._replace(summary=runs[3].summary | {"head_accuracy_selected": 0.9})
    ranks = statistics.ranks(statistics.comparisons(runs)[0])
    assert ranks.data_sets == ["set0", "set1"] and ranks.labels == ["local", "fedproto", "fedavg"]
    assert ranks.ranks == [[2, 1, 3], [1, 2, 3]] and ranks.means == [1.5, 1.5, 3]
    assert ranks.critical_difference is None and ranks.alike is None, "two sets are too few"
    assert ranks.interquartile[1] == pytest.approx(0.6005) and ranks.intervals == [None] * 3
    more = [
        run("local", seed, 0.1 * seed, digest=f"{n:064d}", data=f"set{n}")
        for n in (0, 1)
        for seed in range(1, 5)
    ]
    ranks = statistics.ranks(statistics.comparisons([*runs, *more])[0])
    assert ranks.interquartile[0] == pytest.approx(np.mean([0.2, 0.2, 0.3, 0.3, 0.4, 0.4]))
    assert ranks.intervals[0].low < ranks.interquartile[0] < ranks.intervals[0].high


def test_partitions_and_seeds_are_no_data_sets():
    values = {"local": 0.5, "fedproto": 0.6}
    runs = [one for alpha in np.arange(1, 13) for one in data_sets(1, values, alpha=float(alpha))]
    assert statistics.ranks(statistics.comparisons(runs)[0]) is None
    both = [*data_sets(2, values), *data_sets(1, {"local": 0.7, "fedproto": 0.6}, alpha=1.0)]
    ranks = statistics.ranks(statistics.comparisons(both)[0])
    assert ranks.ranks == [[1.5, 1.5], [2, 1]], "the ranks of one data set are averaged first"
    parts = [one for n in range(12) for one in data_sets(1, values, classes=f"0-{n}")]
    for number, one in enumerate(parts):
        one.manifest["data_digest"] = f"{number // 2:064d}"
    assert statistics.ranks(statistics.comparisons(parts)[0]) is None, "nor are parts of one"


def test_from_ten_data_sets_on_there_is_a_critical_difference():
    ordered = {"local": 0.5, "fedproto": 0.6, "fedavg": 0.4}
    found = statistics.ranks(statistics.comparisons(data_sets(10, ordered))[0])
    assert found.critical_difference == pytest.approx(2.343 * (3 * 4 / 60) ** 0.5, abs=1e-3)
    assert found.alike == [["fedproto", "local"], ["local", "fedavg"]]
    same = statistics.ranks(statistics.comparisons(data_sets(10, dict.fromkeys(ordered, 0.5)))[0])
    assert same.alike == [["local", "fedproto", "fedavg"]]


def test_without_friedmans_test_no_two_arms_differ():
    """Of these ranks the first two means are further apart than Nemenyi's difference."""
    table = [
        *([1, 4, 3, 2], [2, 4, 1, 3], [2, 3, 4, 1], [1, 2, 4, 3], [1, 4, 2, 3]),
        *([1, 3, 4, 2], [2, 3, 1, 4], [3, 2, 1, 4], [3, 4, 2, 1], [1, 4, 2, 3]),
    ]
    runs = [
        run(method, value=1 - rank / 10, digest=f"{number:064d}", data=f"set{number}")
        for number, row in enumerate(table)
        for method, rank in zip(("local", "fedproto", "fd", "fedavg"), row, strict=True)
    ]
    ranks = statistics.ranks(statistics.comparisons(runs)[0])
    assert ranks.means[1] - ranks.means[0] > ranks.critical_difference
    assert ranks.alike == [["local", "fd", "fedavg", "fedproto"]]


def test_an_arm_that_a_data_set_lacks_has_no_rank():
    runs = [*data_sets(2, {"local": 0.5, "fedproto": 0.6}), run("fedavg", digest=f"{0:064d}")]
    runs[-1].config["data"] = "set0"
    ranks = statistics.ranks(statistics.comparisons(runs)[0])
    assert ranks.left_out == ["fedavg"] and ranks.labels == ["local", "fedproto"]


def test_a_thousand_runs_take_seconds(monkeypatch):
    monkeypatch.setattr(statistics.intervals, "_RESAMPLES", 199)
    rows = curve(np.linspace(0.1, 0.9, 60).tolist())
    generator = np.random.default_rng(0)
    runs = [
        run(method, seed, generator.random(), alpha=alpha, settings={"scale": scale}, rows=rows)
        for alpha in (0.1, 0.5)
        for method in ("local", "protonorm", "fedproto", "fedavg", "fd")
        for scale in range(10)
        for seed in range(10)
    ]
    began = time.perf_counter()
    found, apart = statistics.comparisons(runs)
    results = statistics.every_result(found, "protonorm, scale=1")
    assert time.perf_counter() - began < 10
    assert [len(one) for one in results] == [50, 50] and not apart
