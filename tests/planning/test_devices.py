"""How the CPU is divided, each case in a process of its own: jax can be set up only once.

And what becomes of programs that are not needed any more.
"""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from protonorm_jax.planning import devices
from protonorm_jax.running import driver
from recorded import SMALL

SETS_UP_THREE = "devices.prepare_cpu(3)"
CASES = {
    "nobody has said anything": ({}, SETS_UP_THREE, 3),
    "one device wanted": ({}, "devices.prepare_cpu(1)", 1),
    "the user's flag": (
        {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
        SETS_UP_THREE,
        2,
    ),
    "the user's variable": ({"JAX_NUM_CPU_DEVICES": "2"}, SETS_UP_THREE, 2),
    "jax has started": ({}, f"jax.devices(); {SETS_UP_THREE}", 1),
}


@pytest.mark.parametrize("case", CASES)
def test_the_cpu_is_divided_unless_the_user_or_jax_was_first(case):
    variables, setup, count = CASES[case]
    own = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    before = variables.get("XLA_FLAGS", "")
    code = f"import jax, os; from protonorm_jax.planning import devices; {setup}; " + (
        "print(jax.device_count(), os.environ.get('XLA_FLAGS', ''))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | variables | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    found, flags = result.stdout.rstrip("\n").split(" ", 1)
    assert int(found) == count
    if count == 3:
        assert "terminate_timeout" in flags
    else:
        assert flags == before


def test_the_users_other_flags_win():
    code = (
        "import os; from protonorm_jax.planning import devices; devices.prepare_cpu(2); "
        "print(os.environ['XLA_FLAGS'])"
    )
    flag = "--xla_cpu_collective_call_terminate_timeout_seconds=7"
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"XLA_FLAGS": flag},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.count("terminate_timeout") == 1 and flag in result.stdout


MAPS = pathlib.Path("/proc/self/maps")


@pytest.mark.skipif(not MAPS.exists(), reason="the system does not count memory maps")
def test_programs_make_room_for_others(small_set, monkeypatch):
    """Those that nobody holds go; a simulation goes on with the bits it had."""
    traces = []

    @jax.jit
    def users_own(x):
        traces.append(x)
        return x + 1

    users_own(jnp.ones(3))
    held = driver.prepare([SMALL.replace(rounds=1)], small_set)
    inputs = held.put(held.inputs(0))
    before = held.advance(held.init(inputs), inputs, 1)[1]
    driver.prepare([SMALL.replace(batch_size=5)], small_set)
    taken = MAPS.read_bytes().count(b"\n")
    assert not devices.make_room_for_programs()
    users_own(jnp.ones(3))
    assert len(traces) == 1
    assert devices.make_room_for_programs(share=0.0)
    assert MAPS.read_bytes().count(b"\n") < taken - 500
    users_own(jnp.ones(3))
    assert len(traces) == 2
    after = held.advance(held.init(inputs), inputs, 1)[1]
    assert before[0]["terms"]["loss"].tolist() == after[0]["terms"]["loss"].tolist()

    asked = []
    monkeypatch.setattr(devices, "make_room_for_programs", lambda: asked.append(True))
    driver.prepare([SMALL.replace(rounds=1)], small_set)
    assert asked == [True]
