"""Several real processes on one machine: the bits of one process, one directory, one writer."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest

from protonorm_jax import data
from protonorm_jax.command import cli
from protonorm_jax.running import stopping
from recorded import assert_same, count_lines, without_times

pytestmark = pytest.mark.usefixtures("hastily")

SIZES = ("--family", "mlp", "--num-clients", "7", "--feature-dim", "16", "--scale", "4")


@pytest.fixture(scope="module")
def flags(small_set, tmp_path_factory):
    """Of runs on four devices, as many as this process has."""
    file = tmp_path_factory.mktemp("data") / "small.npz"
    data.save_npz(small_set, file)
    return ("--data", str(file), *SIZES, "--devices", "4")


def start(*commands, variables=False):
    """Starts one process for each command, told of each other by flags or by variables."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    own = ("XLA_FLAGS", "NPROC")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    environment["JAX_COMPILATION_CACHE_DIR"] = str(jax.config.jax_compilation_cache_dir)
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"  # As `hastily` has it here.
    processes = []
    for number, command in enumerate(commands):
        where = {
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": str(len(commands)),
            "JAX_PROCESS_ID": str(number),
        }
        told = ("--coordinator", address, "--num-processes", str(len(commands)))
        told += ("--process-id", str(number))
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "protonorm_jax", *command, *(() if variables else told)],
                env=environment | (where if variables else {}),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return processes


def finish(processes, code=0):
    """Waits for processes that must end with this code; returns what each has said."""
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), said
    return said


@pytest.mark.large
def test_two_processes_have_the_bits_of_one_and_the_first_writes(flags, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    command = ("run", *flags, "--rounds", "4", "--keep-features", "9")
    command += ("--keep-models", "last", "--out")
    assert cli.main([*command, str(one)]) == 0
    said = finish(start((*command, str(two)), (*command, str(tmp_path / "second"))))
    assert "round 4/4" in said[0] and "protonorm" in said[0]
    # Gloo itself writes into every process's output, from several threads at once.
    assert not re.search(r"protonorm|compiling|round|accuracy|Results", said[1])
    assert not (tmp_path / "second").exists()
    assert_same(one, two)
    for path in (one / "models").iterdir():
        assert (two / "models" / path.name).read_bytes() == path.read_bytes()
    manifest = json.loads((two / "manifest.json").read_text())
    assert manifest["device"]["count"] == 4 and manifest["device"]["processes"] == 2


@pytest.mark.large
def test_a_sweep_of_two_processes_is_stopped_and_goes_on_in_one(flags, tmp_path):
    """Three runs, two at a time, each on the two devices of one process.

    The two are one job of a sweep that could be shared: one command begins it and goes on with it.
    """
    command = ("sweep", *flags, "--rounds", "60", "--seeds", "3", "--runs-per-program", "2")
    command += ("--checkpoint-every", "20", "--out")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert cli.main([*command, str(whole)]) == 0
    shared = (*command, str(stopped), "--shard", "1/1")
    processes = start(*[shared] * 2, variables=True)
    rows = stopped / "runs" / "0000" / "metrics.jsonl"
    while count_lines(rows) < 5:
        assert processes[0].poll() is None, processes[0].stdout.read()
        time.sleep(0.01)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    said = finish(processes, stopping.EXIT_CODE)
    assert "the same command goes on" in said[0]
    assert count_lines(rows) < 60 and not count_lines(stopped / "results.jsonl")
    again, alone = (shutil.copytree(stopped, tmp_path / name) for name in ("again", "alone"))
    finish(start(*[shared] * 2))
    finish(start(*[("resume", str(again))] * 2))
    assert cli.main(["resume", str(alone)]) == 0
    for directory in (stopped, again, alone):
        assert not (directory / "shards").exists()
        assert without_times(directory / "results.jsonl") == without_times(whole / "results.jsonl")
        for run in (whole / "runs").iterdir():
            assert_same(run, directory / "runs" / run.name)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (("--coordinator", "here:1"), "--num-processes and --process-id must be given too"),
        (("--num-processes", "2"), "--coordinator and --process-id must be given too"),
        (
            ("--coordinator", "here", "--num-processes", "2", "--process-id", "0"),
            "--coordinator must be HOST:PORT, got 'here'",
        ),
        (
            ("--coordinator", "here:1", "--num-processes", "2", "--process-id", "2"),
            "--process-id must be in [0, 2), got 2",
        ),
    ],
)
def test_a_mistake_is_one_line(told, words, capsys, tmp_path):
    assert cli.main(["run", *SIZES, *told, "--out", str(tmp_path / "new")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_devices_are_shared_equally(flags, tmp_path):
    """Every process says so and none of them waits for the others."""
    command = ("run", *flags, "--devices", "3", "--out", str(tmp_path / "new"))
    processes = start(command, command)
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    assert all(
        "Config.devices must be a multiple of the number of processes, 2" in one for one in said
    )
