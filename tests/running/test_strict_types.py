"""Strict settings of jax, as people have them in their own scripts, change nothing."""

import jax
import pytest

from protonorm_jax import methods
from protonorm_jax.config import Config
from protonorm_jax.running import driver

pytestmark = pytest.mark.usefixtures("hastily")

DEFAULT = "protonorm"


@pytest.mark.parametrize(
    "method",
    [
        name if name == DEFAULT else pytest.param(name, marks=pytest.mark.large)
        for name in methods.METHODS
    ],
)
def test_strict_types_change_no_bit(method, small_set):
    config = Config(
        method=method,
        family="mlp",
        num_clients=3,
        alpha=0.5,
        min_samples=5,
        rounds=2,
        feature_dim=8,
        devices=1,
        participation=0.8,
        optimizer="adam",
    )
    plain = driver.run(config, dataset=small_set)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        strict = driver.run(config, dataset=small_set)
    assert strict.rows == plain.rows
