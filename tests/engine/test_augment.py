"""Random crops and flips: each image one of the few that they may become, drawn by itself."""

import jax
import numpy as np
import pytest

from protonorm_jax.engine import augment

KEY = jax.random.key(3)
augmented = jax.jit(augment.images, static_argnums=2)


def some(count, height=8, width=16, channels=2):
    """Images of which no two pixels are alike."""
    values = np.random.default_rng(0).permutation(count * height * width * channels)
    return (values / values.size).astype(np.float32).reshape(count, height, width, channels)


def variants(image, how):
    """All that may become of an image, by shift and flip; `numpy.pad` makes the padding."""
    height, width, _ = image.shape
    up, left = (-(-side // 8) if "crop" in how else 0 for side in (height, width))
    padded = np.pad(image, ((up, up), (left, left), (0, 0)), constant_values=-1.0)
    for top in range(2 * up + 1):
        for start in range(2 * left + 1):
            crop = padded[top : top + height, start : start + width]
            yield (top - up, start - left, False), crop
            if "flip" in how:
                yield (top - up, start - left, True), crop[:, ::-1]


@pytest.mark.parametrize("how", ["crop", "flip", "crop,flip"])
def test_every_image_becomes_one_of_its_variants_and_all_occur(how):
    images = some(200)
    made = np.asarray(augmented(KEY, images, how))
    drawn = []
    for image, one in zip(images, made, strict=True):
        (name,) = [name for name, own in variants(image, how) if np.array_equal(own, one)]
        drawn.append(name)
    assert set(drawn) == {name for name, _ in variants(images[0], how)}
    for number, mean in enumerate(np.mean(np.array(drawn, float), axis=0)):
        assert abs(mean - (0.5 if number == 2 and "flip" in how else 0.0)) < 0.25


def test_padding_is_an_eighth_of_the_side_rounded_up():
    for side, padding in ((28, 4), (32, 4), (1, 1)):
        ones = np.ones((300, side, side, 1), np.float32)
        made = np.asarray(augmented(KEY, ones, "crop"))
        black = (made == -1).all(axis=(2, 3)).sum(axis=1)  # Whole rows, above or below.
        partly = black[black < side]
        assert (partly.max() if side > 1 else black.max()) == padding


def test_an_image_does_not_depend_on_its_company():
    """Bit by bit: with other images in its place, under vmap, and by key."""
    images = some(12)
    made = np.asarray(augmented(KEY, images, "crop,flip"))
    other = np.concatenate([images[:4], some(8)[::-1]])
    np.testing.assert_array_equal(augmented(KEY, other, "crop,flip")[:4], made[:4])
    keys = jax.random.split(KEY, 3)
    mapped = jax.vmap(lambda key: augmented(key, images, "crop,flip"))(keys)
    for key, one in zip(keys, mapped, strict=True):
        np.testing.assert_array_equal(augmented(key, images, "crop,flip"), one)
    assert np.any(mapped[0] != mapped[1])
