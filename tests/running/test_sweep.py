"""Sweeps: which runs, which programs, what is written, and that a run in it is the run alone."""

import json

import numpy as np
import pytest

from protonorm_jax import data, report
from protonorm_jax.command import cli
from protonorm_jax.config import Config, load
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import plan
from protonorm_jax.running import comparing, reading, sweep, sweep_plan
from protonorm_jax.running.grid import changed
from recorded import assert_same, rows_of

pytestmark = pytest.mark.usefixtures("hastily", "compiled_once", "undrawn")

SMALL = Config(
    family="mlp",
    num_clients=4,
    min_samples=5,
    rounds=2,
    feature_dim=8,
    method_settings={"scale": 4.0},
    devices=1,
)
FAST = ("--family", "mlp", "--num-clients", "4", "--feature-dim", "8", "--devices", "1")


@pytest.fixture(scope="module")
def small_file(small_set, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "small.npz"
    data.save_npz(small_set, path)
    return str(path)


def test_a_grid_is_a_product_with_seeds():
    changes = sweep.expand(SMALL.replace(seed=7), {"scale": [1, 2.5], "align": ["none"]}, 2)
    assert changes == [
        {"scale": scale, "align": "none", "seed": seed} for scale in (1.0, 2.5) for seed in (7, 8)
    ]
    assert reading.swept(changes) == ["scale", "align"]
    assert sweep.expand(SMALL, {"seed": [3, 5]}) == [{"seed": 3}, {"seed": 5}]
    assert sweep.expand(SMALL, {}) == [{"seed": 0}]


def test_several_grids_follow_each_other():
    grids = [
        {"method": ["protonorm"], "scale": [1.0, 2.0]},
        {"method": ["fedproto"], "rounds": [3]},
    ]
    base = SMALL.replace(scale=80)
    methods = [change["method"] for change in sweep.expand(base, grids)]
    assert methods == ["protonorm", "protonorm", "fedproto"]


def test_an_axis_of_one_method_multiplies_its_points_alone():
    grid = {"method": ["protonorm", "fedtgp", "local"], "fedtgp.margin": [0.1, 100]}
    changes = sweep.expand(Config(), {**grid, "alpha": [0.1, 1]})
    assert [change.get("fedtgp.margin") for change in changes] == [
        *(None, None),
        *(0.1, 0.1, 100.0, 100.0),
        *(None, None),
    ]
    configs = [changed(Config(), change) for change in changes]
    assert [config.method for config in configs] == ["protonorm"] * 2 + ["fedtgp"] * 4 + [
        "local"
    ] * 2
    assert configs[4].method_settings["margin"] == 100.0
    assert reading.swept(changes) == ["method", "alpha", "fedtgp.margin"]
    both = {"method": ["protonorm", "fedtgp"], "proximity": [1, 10], "protonorm.scale": [5]}
    assert len(sweep.expand(Config(), both)) == 4


@pytest.mark.parametrize(
    ("grid", "seeds", "words"),
    [
        ({"speed": [1]}, 1, "grid: 'speed' must be a setting (did you mean"),
        ({"scal": [1]}, 1, "grid: 'scal' must be a setting (did you mean 'scale'?), got none"),
        ({"scale": [1, -1]}, 1, "protonorm.scale must be > 0, got -1.0"),
        ({"method": ["fedsgd"]}, 1, "Config.method must be one of protonorm"),
        ({"method": ["fedproto"]}, 1, "scale must be given as an axis of its method"),
        (
            {"fedtgp.margin": [1]},
            1,
            "grid: fedtgp.margin must be of a method in the grid",
        ),
        (
            {"protonorm.scal": [1]},
            1,
            "grid: protonorm has no setting 'scal' (did you mean",
        ),
        (
            {"margin": [1]},
            1,
            "grid: margin must be a setting of every method in",
        ),
        ({"scale": []}, 1, "grid: scale must have a list of values, got []"),
        ({"family": "mlp"}, 1, "grid: family must have a list of values, got 'mlp'"),
        (
            {"scale": [1, 1.0]},
            1,
            "grid must have each run once, got {'scale': 1.0, 'seed': 0} twice",
        ),
        ({"seed": [1, 2]}, 2, "seeds must be 1 for a grid of seeds, got 2"),
        ({}, 0, "seeds must be an integer >= 1, got 0"),
        ({"seed": [2**32 - 1]}, 1, ""),
    ],
)
def test_mistakes_in_a_grid(grid, seeds, words):
    if not words:
        sweep.expand(SMALL, grid, seeds)
        return
    with pytest.raises(UsageError) as caught:
        sweep.expand(SMALL, grid, seeds)
    assert str(caught.value).startswith(words)


def test_only_what_is_compiled_takes_another_program(small_set):
    grid = {"scale": [1, 20], "alpha": [0.1, 5.0], "learning_rate": [0.1, 0.01], "seed": [0, 1]}
    grid |= {"batch_size": [8, 16]}
    planned = sweep.plan(SMALL, sweep.expand(SMALL, grid), small_set, runs_per_program=4)
    assert [len(one.runs) for one in planned.plans] == [16, 16]
    described = sweep_plan.description(planned)
    assert [program["fixed"] for program in described] == [{"batch_size": 8}, {"batch_size": 16}]
    assert all(program["runs_per_program"] == 4 for program in described)
    assert planned.groups[0] == list(range(0, 32, 2))


def test_a_program_takes_as_many_vmapped_runs_as_fit(small_set, monkeypatch):
    """All of them are tried first where they are vmapped; a number asked for is kept."""
    configs = [SMALL.replace(seed=seed) for seed in range(8)]
    assert plan.make(configs, small_set).runs_per_program == 1  # In turn, on one device.
    assert plan.make(configs, small_set, vmap_runs=3).runs_per_program == 3
    monkeypatch.setattr(plan, "IN_TURN", ())
    need = plan.make(configs, small_set, runs_per_program=3).memory.total()
    monkeypatch.setattr(plan.devices, "free_bytes", lambda _: need * 3)
    chosen = plan.make(configs, small_set)
    assert chosen.runs_per_program == chosen.spread.vmap_runs == 8
    monkeypatch.setattr(plan.devices, "free_bytes", lambda _: need)
    assert plan.make(configs, small_set).runs_per_program == 3
    assert plan.make(configs, small_set, vmap_runs=2).runs_per_program == 2
    with pytest.raises(UsageError, match=r"memory must be >= an expected .* runs_per_program = 8"):
        plan.make(configs, small_set, runs_per_program=8)
    monkeypatch.setattr(plan.devices, "free_bytes", lambda _: 1)
    with pytest.raises(UsageError, match=r"memory must be >= an expected .* runs_per_program = 1"):
        plan.make(configs, small_set)


def test_a_sweep_from_the_command_line(small_file, tmp_path, capsys):
    """Two settings, two seeds; one of the rates diverges. Runs are as `protonorm run` has them."""
    out = tmp_path / "sweep"
    flags = ("sweep", "--data", small_file, *FAST, "--rounds", "3", "--scale", "4", "--seeds", "2")
    flags += ("--grid", "learning-rate=0.01,1e12", "--grid", "collect=after,before")
    assert cli.main([*flags, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "8 runs, 2 programs to compile" in printed and "failed" in printed
    assert max(map(len, printed.splitlines())) <= 120 and "±" in printed

    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(rows) == 8 and len({row["run"] for row in rows}) == 8
    for row in rows:
        folder = out / "runs" / row["run"]
        config = load(folder / "config.json")
        assert row["config_digest"] == config.digest()
        values = config.to_dict() | config.to_dict()["method_settings"]
        assert all(row[name] == values[name] for name in ("learning_rate", "collect", "seed"))
        summary = json.loads((folder / "summary.json").read_text())
        assert all(row[name] == value for name, value in summary.items())
        if config.learning_rate > 1:
            assert row["status"] == "failed" and "loss must be finite" in row["error"]
        else:
            assert row["status"] == "finished" and row["prototype_accuracy"] > 0
    first = next(row for row in rows if row["status"] == "finished" and row["seed"] == 1)
    config = out / "runs" / first["run"] / "config.json"
    assert cli.main(["run", "--config", str(config), "--out", str(tmp_path / "alone")]) == 0
    assert_same(tmp_path / "alone", out / "runs" / first["run"])

    assert cli.main(["resume", str(out)]) == 0
    assert len((out / "results.jsonl").read_text().splitlines()) == 8
    capsys.readouterr()
    assert cli.main(["compare", str(out)]) == 0
    assert "failed" in capsys.readouterr().out
    assert cli.main([*flags, "--out", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    settings = ("--data", small_file, *FAST, "--rounds", "1")
    assert cli.main(["run", *settings, "--out", str(out), "--overwrite"]) == 0
    assert cli.main(["verify", str(out)]) == 0  # It is a run now.


def test_a_dry_run_writes_nothing(small_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.json").write_text('[{"scale": [1, 2]}, {"scale": [3], "proximity": [0]}]')
    flags = ("--data", small_file, *FAST, "--grid-file", "grid.json", "--seeds", "3", "--dry-run")
    assert cli.main(["sweep", *flags]) == 0
    assert "9 runs, 1 program to compile" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["grid.json"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--grid", "speed=1"), "--grid must be a setting = values, got 'speed=1'"),
        (("--grid", "proximty=1"), "got 'proximty=1' (did you mean 'proximity'?)"),
        (("--grid", "scale"), "--grid must be a setting = values, got 'scale'"),
        (("--grid", "scale=1,x"), "protonorm.scale must be a number, got 'x'"),
        (("--grid", "fedtg.margin=1"), "--grid must name a method before the dot"),
        (
            ("--grid", "method=protonorm,local", "--grid", "scale=1,2"),
            "grid: scale must be a setting of every method in the grid, local has none",
        ),
        (("--grid", "shuffle=maybe"), "Config.shuffle must be true or false, got 'maybe'"),
        (("--grid", "scale=1", "--grid", "scale=2"), "--grid must name each setting once"),
        (("--grid-file", "missing.json"), "grid must be a readable JSON file"),
        (("--seeds", "-1"), "--seeds must be an integer >= 0, got '-1'"),
        (("--seeds", "0"), "seeds must be an integer >= 1, got 0"),
        (
            ("--grid", "method=protonorm,local", "--scale", "3"),
            "--scale must be given as --grid protonorm.scale=3.0 in a sweep over methods",
        ),
        (
            ("--grid", "method=fedtgp,local", "--margin", "3"),
            "--margin must be given as --grid fedtgp.margin=VALUE in a sweep over methods",
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(flags, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = cli.main(["sweep", *FAST, *flags, "--out", "new"])
    except SystemExit as stop:
        code = stop.code
    errors = capsys.readouterr().err.splitlines()
    assert code == 2 and len(errors) == 1 and words in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_mean_and_standard_error():
    assert report.mean_and_error([]) == "-"
    assert report.mean_and_error([0.5]) == "0.500"
    values = [0.1, 0.4, 0.7, 0.8]
    error = np.std(values, ddof=1) / 2
    assert report.mean_and_error(values) == f"0.500±{error:.3f}"


def test_verify_tells_equal_bits_from_others(small_file, tmp_path, capsys):
    out = tmp_path / "run"
    flags = ("--data", small_file, *FAST, "--rounds", "4", "--out", str(out))
    assert cli.main(["run", *flags]) == 0
    capsys.readouterr()
    assert cli.main(["verify", str(out), "--devices", "2"]) == 0
    printed = capsys.readouterr().out
    assert "rounds 1 to 4: bit-identical (4 rows)" in printed
    assert "prototypes.npz: bit-identical" in printed and "reproduced bit by bit" in printed

    rows = rows_of(out)
    rows[1]["loss"] *= 1 + 1e-6
    rows[2]["head_accuracy"] += 0.5
    (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli.main(["verify", str(out)]) == 1
    printed = capsys.readouterr().out
    assert "round 1: bit-identical" in printed and "round 2: within tolerance: loss" in printed
    assert "round 3: DIFFERENT: head_accuracy" in printed and "NOT reproduced" in printed

    # With another version of jax the same small difference is allowed.
    rows[2]["head_accuracy"] -= 0.5
    (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli.main(["verify", str(out)]) == 1
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["versions"]["jax"] = "0.9.0"
    (out / "manifest.json").write_text(json.dumps(manifest))
    capsys.readouterr()
    assert cli.main(["verify", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "not as recorded: jax 0.9.0 -> " in printed and "reproduced within tolerance" in printed

    (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    assert cli.main(["verify", str(out)]) == 1
    assert "round 4: DIFFERENT: round None -> 4" in capsys.readouterr().out


@pytest.mark.large
def test_verify_allows_for_what_vmap_rounds_otherwise(small_file, tmp_path, capsys):
    """Runs, and clients on other devices, that were in one batch."""
    flags = ("--data", small_file, *FAST, "--rounds", "2")
    both = ("--seeds", "2", "--runs-per-program", "2", "--vmap-runs", "2")
    assert cli.main(["sweep", *flags, *both, "--out", str(tmp_path / "sweep")]) == 0
    assert cli.main(["verify", str(tmp_path / "sweep" / "runs" / "0001")]) == 0
    printed = capsys.readouterr().out
    assert "not as recorded: vmapped runs 2 -> 1" in printed and "NOT" not in printed

    out = tmp_path / "run"
    assert cli.main(["run", *flags, "--vmap-clients", "2", "--out", str(out)]) == 0
    assert cli.main(["verify", str(out), "--devices", "2"]) == 0
    printed = capsys.readouterr().out
    assert "not as recorded: devices 1 -> 2, with vmapped clients" in printed


def test_arrays_are_compared_by_their_worst_element():
    """Truth values among them, which have no difference."""
    recorded = {"known": np.array([True, False]), "prototypes": np.array([1.0, 2.0, 300.0])}
    now = {"known": np.array([True, True]), "prototypes": np.array([1.0, 2.1, 300.0])}
    assert comparing.compare_arrays(recorded, recorded) == []
    assert comparing.compare_arrays(recorded, now) == [
        comparing.Difference("known", 0.0, 1.0, False),
        comparing.Difference("prototypes", 2.0, 2.1, True),
    ]
    assert comparing.compare_arrays(recorded, {"known": now["known"]})[1].now is None


def test_only_finished_runs_can_be_verified(small_file, tmp_path, capsys):
    assert cli.main(["verify", str(tmp_path)]) == 2
    assert "config must be a readable JSON file" in capsys.readouterr().err
    (tmp_path / "config.json").write_text(json.dumps(SMALL.to_dict()))
    (tmp_path / "summary.json").write_text('{"method": "local", "status": "stopped"}')
    assert cli.main(["verify", str(tmp_path)]) == 2
    assert "DIR must hold a finished run, got status 'stopped'" in capsys.readouterr().err
    assert cli.main(["resume", str(tmp_path / "nowhere")]) == 2
    assert "config must be a readable JSON file" in capsys.readouterr().err
