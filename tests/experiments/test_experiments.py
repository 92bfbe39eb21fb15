import csv
import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from experiments import Sweep, Timing, Tuning, __main__
from experiments.bench import alignment
from experiments.runner import arguments, catalogue, cost, pages, place, stand_in
from protonorm_jax import models
from protonorm_jax.command import cli, commands, flags
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.running import grid, points

pytestmark = pytest.mark.usefixtures("hastily", "compiled_once", "undrawn")

NAMES = catalogue.names()
SWEEPS = [
    (name, size)
    for name in NAMES
    for size, one in catalogue.sizes(name).items()
    if isinstance(one, Sweep)
]
TINY = Sweep(
    base={
        "data": "digits",
        "family": "mlp",
        "num_clients": 2,
        "alpha": 1.0,
        "feature_dim": 8,
        "rounds": 2,
        "validation_fraction": 0.15,
        "devices": 1,
    },
    grids=[{"scale": [1.0, 80.0]}],
    seeds=1,
)


def configs(name, size):
    """Of one seed."""
    chosen = catalogue.one(name, size)
    base = Config(**{"data": "digits", **chosen.base})
    changes = grid.expand(base, arguments.grids(chosen, []))
    return [grid.changed(base, change) for change in changes]


def test_what_the_paper_needs_is_there(capsys):
    assert __main__.main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{name} " in listed for name in NAMES)
    wanted = {"main_comparison", "ablation", "scale", "proximity", "feature_dimension", "clients"}
    wanted |= {"local_epochs", "heterogeneity", "alignment_arms", "communication", "alignment_cost"}
    assert wanted == {name for name in NAMES if {"quick", "full"} <= {*catalogue.sizes(name)}}
    assert all({"small"} == {*catalogue.sizes(name)} for name in {*NAMES} - wanted)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_says_how_it_is_run_how_long_it_takes_and_what_came_of_it(name):
    text = catalogue.described(name)
    sizes = catalogue.sizes(name)
    assert len(text.splitlines()[0]) <= 100 and text.splitlines()[0].endswith((".", "?"))
    commands = re.findall(r"^ *Command: (.*(?:\n +--.*)?)$", text, re.MULTILINE)
    assert len(commands) == len(sizes)
    for size, command in zip(sizes, commands, strict=True):
        assert f"python -m experiments {name}" in command
        assert (f"--size {size}" in command) == (size != "quick")
    for word in ("Time", "Result"):
        said = re.findall(rf"^ *{word}: (\S+)", text, re.MULTILINE)
        assert len(said) == len(sizes) and not any(one.isupper() for one in said)


@pytest.mark.parametrize(("name", "size"), SWEEPS)
def test_a_size_is_of_runs_that_can_be_planned(name, size):
    chosen = catalogue.one(name, size)
    for config in configs(name, size):
        assert 0 < config.validation_fraction < 1
        some = 2 if config.pooled_clients else 4
        assert config.eval_every <= config.rounds // some  # Rounds to choose from.
        family = set(models.family(config.family))
        assert config.method != "fedavg" or len(family) == 1
        assert not config.pooled_clients or (config.method, config.num_clients) == (
            "local",
            len(models.family(config.family)),
        )
    named = [] if "data" in chosen.base or chosen.grids[0].get("data") else ["--data", "digits"]
    words = arguments.flags(chosen, name, named)
    parsed = commands.parse(["sweep", *words])
    assert flags.chosen(parsed) == Config(**{"data": "digits", **chosen.base})
    assert parsed.seeds == chosen.seeds
    if chosen.tuning:
        budget = points.Budget(parsed.tune, parsed.tune_seeds, parsed.tune_rounds)
        trials = points.draw(Config(**{"data": "digits", **chosen.base}), chosen.grids, budget)
        assert len(trials.cells) == len(configs(name, size))
        assert trials.rounds <= chosen.base["rounds"] and trials.rounds % parsed.eval_every == 0


@pytest.mark.parametrize("name", [name for name, size in SWEEPS if size == "quick"])
def test_quick_sizes_take_what_the_package_ships_and_pairs_of_runs(name):
    every = configs(name, "quick")
    assert {config.data for config in every} == {"digits"}
    seeds = catalogue.one(name, "quick").seeds
    assert seeds % 2 == 0 and seeds * len(every) <= 80


def test_flags_stand_in_place_of_what_is_set_or_varied():
    chosen = Sweep(
        base={"family": "tiny", "rounds": 5, "nesterov": False},
        grids=[
            {"data": ["a.npz", "b.npz"], "method": ["fedtgp", "local"]},
            {"data": ["a.npz"], "method": ["local"], "num_clients": [4], "pooled_clients": [20]},
        ],
        seeds=3,
        tuning=Tuning(6, 2, 20),
    )
    plain = arguments.flags(chosen, "one", [])
    tuned = ["--tune", "6", "--tune-seeds", "2", "--tune-rounds", "20"]
    assert plain == [
        *["--family", "tiny", "--rounds", "5", "--no-nesterov", "--seeds", "3"],
        *tuned,
    ]
    given = ["--rounds=7", "--data", "c.npz", "--nesterov", "--grid", "method=fd,fml"]
    assert arguments.flags(chosen, "one", given) == [
        *["--family", "tiny", "--seeds", "3"],
        *tuned,
        *given,
    ]
    assert arguments.grids(chosen, given) == [
        {},
        {"method": ["local"], "num_clients": [4], "pooled_clients": [20]},
    ]
    with pytest.raises(UsageError, match="--overwrite must be left out"):
        arguments.flags(chosen, "one", ["--overwrite"])
    with pytest.raises(UsageError, match="--data must be given for one"):
        arguments.flags(chosen._replace(grids=[{}]), "one", [])


@pytest.fixture
def tiny(monkeypatch):
    """An experiment of two short runs in the place of `scale`."""
    monkeypatch.setattr(catalogue, "one", lambda name, size: TINY)


@pytest.fixture
def calls(monkeypatch):
    """The commands of protonorm that are called from now on; none is run."""
    called = []
    monkeypatch.setattr(cli, "main", lambda words: called.append(words[0]) or 0)
    return called


@pytest.mark.large
def test_what_is_finished_is_left_and_what_was_stopped_is_gone_on_with(
    tiny, tmp_path, monkeypatch, capsys
):
    words = ["scale", "--out", str(tmp_path)]
    folder = tmp_path / "scale"
    assert place.state(folder) is place.State.NEW
    assert __main__.main(words) == 0
    results = folder / "results.jsonl"
    complete = results.read_text()
    assert place.state(folder) is place.State.FINISHED and complete.count("\n") == 2
    row = json.loads(complete.splitlines()[0])
    assert row["scale"] == 1.0 and "prototype_accuracy_selected" in row

    results.write_text(complete.splitlines(keepends=True)[0])
    assert place.state(folder) is place.State.BEGUN
    assert __main__.main(words) == 0
    assert place.state(folder) is place.State.FINISHED
    again = json.loads(results.read_text().splitlines()[1])
    before = json.loads(complete.splitlines()[1])
    assert again["prototype_accuracy_selected"] == before["prototype_accuracy_selected"]

    with monkeypatch.context() as patch:
        patch.setattr(cli, "main", None)
        assert __main__.main(words) == 0
        assert "finished before" in capsys.readouterr().out
        assert __main__.main([*words, "--devices", "2"]) == 0
        assert __main__.main([*words, "--rounds", "3"]) == 2
        assert "got --data digits" in capsys.readouterr().err
    (tmp_path / "scale.json").unlink()
    assert __main__.main(words) == 2
    assert "without a readable scale.json" in capsys.readouterr().err


def test_a_stop_ends_all_and_a_failure_ends_one(calls, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(catalogue, "names", lambda: ["clients", "scale"])
    words = ["--all", "--out", str(tmp_path)]
    assert __main__.main(words) == 0
    assert calls == ["sweep"] and "the same command goes on" in capsys.readouterr().out

    monkeypatch.setattr(cli, "main", lambda words: calls.append(words[0]) or 2)
    assert __main__.main(words) == 2
    assert calls == ["sweep"] * 3 and "failed: clients, scale" in capsys.readouterr().out


def test_the_page_is_of_what_is_finished(calls, tmp_path, monkeypatch, capsys):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sweep.json").write_text("{}")
    states = {"one": place.State.FINISHED, "two": place.State.BEGUN}
    monkeypatch.setattr(place, "state", lambda folder: states[folder.name])
    monkeypatch.setattr(cli, "main", lambda words: calls.append(words) or 0)
    out = __main__.console.Console()
    assert pages.write(tmp_path, ["three", "two"], out) == 0
    assert calls == []
    assert pages.write(tmp_path, ["one", "two"], out) == 0
    (words,) = calls
    assert words[0] == "report" and str(tmp_path / "one") in words
    assert "--apart" in words and str(tmp_path / "two") not in words
    assert "page.html" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scales"], "did you mean scale?"),
        (["cifar10"], "--size must be small for cifar10, got 'quick'"),
        ([], "NAME or --all"),
        (["scale", "--all"], "NAME or --all"),
        (["scale", "--stand-in"], "--stand-in must be given with"),
        (["ablation", "--size", "small"], "--data must be given for ablation"),
    ],
)
def test_mistakes_are_one_line(words, message, capsys, calls):
    assert __main__.main(words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and calls == []


def test_stand_ins_have_the_shape_of_what_they_stand_for(monkeypatch, capsys):
    monkeypatch.setitem(stand_in.SHAPES, "cifar10", (2000, 32, 3, 10))
    monkeypatch.setitem(stand_in.data.SOURCES, "tfds", None)
    words = ["scale", "--size", "full", "--family", "fedavg_cnn", "--stand-in", "--dry-run"]
    assert __main__.main([*words, "--seeds", "1"]) == 0
    assert "7 runs, 2 programs" in capsys.readouterr().out
    with pytest.raises(UsageError, match="--stand-in must be for one of mnist"):
        stand_in.load("imagenet")


@pytest.mark.large
def test_programs_are_compiled_and_nothing_is_trained(tiny, tmp_path, capsys):
    words = ["scale", "--compile", "--out", str(tmp_path), "--seeds", "2"]
    assert __main__.main(words) == 0
    text = capsys.readouterr().out
    assert "4 runs, 1 program to compile" in text and "1 rounds: compiled in" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.large
def test_alignment_is_timed_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(alignment, "METHODS", {"simplex": {"method": "simplex"}})
    monkeypatch.setattr(catalogue, "one", lambda name, size: Timing([3, 4], 1))
    words = ["alignment_cost", "--out", str(tmp_path)]
    assert __main__.main(words) == 0
    table = tmp_path / "alignment_cost" / "timings.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["classes"] for row in rows] == ["3", "4"]
    assert all(float(row["milliseconds"]) > 0 for row in rows)
    assert float(rows[0]["min_angle"]) == pytest.approx(120, abs=0.01)
    assert table.with_name("timings.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(cost, "run", None)
    assert __main__.main(words) == 0
    assert "simplex" in capsys.readouterr().out
    monkeypatch.setattr(catalogue, "one", lambda name, size: Timing([3], 1))
    assert __main__.main(words) == 2


def test_ways_without_an_answer_are_not_timed(monkeypatch):
    timed = []
    monkeypatch.setattr(alignment, "DIM", 3)
    monkeypatch.setattr(alignment, "collapsed", lambda count: None)
    figures = {"iterations": 1, "min_angle": 2.0, "relative_gap": 0.0}
    monkeypatch.setattr(alignment, "prepare", lambda name, _: timed.append(name) or figures)
    times = cost.timing.Times(1.0, 1.0)
    monkeypatch.setattr(cost.timing, "medians", lambda clocks, _: dict.fromkeys(clocks, times))
    cost._measured(5, 1)
    assert "simplex" not in timed and "thomson" in timed
