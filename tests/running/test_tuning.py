"""Tuning at equal cost: what is tried, what is chosen, and that all of it survives being killed."""

import json
import math
import re
import shutil
import signal

import numpy as np
import pytest

from protonorm_jax import data, methods, settings, tuning
from protonorm_jax.command import cli
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.running import choices, holders, points, sweep, verify_sweeps
from protonorm_jax.running import directory as places
from recorded import rows_of, without_times

pytestmark = pytest.mark.usefixtures("hastily", "compiled_once", "undrawn")

BASE = Config(validation_fraction=0.25, rounds=9)
GRID = {"method": ["local", "fedproto", "fedtgp"]}
FLAGS = (
    *("--family", "mlp", "--num-clients", "4", "--feature-dim", "8", "--devices", "1"),
    *("--validation-fraction", "0.25", "--rounds", "3", "--grid", "alpha=0.5,5"),
    # The second learning rate diverges.
    *("--tune", "2", "--tune-learning-rates", "0.01:1e12", "--tune-rounds", "2", "--seeds", "2"),
)


def test_every_method_gets_equally_many_points_with_the_same_learning_rates():
    trials = points.draw(BASE, GRID, points.Budget(5, 2, 3), seeds=4)
    rates = trials.learning_rates
    assert sorted(rates) == pytest.approx(np.geomspace(0.001, 0.3, 5), rel=1e-5)
    assert min(rates) == 0.001 and max(rates) == 0.3 and rates != sorted(rates)
    assert [cell.changes for cell in trials.cells] == [{"method": name} for name in GRID["method"]]
    for cell in trials.cells:
        assert [point["learning_rate"] for point in cell.points] == rates
    assert [list(cell.ranges)[1:] for cell in trials.cells] == [
        [],
        ["proximity"],
        ["proximity", "margin"],
    ]
    assert trials.seeds == [1_000_000, 1_000_001] and trials.final_seeds == [0, 1, 2, 3]

    changes = trials.changes()
    assert len(changes) == 3 * 5 * 2
    assert changes[11] == {**GRID, "method": "fedproto", **trials.cells[1].points[0]} | {
        "seed": 1_000_001
    }
    assert trials.base(BASE) == BASE.replace(rounds=3)
    assert trials.base(BASE.replace(keep_models="last")) == BASE.replace(rounds=3)
    final = trials.final_changes([cell.points[2] for cell in trials.cells])
    assert len(final) == 12 and final[5] == {
        "method": "fedproto",
        **trials.cells[1].points[2],
        "seed": 1,
    }


def test_values_are_drawn_from_all_of_a_range():
    """One from each of as many equal parts of it, on its scale."""
    (cell,) = points.draw(BASE.replace(method="fedtgp"), {}, points.Budget(8)).cells
    assert cell.ranges["margin"] == {"low": 0.1, "high": 200.0, "scale": "log"}
    drawn = settings.Range(**cell.ranges["margin"])
    places_ = sorted(drawn.place(point["margin"]) * 8 for point in cell.points)
    assert [math.floor(place + 1e-3) for place in places_] == list(range(8))
    (cell,) = points.draw(BASE.replace(method="fml"), {}, points.Budget(8)).cells
    weights = sorted((point["private_weight"] - 0.1) / 0.9 * 8 for point in cell.points)
    assert [math.floor(weight + 1e-3) for weight in weights] == list(range(8))


def test_what_is_drawn_hangs_on_seed_method_cell_and_setting_alone():
    def of(base, grid, count=4):
        return points.draw(base, grid, points.Budget(count)).cells

    first = of(BASE, GRID)
    assert first == of(BASE, GRID)
    # Whatever else is in the grid, and whoever else is tuned.
    assert first[2] == of(BASE, {"method": ["fedtgp", "fml"]})[0]
    assert first[2].points != of(BASE.replace(seed=1), GRID)[2].points
    other = of(BASE, {**GRID, "alpha": [0.1, 0.5]})
    margins = [[point["margin"] for point in cell.points] for cell in other[4:]]
    assert margins[0] != margins[1]
    # As it was drawn once: a numpy that draws otherwise would change what is recorded.
    assert first[2].points[0] == {"learning_rate": 0.00669433, "proximity": 31.91, "margin": 5.568}


def test_what_is_decided_is_not_drawn():
    def names(base, grid, given=()):
        cells = points.draw(base, grid, points.Budget(2), given=given).cells
        return [sorted(cell.ranges) for cell in cells]

    tgp = BASE.replace(method="fedtgp")
    assert names(tgp, {}) == [["learning_rate", "margin", "proximity"]]
    assert names(tgp.replace(margin=5.0), {}) == [["learning_rate", "proximity"]]
    assert names(tgp, {}, given=["margin"]) == [["learning_rate", "proximity"]]
    assert names(tgp, {"margin": [100.0]}) == [["learning_rate", "proximity"]]
    grid = {"method": ["fedproto", "fedtgp"], "fedtgp.margin": [1.0, 2.0]}
    assert names(BASE, grid) == [["learning_rate", "proximity"]] * 3


def test_ranges_hold_the_tuned_values_of_the_public_codes():
    tuned = {
        "protonorm": {"proximity": 10, "scale": 80},
        "fedproto": {"proximity": 10},
        "fml": {"private_weight": 0.5, "shared_weight": 0.5},
        "fedtgp": {"proximity": 10, "margin": 100},
        "fd": {"weight": 1},
        "fedgh": {"server_learning_rate": 0.01},
        "fedkd": {"mentee_learning_rate": 0.01},
        "fedgen": {"generator_learning_rate": 0.1},
        "fedl2g": {"server_learning_rate": 0.01},
    }
    for name, row in methods.METHODS.items():
        found = settings.ranges(row.settings)
        assert found.keys() == tuned.get(name, {}).keys(), name
        for setting, value in tuned.get(name, {}).items():
            assert 0.05 < found[setting].place(value) < 0.95, (name, setting)


@pytest.mark.parametrize(
    ("tune", "traced", "words"),
    [
        ((0.1, 1), True, "be settings.between(low, high) or left out"),
        (settings.between(0.1, 1), False, "be left out for a setting that is not traced"),
        (settings.between(1, 0.1), True, "have two finite ends, the low one first"),
        (settings.between(0.1, math.inf), True, "have two finite ends, the low one first"),
        (settings.between(0, 1, log=True), True, "begin above 0 on a logarithmic scale"),
        (settings.between(0.1, 3), True, "hold only what the setting may be: mine.pull must be <="),
    ],
    ids=["no range", "not traced", "turned round", "endless", "log of 0", "beyond the rule"],
)
def test_ranges_of_a_users_method_are_checked(tune, traced, words):
    @settings.group
    class Group:
        pull: float = settings.setting(0.5, "", traced=traced, least=0, most=2, tune=tune)

    with pytest.raises(UsageError, match=rf"^mine\.pull: tune must {re.escape(words)}"):
        methods.METHODS["mine"] = methods.Row(methods.METHODS["local"].factory, Group)
    assert "mine" not in methods.METHODS and "mine" not in settings.groups()


def result(validation, test=0.5, *, predictor="head", diverged=False):
    """A row of `results.jsonl`, as far as a choice looks into it."""
    if diverged:
        return {"status": "failed", "error": "loss must be finite", "majority_accuracy": 0.3}
    return {
        "status": "finished",
        "predictor": predictor,
        "head_validation_accuracy_selected": 0.99,
        "head_accuracy_selected": 0.98,
        f"{predictor}_validation_accuracy_selected": validation,
        f"{predictor}_accuracy_selected": test,
        "majority_accuracy": 0.3,
    }


def chosen(rows, *, seeds=1, count=3):
    """What is chosen in one cell."""
    cell = points.Cell({}, {}, [{"scale": float(number)} for number in range(count)])
    trials = points.Trials([cell], list(range(seeds)), 3, [7], [0.1] * count)
    (one,) = choices.choose(trials, rows, [float(2**n) for n in range(len(rows))])
    return one


def test_the_best_mean_validation_accuracy_is_chosen():
    rows = [result(value, 1 - value) for value in (0.2, 0.9, 0.6, 0.6, 0.5, 0.6)]
    one = chosen(rows, seeds=2)
    assert (one["chosen"], one["point"]) == (1, {"scale": 1.0})
    assert [tried["validation_accuracy"] for tried in one["tried"]] == pytest.approx(
        [0.55, 0.6, 0.55]
    )
    assert [tried["test_accuracy"] for tried in one["tried"]] == pytest.approx([0.45, 0.4, 0.45])
    assert [tried["seconds"] for tried in one["tried"]] == [3, 12, 48] and one["seconds"] == 63
    # By the method's own predictor, whatever the head says; the first of equals.
    rows = [result(value, predictor="prototype") for value in (0.4, 0.7, 0.7)]
    assert chosen(rows)["chosen"] == 1


def test_what_diverges_counts_as_tried_and_is_chosen_only_where_all_do():
    one = chosen(
        [result(0.9), result(0, diverged=True), result(0.2), result(0.1)], seeds=2, count=2
    )
    assert one["chosen"] == 1
    assert [tried["diverged"] for tried in one["tried"]] == [1, 0]
    assert [tried["validation_accuracy"] for tried in one["tried"]] == [None, pytest.approx(0.15)]
    assert one["tried"][0]["test_accuracy"] == pytest.approx((0.5 + 0.3) / 2)
    lost = result(0, diverged=True)
    assert chosen([lost, lost, result(0.1), lost], seeds=2, count=2)["chosen"] == 1
    assert chosen([lost, lost, lost])["chosen"] == 0
    # Without a figure, but to its end, is better than to no end.
    assert chosen([lost, result(None), lost])["chosen"] == 1


def test_a_choice_at_the_edge_is_flagged():
    ranges = {
        "learning_rate": {"values": [0.1, 0.001, 0.01]},
        "scale": {"low": 1.0, "high": 100.0, "scale": "log"},
        "weight": {"low": 0.0, "high": 1.0, "scale": "linear"},
    }
    tried = [(0.1, 50.0, 0.5), (0.001, 1.2, 0.94), (0.01, 82.0, 0.04), (0.01, 78.0, 0.06)]
    cell = points.Cell({}, ranges, [dict(zip(ranges, one, strict=True)) for one in tried])
    assert [choices.edges(cell, number) for number in range(4)] == [
        ["learning_rate"],
        ["learning_rate", "scale"],
        ["scale", "weight"],
        [],
    ]


def test_seconds_of_runs_side_by_side_are_shared(small_set):
    """Three runs, two at a time."""
    base = BASE.replace(family="mlp", num_clients=4, feature_dim=8, devices=1)
    planned = sweep.plan(base, sweep.expand(base, {}, 3), small_set, runs_per_program=2)
    rows = [{"seconds": 4.0}, {"seconds": 4.0}, {"seconds": 3.0}]
    assert tuning.seconds_of_each(planned, rows) == [2.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--grid", "learning-rate=0.1,0.2"), "grid: learning_rate must be left out with --tune"),
        (("--grid", "seed=1,2"), "grid: seed must be left out with --tune; --seeds says which"),
        (("--learning-rate", "0.1"), "--learning-rate must be left out with --tune, got 0.1"),
        (
            ("--validation-fraction", "0"),
            "Config.validation_fraction must be > 0 with --tune, as settings are chosen by",
        ),
        (("--tune", "0"), "--tune must be an integer >= 1, got 0"),
        (("--tune-seeds", "0"), "--tune-seeds must be an integer >= 1, got 0"),
        (("--tune-learning-rates", "0.3:0.1"), "--tune-learning-rates must be LOW:HIGH with 0 <"),
        (("--tune-learning-rates", "0.3"), "--tune-learning-rates must be LOW:HIGH, two numbers"),
        (("--seed", str(2**32 - 1)), "--seed must be < 4293967296 and --seeds <= 1000000"),
        (("--seeds", "1000001"), "--seed must be < 4293967296 and --seeds <= 1000000 with --tune"),
        (("--keep-state",), "Config.keep_state must be false in a sweep"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(flags, words, tmp_path, capsys):
    common = ("--validation-fraction", "0.2", "--family", "mlp", "--tune", "2", "--out")
    assert cli.main(["sweep", *common, str(tmp_path / "new"), *flags]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and words in errors[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["seeds=3", "rounds=3", "learning-rates=0.1:1"])
def test_budgets_mean_nothing_without_tuning(flag, capsys):
    assert cli.main(["sweep", f"--tune-{flag}", "--dry-run"]) == 2
    name = flag.partition("=")[0]
    assert f"--tune-{name} must be left out without --tune" in capsys.readouterr().err


@pytest.fixture(scope="module")
def small_file(small_set, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "small.npz"
    data.save_npz(small_set, path)
    return str(path)


@pytest.fixture(scope="module")
def whole(small_file, tmp_path_factory):
    """A small experiment from the command line: one program, two cells, two points, two seeds."""
    out = tmp_path_factory.mktemp("tuned") / "whole"
    assert cli.main(["sweep", "--data", small_file, *FLAGS, "--out", str(out)]) == 0
    return out


def content(directory):
    """All results of an experiment, but for times."""

    def timeless(one):
        if isinstance(one, dict):
            return {name: timeless(value) for name, value in one.items() if name != "seconds"}
        return [timeless(value) for value in one] if isinstance(one, list) else one

    found = {
        str(path.relative_to(directory)): path.read_bytes()
        for pattern in ("**/metrics.jsonl", "**/config.json", "**/sweep.json", "tuning.json")
        for path in directory.glob(pattern)
    }
    for name in ("results.jsonl", "tuning/results.jsonl"):
        found[name] = without_times(directory / name)
    found["choices.json"] = timeless(json.loads((directory / "choices.json").read_text()))
    assert not list(directory.rglob(f"{holders.NAME}*")) + list(directory.rglob("*.tmp"))
    return found


def test_an_experiment_records_what_was_tried_chosen_and_run(whole, capsys):
    described = json.loads((whole / "tuning.json").read_text())
    trials = [json.loads(row) for row in (whole / "tuning/results.jsonl").read_text().splitlines()]
    assert [row["seed"] for row in trials] == [1_000_000] * 4
    assert [row["status"] == "failed" for row in trials] == [
        rate > 1 for rate in described["learning_rates"] * 2
    ]
    assert all(len(rows_of(whole / f"tuning/runs/{n:04d}")) <= 2 for n in range(4))
    chosen_ = json.loads((whole / "choices.json").read_text())
    rows = [json.loads(row) for row in (whole / "results.jsonl").read_text().splitlines()]
    for number, (cell, one) in enumerate(zip(described["cells"], chosen_, strict=True)):
        assert one["changes"] == cell["changes"] == {"alpha": [0.5, 5.0][number]}
        assert one["point"] == cell["points"][one["chosen"]]
        assert one["point"]["learning_rate"] == 0.01 and "learning_rate" in one["edges"]
        assert sorted(tried["diverged"] for tried in one["tried"]) == [0, 1]
        finished = next(row for row in trials[2 * number :] if row["status"] == "finished")
        accuracy = one["tried"][one["chosen"]]["validation_accuracy"]
        assert accuracy == finished["prototype_validation_accuracy_selected"]
        for row in rows[2 * number : 2 * number + 2]:
            assert {name: row[name] for name in one["point"]} == one["point"]
            assert row["alpha"] == cell["changes"]["alpha"] and row["rounds"] == 3
    assert [row["seed"] for row in rows] == [0, 1, 0, 1]
    assert cli.main(["compare", str(whole)]) == 0
    printed = capsys.readouterr().out
    assert "Chosen by mean validation accuracy" in printed and "Accuracy, selected" in printed
    assert max(map(len, printed.splitlines())) <= 120


def killed_in(stage, whole, killed):
    """What is there of an experiment that was killed in a stage."""
    shutil.copytree(whole, killed)
    part = killed if stage == "final" else killed / "tuning"
    if stage != "final":
        for name in ("choices.json", "sweep.json", "results.jsonl"):
            (killed / name).unlink()
        shutil.rmtree(killed / "runs")
    if stage == "at the start":
        shutil.rmtree(killed / "tuning")
        return
    rows = (part / "results.jsonl").read_text().splitlines(keepends=True)
    left = rows if stage == "between" else [*rows[:1], rows[1][:20]]
    (part / "results.jsonl").write_text("".join(left))


@pytest.mark.parametrize(
    "stage",
    [
        "tuning",
        "final",
        *(pytest.param(stage, marks=pytest.mark.large) for stage in ("at the start", "between")),
    ],
)
def test_resume_goes_on_from_any_stage(stage, whole, tmp_path):
    killed = tmp_path / "killed"
    killed_in(stage, whole, killed)
    assert cli.main(["resume", str(killed)]) == 0
    assert content(killed) == content(whole)


class StopsAfterTuning:
    """A display that sends SIGTERM as soon as the tuning runs are over."""

    def tuning(self, planned):
        return self

    def final(self, planned):
        raise AssertionError("told to stop")

    def __enter__(self):
        return None

    def __exit__(self, *_):
        signal.raise_signal(signal.SIGTERM)


def test_sigterm_between_the_stages_stops_there(whole, small_file, tmp_path, capsys):
    """And what was there before is replaced as a whole."""
    out = shutil.copytree(whole, tmp_path / "out")
    base = Config(
        data=small_file,
        family="mlp",
        num_clients=4,
        feature_dim=8,
        devices=1,
        validation_fraction=0.25,
        rounds=3,
    )
    with pytest.raises(UsageError, match="--out must be a new or empty directory"):
        tuning.run(base, {}, out, tune=1)
    found = tuning.run(base, {}, out, tune=1, overwrite=True, display=StopsAfterTuning())
    assert len(found.choices) == 1 and found.rows == [] and found.missing == 1
    names = sorted(path.name for path in out.iterdir())
    assert names == ["choices.json", "tuning", "tuning.json"]
    assert cli.main(["compare", str(out)]) == 0
    assert cli.main(["verify", str(out)]) == 2
    assert "DIR must hold a finished experiment, got one without" in capsys.readouterr().err
    assert cli.main(["resume", str(out), "--rounds", "5"]) == 2
    assert cli.main(["resume", str(out)]) == 0
    assert len(without_times(out / "results.jsonl")) == 1


def forge(directory, *changes):
    for name, old, new in changes:
        text = (directory / name).read_text()
        assert old in text, name
        (directory / name).write_text(text.replace(old, new))


def test_verify_runs_all_runs_of_both_sweeps_again(whole, capsys):
    assert cli.main(["verify", str(whole)]) == 0
    printed = capsys.readouterr().out
    assert f"{whole}/tuning/runs: 0000 to 0003: reproduced bit by bit" in printed
    assert f"{whole}/runs: 0000 to 0003: reproduced bit by bit" in printed
    assert f"{whole}: reproduced bit by bit" in printed


def test_verify_says_what_differs_in_which_run(whole, tmp_path, capsys):
    forged = shutil.copytree(whole, tmp_path / "forged")
    forge(
        forged,
        ("runs/0001/summary.json", '"rounds": ', '"rounds": 1'),
        ("runs/0002/metrics.jsonl", '"round": 2, "', '"round": 2, "more": 1, "'),
        ("runs/0003/config.json", '"batch_size": 32', '"batch_size": 33'),
    )
    for name in (*places.EXPERIMENT, "tuning"):  # As a plain sweep.
        shutil.rmtree(forged / name) if name == "tuning" else (forged / name).unlink()
    assert cli.main(["verify", str(forged)]) == 1
    printed = capsys.readouterr().out
    for text in (
        f"{forged}/runs: 0000: reproduced bit by bit",
        "0001: rounds 1 to 3: bit-identical (3 rows)",
        "0001: summary.json: DIFFERENT: rounds 13 -> 3",
        "0001: results.jsonl: DIFFERENT: rounds 3 -> 13",
        "0002: round 2: DIFFERENT: more 1 -> None",
        "0003: config.json: DIFFERENT: batch_size 33 -> 32",
        f"{forged}: NOT reproduced",
    ):
        assert text in printed


def test_verify_asks_what_follows_from_what(whole, tmp_path, monkeypatch, capsys):
    """Of what was drawn, chosen and then run; without running anything here."""
    monkeypatch.setattr(
        verify_sweeps, "_sweep_again", lambda again, _: verify_sweeps.Sweep(again.directory, [])
    )

    def found(name, *changes):
        forged = shutil.copytree(whole, tmp_path / name)
        forge(forged, *changes)
        assert cli.main(["verify", str(forged)]) == 1
        printed = capsys.readouterr().out
        assert f"{forged}: NOT reproduced" in printed
        return re.findall("DIFFERENT: (.*)", printed)

    assert found(
        "drawn, chosen and run",
        ("tuning.json", '"scale": "log"', '"scale": "linear"'),
        ("choices.json", '"validation_accuracy": 0.', '"validation_accuracy": 0.1'),
        ("sweep.json", '"seed": 1', '"seed": 11'),
    ) == [
        "tuning.json: the points of cell 0 are not those of seed 0",
        "tuning.json: the points of cell 1 are not those of seed 0",
        "choices.json does not follow from tuning/results.jsonl",
        "sweep.json is not what choices.json says",
    ]
    assert found("tried", ("tuning/sweep.json", '"seed": 1000000', '"seed": 1000001')) == [
        "tuning/sweep.json is not what tuning.json says"
    ]


def test_verify_of_other_data_and_of_half_a_sweep(whole, small_file, tmp_path, capsys):
    """Neither is run."""
    copied = shutil.copytree(whole / "tuning", tmp_path / "tuning")
    described = json.loads((copied / "sweep.json").read_text())
    digests = described["data_digests"]
    described["data_digests"] = ["0" * 64]
    (copied / "sweep.json").write_text(json.dumps(described))
    assert cli.main(["verify", str(copied)]) == 1
    said = f"NOT reproduced: the data differ: SHA-256 {'0' * 64} -> {digests[0]}"
    assert said in capsys.readouterr().out.replace("\n", " ")
    rows = (copied / "results.jsonl").read_text().splitlines(keepends=True)
    (copied / "results.jsonl").write_text("".join(rows[:3]))
    assert cli.main(["verify", str(copied)]) == 2
    assert "DIR must hold a finished sweep, got 3 of 4 runs" in capsys.readouterr().err


def test_what_is_no_experiments_is_left_alone(whole, tmp_path):
    """A sweep that only stands where the tuning runs would be, and files of other people."""
    outer, inner = tmp_path / "outer", tmp_path / "outer" / "tuning"
    shutil.copytree(whole / "tuning", outer)
    shutil.copytree(whole / "tuning", inner)
    with pytest.raises(UsageError, match="--out must hold no 'tuning' but a tuned experiment's"):
        tuning.check_free(outer, overwrite=True)
    places.replace(outer, places.CONFIG, {})
    assert sorted(path.name for path in outer.iterdir()) == ["config.json", "tuning"]
    assert len(list(inner.rglob("metrics.jsonl"))) == 4

    old = shutil.copytree(whole, tmp_path / "old")
    (old / "tuning" / "notes.txt").write_text("mine")
    tuning.check_free(old, overwrite=True)
    places.replace(old, places.CONFIG, {})
    assert sorted(str(path.relative_to(old)) for path in old.rglob("*")) == [
        "config.json",
        "tuning",
        "tuning/notes.txt",
    ]


def test_a_dry_run_says_what_is_tried_and_writes_nothing(small_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sweep", "--data", small_file, *FLAGS, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "2 settings tried in each of 2 cells, 1 run each of 2 rounds; 2 at the one" in printed
    assert "learning_rate 2 from 0.01 to 1e+12; proximity 0.1 to 100 (log); scale 1" in printed
    assert "tuning: 4 runs, 1 program to compile" in printed
    assert "final runs: 4 runs, 1 program to compile" in printed
    assert list(tmp_path.iterdir()) == []
    assert cli.main(["methods", "fedtgp"]) == 0
    assert "0.1 to 200 (log)" in capsys.readouterr().out
