"""`protonorm compile`: what it says, what it refuses, and that a run finds its programs."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from protonorm_jax import data
from protonorm_jax.command import cli

pytestmark = pytest.mark.usefixtures("hastily")

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
FAST = ("--family", "mlp", "--num-clients", "2", "--feature-dim", "8", "--devices", "1")
PROGRAMS = ["init", "rounds"]


@pytest.fixture(scope="module")
def small_file(small_set, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "small.npz"
    data.save_npz(small_set, path)
    return str(path)


@pytest.fixture
def compiling(small_file, capsys):
    """Runs the command with small settings; returns what it printed."""

    def run(*flags):
        assert cli.main(["compile", "--data", small_file, *FAST, *flags]) == 0
        return capsys.readouterr().out

    return run


def test_a_run_is_compiled_for_this_machine(compiling, tmp_path):
    # A run's flags may stay: nothing is written but what is asked for.
    folder = tmp_path / "texts"
    flags = ("--method", "local", "--out", str(tmp_path / "run"), "--dump-hlo", str(folder))
    out = compiling(*flags)
    assert "2 compiled programs for here" in out and "1 rounds: compiled in" in out
    assert sorted(path.name for path in folder.iterdir()) == [
        "01-init.hlo.txt",
        "02-rounds.hlo.txt",
    ]
    assert all(path.read_text().startswith("HloModule") for path in folder.iterdir())
    assert list(tmp_path.iterdir()) == [folder]


def test_of_a_tuned_experiment_both_sweeps_are_compiled(compiling):
    tuned = ("--tune", "2", "--tune-rounds", "1", "--validation-fraction", "0.2")
    found = json.loads(compiling("--json", "--method", "local", *tuned))
    rows = found["programs"]
    assert found["target"] == "here"
    assert [(row["program"], row["name"], row["runs"]) for row in rows] == [
        (f"{part} 1", name, runs)
        for part, runs in (("tuning", 2), ("final runs", 1))
        for name in PROGRAMS
    ]
    for row in rows:
        assert row["fixed"] == {} and row["seconds"] > 0 and row["host_bytes"] > 0
        assert set(row["memory"]) == {"arguments", "results", "temporaries", "code", "total"}
        assert 0 < row["free_share"] < 1 and row["padded"] is None
    for row in rows[1::2]:
        assert row["round"]["by_part"]["training"]["flops"] > 0
        assert row["round"]["seconds"] is None and row["runs_that_fit"] > 1000


def test_a_dry_run_compiles_nothing(compiling):
    out = compiling("--dry-run")
    assert "1 program to compile" in out and "compiled in" not in out
    assert "at least by published" in " ".join(out.split())
    found = json.loads(compiling("--dry-run", "--json", "--target", "h100:1", "--seeds", "2"))
    (row,) = found["programs"]
    assert row["runs"] == row["vmap_runs"] == 2 and row["least"]["flops"] > 0
    assert row["least"]["seconds"] * row["rounds"] == pytest.approx(3600 * row["least"]["hours"])


REFUSED = {
    "--target must be one of here, v5e:1x1": ("--target", "v5e:3x3"),
    "--target must be given with --dry-run where it is h100:1": ("--target", "h100:1"),
    "--process-id must be left out": ("--target", "v5e:1x1", "--process-id", "1"),
    "--tune-seeds must be left out without --tune": ("--tune-seeds", "2"),
    "--dump-hlo must be writable": ("--dump-hlo", "/dev/null/texts"),
}


@pytest.mark.parametrize("rule", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(rule, small_file, capsys):
    assert cli.main(["compile", "--data", small_file, *FAST, *REFUSED[rule]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert rule in line


def process(command, **variables):
    return subprocess.run(
        [sys.executable, "-m", "protonorm_jax", *command],
        env=os.environ | {"XLA_FLAGS": "", **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


@needs_libtpu
def test_a_program_is_compiled_for_a_chip_that_is_not_there(small_file):
    flags = ("--data", small_file, *FAST, "--rounds", "1", "--json")
    done = process(("compile", "--target", "v5e:1x1", *flags), JAX_PLATFORMS="cpu")
    assert done.returncode == 0 and done.stderr == ""
    found = json.loads(done.stdout)
    assert found["target"] == "v5e:1x1" and [row["name"] for row in found["programs"]] == PROGRAMS
    rounds = found["programs"][1]
    assert rounds["available"] == 15.75 * 2**30 and rounds["memory"]["code"] > 0
    assert 0.8 <= rounds["bytes_per_device"] / rounds["memory"]["total"] <= 1.25
    assert rounds["padded"]["share"] < 0.25
    cost, (flops, moved) = rounds["round"], (197e12, 819e9)
    assert cost["seconds"] == max(cost["flops"] / flops, cost["bytes"] / moved) > 0


@needs_libtpu
def test_other_commands_are_quiet_without_a_chip(small_file):
    done = process(("run", "--dry-run", "--data", small_file, *FAST))
    assert done.returncode == 0 and done.stderr == ""
    assert "expected memory of a device" in done.stdout.splitlines()[-1]
