"""Settings that must stand before jax starts, and fixtures shared by all tests."""

import os

# Four host devices on any machine; the thread pool must not be smaller than the device count.
os.environ.setdefault("NPROC", "8")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
