"""Settings that must stand before jax starts, and what several tests share."""

import os
import pathlib

# Four host devices on any machine; the thread pool must not be smaller than the device count.
os.environ.setdefault("NPROC", "8")
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=4",
        "--xla_cpu_collective_call_terminate_timeout_seconds=600",
    )
)

import jax
import numpy as np
import pytest

from compilation import hasty, once
from protonorm_jax.planning import targets
from protonorm_jax.running import record
from protonorm_jax.types import Dataset

targets.leave_out_absent()
jax.config.update("jax_numpy_rank_promotion", "raise")
# Compilation is most of the work here: a second run takes the programs from this folder.
jax.config.update(
    "jax_compilation_cache_dir", str(pathlib.Path(__file__).parent.parent / ".pytest_cache/xla")
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Without this a process that runs many files dies; see `devices.make_room_for_programs`."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def hastily():
    """See `compilation.hasty`."""
    with hasty():
        yield


@pytest.fixture(scope="module")
def compiled_once():
    """See `compilation.once`."""
    with once():
        yield


@pytest.fixture(scope="module")
def undrawn():
    """Pictures of runs are empty files: drawing them takes longer than a small run itself."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_clients", "draw_curves", "draw_prototypes"):
            patch.setattr(record.report, name, lambda *_: None)
        yield


@pytest.fixture(scope="session")
def small_set() -> Dataset:
    """240 images of 8 x 8 pixels in 5 classes that differ in brightness, with noise."""
    generator = np.random.default_rng(0)
    labels = np.arange(240, dtype=np.int32) % 5
    noise = generator.integers(-20, 21, (240, 8, 8, 1))
    images = (30 + 45 * labels[:, None, None, None] + noise).astype(np.uint8)
    return Dataset(images, labels, 5, "brightness")
