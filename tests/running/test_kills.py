"""Processes that are killed, run out of space or are told to stop: nothing lost or doubled."""

import json
import os
import pathlib
import random
import resource
import subprocess
import sys
import time

import jax
import pytest

from protonorm_jax import data
from protonorm_jax.command import cli
from protonorm_jax.running import checkpoint, holders
from recorded import assert_same, content, count_lines, rows_of


def protonorm(*flags):
    """The command in a process of its own, with programs from the tests' cache."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "NPROC")
    }
    cache = str(jax.config.jax_compilation_cache_dir)
    return subprocess.Popen(
        [sys.executable, "-m", "protonorm_jax", *flags],
        env=environment | {"JAX_COMPILATION_CACHE_DIR": cache},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def many_rounds(small_set, tmp_path_factory):
    """Flags of a run of some seconds, and its directory without any disturbance."""
    folder = tmp_path_factory.mktemp("many")
    data.save_npz(small_set, folder / "small.npz")
    flags = ("--data", str(folder / "small.npz"), "--family", "mlp", "--num-clients", "6")
    flags += ("--scale", "4", "--feature-dim", "16", "--devices", "1", "--rounds", "200")
    flags += ("--checkpoint-every", "5")
    with protonorm("run", *flags, "--out", str(folder / "whole")) as process:
        process.communicate()
    return flags, folder / "whole"


def wait_for(process, condition):
    while not condition():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.005)


@pytest.mark.large
@pytest.mark.timeout(400)
def test_killed_at_random_moments(many_rounds, tmp_path):
    """SIGKILL, every other time while a checkpoint is being written."""
    settings, whole = many_rounds
    generator = random.Random(0)
    killed = tmp_path / "killed"
    rows, manifest, folder = (
        killed / name for name in ("metrics.jsonl", "manifest.json", checkpoint.FOLDER)
    )
    flags = ("run", *settings, "--out", str(killed))
    in_a_save = 0
    for number in range(2):
        process = protonorm(*flags)
        flags = ("resume", str(killed))
        # A start writes the manifest, and cuts the rows to those of the checkpoint.
        before = content(manifest)
        wait_for(process, lambda b=before: content(manifest) not in (b"", b))
        wanted = count_lines(rows) + generator.randrange(5, 45)
        wait_for(process, lambda w=wanted: count_lines(rows) >= w)
        while number % 2 and not any(folder.glob("*tmp*")):
            assert process.poll() is None, process.stdout.read()
        process.kill()
        process.communicate()
        in_a_save += any(folder.glob("*tmp*"))
        left = sorted(path.name for path in folder.glob("*"))
        print(f"killed with {count_lines(rows)} rows, checkpoints {left}")
    assert in_a_save >= 1
    with protonorm(*flags) as process:
        said = process.stdout.read()
    assert process.returncode == 0 and "going on after round" in said
    assert count_lines(rows) == 200
    assert_same(whole, killed)


@pytest.mark.large
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="the system has no prlimit")
def test_a_full_disk_loses_nothing(many_rounds, tmp_path):
    """From some moment on no file may grow any more: no checkpoint is written, and then no row."""
    settings, whole = many_rounds
    rows, folder = tmp_path / "run/metrics.jsonl", tmp_path / "run" / checkpoint.FOLDER
    process = protonorm("run", *settings, "--out", str(tmp_path / "run"))
    wait_for(process, lambda: any(path.name.isdigit() for path in folder.glob("*")))
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (rows.stat().st_size + 10_000,) * 2)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "a checkpoint could not be written" in said
    assert "protonorm: --out must be writable, got " in said
    assert "ERROR:" not in said  # The warning is enough, without all that orbax logs.
    written = rows_of(tmp_path / "run")
    assert written == rows_of(whole)[: len(written)] and 5 <= len(written) < 200
    assert not list((tmp_path / "run").glob(".*"))  # Nothing half-written.
    with protonorm("resume", str(tmp_path / "run")) as process:
        said = process.stdout.read()
    assert process.returncode == 0 and "going on after round" in said
    assert_same(whole, tmp_path / "run")


def test_sigterm_saves_and_exits_with_75(small_set, tmp_path, capsys):
    file = tmp_path / "small.npz"
    data.save_npz(small_set, file)
    out = tmp_path / "run"
    flags = ("--data", str(file), "--family", "mlp", "--num-clients", "4", "--feature-dim", "8")
    process = protonorm("run", *flags, "--devices", "1", "--rounds", "1000000", "--out", str(out))
    wait_for(process, lambda: count_lines(out / "metrics.jsonl") >= 5)
    # Nobody else gets in, whatever is asked for, and everybody may look.
    in_use = (
        f"protonorm: {out} is in use by process {process.pid} on {holders.here().host} since 20"
    )
    for command in (("resume",), ("resume", "--rounds", "9"), ("run", *flags, "--overwrite")):
        place = () if command[0] == "resume" else ("--out",)
        assert cli.main([command[0], *place, str(out), *command[1:]]) == 2
        assert capsys.readouterr().err.startswith(in_use)
    assert cli.main(["compare", str(out)]) == 0
    assert f"{out}: running after round " in capsys.readouterr().out
    process.terminate()
    said, _ = process.communicate(timeout=60)
    assert not (out / holders.NAME).exists()
    assert process.returncode == 75
    assert f"protonorm resume {out} goes on" in said and "stopped after round" in said
    rows = len(rows_of(out))
    assert json.loads((out / "summary.json").read_text())["rounds"] == rows
    assert [path.name for path in (out / checkpoint.FOLDER).iterdir()] == [str(rows)]


@pytest.mark.large
@pytest.mark.timeout(1200)
def test_a_few_of_the_campaign():
    """See `kills.py`; `make kills` has a hundred."""
    script = pathlib.Path(__file__).with_name("kills.py")
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)
    }
    said = subprocess.run(
        [sys.executable, script, "--kills", "12", "--seed", "1"],
        env={name: value for name, value in environment.items() if name != "XLA_FLAGS"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    assert "12 kills, seed 1: nothing lost" in said
