"""`Config.image_size`, whoever brings the images."""

import numpy as np
import pytest

from protonorm_jax import data
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.planning.deal import deal
from protonorm_jax.running import sweep

SMALL = Config(num_clients=2, family="mlp", feature_dim=4, rounds=1)


def test_images_are_resized_whoever_brings_them():
    config = SMALL.replace(image_size=4)
    read = deal([config]).dataset
    assert read.images.shape == (1797, 4, 4, 1)
    given = deal([config], data.load("digits")).dataset
    assert np.array_equal(given.images, read.images)
    assert deal([SMALL], read).dataset.images.shape == (1797, 4, 4, 1)


def test_a_sweep_over_sizes_resizes_each_from_the_original():
    planned = sweep.plan(SMALL, [{"image_size": 2}, {"image_size": 6}])
    for plan, size in zip(planned.plans, (2, 6), strict=True):
        expected = data.load("digits", image_size=size).images
        assert np.array_equal(plan.dataset.images, expected)


def test_a_config_without_it_is_as_it_was():
    assert Config().digest() == "7245919c93d2aaac"  # Recorded before there was `image_size`.
    assert Config(image_size=8).digest() != Config().digest()


@pytest.mark.parametrize("size", [-1, 4097])
def test_sizes_that_are_none(size):
    with pytest.raises(UsageError, match=rf"Config\.image_size must be .*, got {size}"):
        Config(image_size=size)
