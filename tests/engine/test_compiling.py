"""What XLA is told of how to compile."""

import pytest

from protonorm_jax.engine.compiling import compiler_options


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_only_what_is_rounded_is_not_left_to_it(precision, platform):
    expected = {"xla_allow_excess_precision": False} if precision == "bfloat16" else {}
    assert compiler_options(precision, platform) == expected


def test_on_a_gpu_kernels_are_not_chosen_by_the_clock_unless_asked_for(monkeypatch):
    """A program compiled again would have other bits."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert compiler_options("float32", "gpu")["xla_gpu_autotune_level"] == "0"
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=4")
    assert "xla_gpu_autotune_level" not in compiler_options("float32", "gpu")
