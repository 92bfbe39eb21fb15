"""How the CPU is divided and shared out, and what becomes of programs not needed any more."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from protonorm_jax.errors import UsageError
from protonorm_jax.planning import devices
from protonorm_jax.running import driver

COUNT = "--xla_force_host_platform_device_count"
TIMEOUT = "--xla_cpu_collective_call_terminate_timeout_seconds"
# What the user has said, how many devices are asked for, and how many there are then.
CASES = {
    "nobody has said anything": ({}, "", 3, 3),
    "one device wanted": ({}, "", 1, 1),
    "the user's flag": ({"XLA_FLAGS": f"{COUNT}=2"}, "", 3, 2),
    "the user's setting": ({}, "jax.config.update('jax_num_cpu_devices', 2)", 3, 2),
    "jax has started": ({}, "jax.devices()", 3, 1),
    "the user's patience": ({"XLA_FLAGS": f"{TIMEOUT}=7"}, "", 2, 2),
}
# Jax can be set up only once, so that each case has a process of its own: forked, as importing jax
# takes longer than all the rest.
SCRIPT = """
import json, os, sys
import jax
from protonorm_jax.planning import devices

for name, (variables, before, wanted, _) in json.loads(sys.argv[1]).items():
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0
        continue
    os.environ.update(variables)
    exec(before)
    devices.prepare_cpu(wanted)
    print(json.dumps([name, jax.device_count(), os.environ.get("XLA_FLAGS", "")]), flush=True)
    os._exit(0)
"""


def test_the_cpu_is_divided_unless_the_user_or_jax_was_first():
    own = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(CASES)],
        env=environment | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    found = {name: rest for name, *rest in map(json.loads, output.splitlines())}
    assert {name: count for name, (count, _) in found.items()} == {
        name: count for name, (*_, count) in CASES.items()
    }
    patience = ("nobody has said anything", "the user's patience")
    for name, (variables, *_) in CASES.items():
        flags, users_own = found[name][1], variables.get("XLA_FLAGS", "")
        assert flags.startswith(users_own)
        assert flags.count(TIMEOUT) == (name in patience)
        assert name in patience or flags == users_own


def test_devices_are_chosen_in_order_and_not_more_than_there_are():
    present = jax.devices()
    assert len(present) == 4
    assert devices.choose(3) == present[:3] and devices.choose(0) == present
    with pytest.raises(UsageError, match=r"Config.devices must be <= 4, the cpu devices.*got 5"):
        devices.choose(5)


def test_numbers_in_the_environment_must_be_numbers(monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(UsageError, match="JAX_NUM_PROCESSES must be an integer >= 0, got 'two'"):
        devices.connect("host:1", None, 0)


MAPS = pathlib.Path("/proc/self/maps")


@pytest.mark.skipif(not MAPS.exists(), reason="the system does not count memory maps")
def test_programs_make_room_for_others_unless_somebody_holds_them():
    traces = []

    @jax.jit
    def users_own(x):
        traces.append(x)
        for number in range(40):  # A loop each, so that there is code to keep.
            x = jax.lax.fori_loop(0, 3, lambda _, y, n=number: jnp.sin(y @ y + n), x)
        return x

    x = jnp.ones((4, 4))
    held = jax.jit(lambda x: jnp.cos(x) + 1).lower(x).compile()
    before = held(x)
    users_own(x)
    taken = MAPS.read_bytes().count(b"\n")
    assert not devices.make_room_for_programs()
    users_own(x)
    assert len(traces) == 1
    assert devices.make_room_for_programs(share=0.0)
    assert MAPS.read_bytes().count(b"\n") < taken
    np.testing.assert_array_equal(held(x), before)
    users_own(x)
    assert len(traces) == 2


def test_room_is_made_before_anything_is_compiled(monkeypatch):
    class AskedError(Exception):
        pass

    def asked():
        raise AskedError

    monkeypatch.setattr(devices, "make_room_for_programs", asked)
    with pytest.raises(AskedError):
        driver.compile_plan(None)


def test_lapack_has_one_thread_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    devices.prepare_cpu(1)
    assert os.environ["OPENBLAS_NUM_THREADS"] == "3"
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    devices.prepare_cpu(1)
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
