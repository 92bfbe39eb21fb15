"""Chips that are not there: chosen, refused, and never asked for in vain."""

import importlib.util
import os

import jax
import pytest

from compilation import as_before
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import plan as planning
from protonorm_jax.planning import targets

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
KINDS = {
    "v5e:1x1": (1, "TPU v5 lite"),
    "v5e:2x2": (4, "TPU v5 lite"),
    "v5e:2x4": (8, "TPU v5 lite"),
    "v4:2x2x1": (4, "TPU v4"),
    "v6e:1x1": (1, "TPU v6 lite"),
}


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    """Variables and settings are those of before again."""
    with as_before():
        yield


@needs_libtpu
@pytest.mark.parametrize("name", targets.TOPOLOGIES)
def test_a_target_is_what_jax_would_see_of_it(name):
    found = targets.absent(name)
    assert (len(found.devices), found.devices[0].device_kind) == KINDS[name]
    # As on one host, whatever the order in which hosts would come.
    assert {device.process_index for device in found.devices} == {0}
    assert found.choose(0) == found.devices and found.choose(1) == found.devices[:1]
    assert {device.platform for device in jax.devices()} == {"cpu"}


@needs_libtpu
def test_what_the_compiler_does_not_know_is_refused(monkeypatch):
    monkeypatch.setitem(targets.TOPOLOGIES, "v5e:3x5", {})
    with pytest.raises(UsageError, match=r"--target must be a topology that libtpu knows.*v5e:3x5"):
        targets.absent("v5e:3x5")


def test_a_topology_must_be_known():
    known = "here, v5e:1x1, v5e:2x2, v5e:2x4, v4:2x2x1, v6e:1x1, h100:1"
    with pytest.raises(UsageError, match=f"--target must be one of {known}, got 'v5e:2x5'"):
        targets.absent("v5e:2x5")


def test_a_gpu_that_is_not_there_is_planned_for(small_set):
    target = targets.absent("h100:1")
    config = Config(method="local", family="mlp", num_clients=3, feature_dim=8)
    plan = planning.make([config, config.replace(seed=1)], small_set, target=target)
    assert plan.devices == target.devices and len(plan.devices) == 1
    assert plan.spread.vmap_runs == 2 and plan.program.architectures[0].together == 3
    assert {device.platform for device in jax.devices()} == {"cpu"}


def test_without_the_compiler_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"libtpu.*pip install 'protonorm_jax\[aot\]'.*v4:2x2x1"):
        targets.absent("v4:2x2x1")


def made_up(count, memory=2**34):
    """A target of this machine's devices, so that no compiler is needed to plan for it."""
    return targets.Target("v5e:2x2", jax.devices()[:count], targets.Chip(memory, 1e12, 1e12))


def test_a_plan_is_for_the_target(small_set):
    config = Config(family="mlp", num_clients=4, feature_dim=8)
    target = made_up(3)
    assert planning.make([config], small_set, target=target).devices == target.devices
    two = planning.make([config.replace(devices=2)], small_set, target=target)
    assert two.devices == target.devices[:2]
    with pytest.raises(UsageError, match=r"devices must be <= 3, the chips of v5e:2x2, got 4"):
        planning.make([config.replace(devices=4)], small_set, target=target)
    need = two.memory.total()
    with pytest.raises(UsageError, match=r"memory must be >= .* got 0.00 GiB free"):
        planning.make([config], small_set, target=made_up(1, need // 10))


CASES = {
    "nothing is installed": ((), None, {}, None),
    "the compiler alone": (("libtpu",), None, {}, "cpu"),
    "another plugin, too": (("libtpu", "jax_plugins"), None, {}, None),
    "the user has chosen": (("libtpu",), "cuda", {}, "cuda"),
    "jax has found chips": (("libtpu",), "tpu,cpu", {}, "tpu,cpu"),
    "the user has chosen as of old": (("libtpu",), None, {"JAX_PLATFORM_NAME": "gpu"}, None),
}


@pytest.mark.parametrize("case", CASES)
def test_chips_that_jax_has_not_found_are_not_looked_for(case, monkeypatch):
    installed, platforms, variables, after = CASES[case]
    for name in ("JAX_PLATFORM_NAME", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in installed or None)
    jax.config.update("jax_platforms", platforms)
    os.environ.update(variables)
    targets.leave_out_absent()
    assert jax.config.jax_platforms == after
    # Where jax must ask, since another plugin may have what it looks for, libtpu keeps quiet.
    assert ("TPU_WORKER_HOSTNAMES" in os.environ) == (case == "another plugin, too")
