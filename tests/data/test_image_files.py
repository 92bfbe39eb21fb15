"""Image files to arrays: every mode, sizes, bombs, and many at once."""

import io
import logging
import struct
import time
import zlib

import numpy as np
import PIL.Image
import pytest

from protonorm_jax.data import memory, pictures
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Dataset

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (5, 4, 3), np.uint8)
GREY = RNG.integers(0, 256, (5, 4), np.uint8)
DEEP = RNG.integers(0, 65536, (5, 4), np.uint16)


def encoded(array, kind="png", mode=None, **options):
    image = PIL.Image.fromarray(array)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


def picture(content, origin="x"):
    return pictures.Picture(origin, lambda: content, len(content))


def decoded(content, image_size=0):
    return pictures.stack([picture(content)], 1, origin="set", image_size=image_size)[0]


def refusal(content, image_size=0):
    start = time.perf_counter()
    with pytest.raises(UsageError) as caught:
        decoded(content, image_size)
    assert time.perf_counter() - start < 5
    assert str(caught.value).startswith("x") and "\n" not in str(caught.value)
    return str(caught.value)


def png(width, height, body=b""):
    """The bytes of a grey PNG that says it has this size."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )  # fmt: skip

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(body)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def test_what_has_no_loss_keeps_its_pixels():
    alpha = RNG.integers(0, 256, (5, 4), np.uint8)
    assert np.array_equal(decoded(encoded(GREY))[..., 0], GREY)
    assert np.array_equal(decoded(encoded(COLOUR, "bmp")), COLOUR)
    # Transparency is dropped, wherever it is; nothing shows through.
    assert np.array_equal(decoded(encoded(np.dstack([COLOUR, alpha]))), COLOUR)
    assert np.array_equal(decoded(encoded(np.dstack([GREY, alpha])))[..., 0], GREY)
    assert np.array_equal(decoded(encoded(COLOUR, transparency=(1, 2, 3))), COLOUR)
    two_tone = decoded(encoded(GREY > 99))
    assert np.array_equal(two_tone[..., 0], (GREY > 99) * 255)


def test_palettes_are_resolved():
    image = PIL.Image.fromarray(GREY % 3).convert("L")
    image.putpalette([9, 8, 7, 100, 150, 200, 255, 0, 1])
    expected = np.array([[9, 8, 7], [100, 150, 200], [255, 0, 1]], np.uint8)[GREY % 3]
    for kind, options in (
        ("png", {}),
        ("png", {"transparency": bytes([0, 128, 255])}),
        ("gif", {}),
    ):
        file = io.BytesIO()
        image.save(file, kind, **options)
        assert np.array_equal(decoded(file.getvalue()), expected)


def test_cmyk_and_jpeg_have_the_colours_of_their_image():
    flat = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    for content in (
        encoded(flat, "tiff", "CMYK"), encoded(flat, "jpeg", "CMYK"), encoded(flat, "jpeg")
    ):  # fmt: skip
        assert np.abs(decoded(content).astype(int) - (200, 100, 50)).max() <= 3


@pytest.mark.parametrize("order", ["<u2", ">u2"])
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_deep_grey_is_scaled_and_rounded(kind, order):
    deep = DEEP.copy()
    deep[0] = [0, 128, 129, 65535]  # 257 is one step, so 128 is rounded down and 129 up.
    content = encoded(deep.astype(order), kind)
    expected = np.round(deep / 257).astype(np.uint8)
    assert np.array_equal(decoded(content)[..., 0], expected)
    assert decoded(content)[0, :, 0].tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_what_has_no_white_is_refused(dtype):
    message = refusal(encoded(GREY.astype(dtype), "tiff"))
    assert message == (
        "x must have 8 bits a channel, or 16 of grey, got Pillow mode "
        f"{'I' if dtype == np.int32 else 'F'}"
    )


def test_of_an_animation_the_first_frame():
    frames = [PIL.Image.fromarray(np.full((4, 3), value, np.uint8)) for value in (10, 200)]
    file = io.BytesIO()
    frames[0].save(file, "gif", save_all=True, append_images=frames[1:])
    assert (decoded(file.getvalue()) == 10).all()


def test_the_camera_may_have_been_turned():
    """As `ImageFolder` does, EXIF's orientation is not applied."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    assert np.array_equal(decoded(encoded(COLOUR, exif=exif)), COLOUR)


def test_no_program_draws_an_image():
    assert "no image of a known format" in refusal(encoded(COLOUR, "eps"))
    assert "no image of a known format" in refusal(b"%!PS-Adobe-3.0 EPSF-3.0\n(x) run\n")


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "tiff"])
def test_truncated_images(kind):
    content = encoded(RNG.integers(0, 256, (40, 40, 3), np.uint8), kind)
    for keep in (0, 5, 60, len(content) // 2):
        assert "must be readable, got" in refusal(content[:keep])


def test_bombs_are_seen_before_they_are_unpacked():
    for size in ((50_000, 50_000), (12_000, 10_000), (2**26 + 1, 1)):
        for image_size in (0, 8):
            assert "x must have at most 67,108,864 pixels, got" in refusal(png(*size), image_size)
    assert "must be readable, got" in refusal(png(2**13, 2**13))
    assert "must be readable, got" in refusal(png(0, 5))
    assert decoded(png(2, 3, bytes(9))).shape == (3, 2, 1)
    long = pictures.Picture("x", bytes, 2**40)
    with pytest.raises(UsageError, match="x must have at most 536,870,912 bytes, got 1,099,511,"):
        pictures.stack([long], 1, origin="set")


@pytest.mark.parametrize("shape", [(10, 10, 3), (10, 10), (10, 22, 3), (22, 10)])
def test_resizing_takes_the_square_in_the_middle(shape):
    """As if the whole were resized and then cut."""
    image = RNG.integers(0, 256, shape, np.uint8)
    whole = PIL.Image.fromarray(image)
    whole = whole.resize((shape[1] // 2, shape[0] // 2), PIL.Image.Resampling.BILINEAR)
    top, left = ((length // 2 - 5) // 2 for length in shape[:2])
    expected = np.asarray(whole)[top : top + 5, left : left + 5]
    made = decoded(encoded(image), 5)
    assert made.shape == (5, 5, 3 if len(shape) == 3 else 1)
    assert np.array_equal(made.squeeze(), expected)


def test_resizing_averages_what_it_leaves_out():
    """Antialiased: a fine checkerboard becomes grey, not black or white."""
    board = np.indices((32, 32)).sum(0) % 2 * 255
    small = decoded(encoded(board.astype(np.uint8)), 4)
    assert (np.abs(small.astype(int) - 127) <= 2).all()


def test_a_narrow_image_is_resized_without_a_giant_on_the_way():
    start = time.perf_counter()
    assert decoded(png(60_000, 1, bytes(60_001)), 32).shape == (32, 32, 1)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_resizing_arrays_takes_each_channel_by_itself(channels):
    images = RNG.integers(0, 256, (3, 8, 6, channels), np.uint8)
    images[..., -1] = RNG.integers(0, 2, (3, 8, 6)) * 255  # As if it were transparency.
    parts = np.array([0, 1, 2], np.uint8)
    dataset = Dataset(images, np.array([0, 1, 0], np.int32), 2, "toy", parts)
    small = pictures.resized(dataset, 4)
    assert small.images.shape == (3, 4, 4, channels) and small.images.dtype == np.uint8
    for image, made in zip(images, small.images, strict=True):
        for channel in range(channels):
            alone = decoded(encoded(image[..., channel].copy()), 4)[..., 0]
            assert np.array_equal(made[..., channel], alone)
    assert small.parts is parts and small.labels is dataset.labels
    assert pictures.resized(dataset, 0) is dataset
    assert pictures.resized(small, 4) is small


def stacked(contents, **options):
    named = [picture(content, f"image {i}") for i, content in enumerate(contents)]
    return pictures.stack(named, len(named), origin="set", **options)


def test_many_keep_their_order_and_tell_of_their_progress():
    images = RNG.integers(0, 256, (300, 5, 4), np.uint8)
    told = []
    made = stacked(map(encoded, images), on_progress=lambda *news: told.append(news))
    assert made.shape == (300, 5, 4, 1) and np.array_equal(made[..., 0], images)
    assert told[-1] == ("decoding images", 300, 300)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


@pytest.mark.parametrize("place", [0, 1, 150, 199])
def test_one_colour_image_makes_all_colour(place):
    contents = [encoded(image) for image in RNG.integers(0, 256, (200, 5, 4), np.uint8)]
    grey = stacked(contents)
    contents[place] = encoded(COLOUR)
    made = stacked(contents)
    expected = np.repeat(grey, 3, -1)
    expected[place] = COLOUR
    assert np.array_equal(made, expected)


def test_the_first_that_does_not_do_is_named():
    contents = [encoded(COLOUR)] * 300
    contents[70] = encoded(COLOUR[:4])
    contents[60] = b"nothing"
    contents[280] = b""
    with pytest.raises(UsageError, match=r"^image 60 must be readable"):
        stacked(contents)
    contents[60] = contents[0]
    message = r"^image 70: .* got 4x4 and 5x4 in image 0; --image-size makes them equal$"
    with pytest.raises(UsageError, match=message):
        stacked(contents)
    with pytest.raises(UsageError, match=r"^image 280 must be readable"):
        stacked(contents, image_size=3)
    del contents[280]
    assert stacked(contents, image_size=3).shape == (299, 3, 3, 3)


@pytest.mark.parametrize(("large", "together"), [(19, 1), (20, 2)])
def test_large_images_are_decoded_alone(monkeypatch, large, together):
    """Those of more pixels than `_LARGE`; here of 20."""
    inside, most, plain = [], [], pictures._plain

    def slow(image, origin):
        inside.append(origin)
        time.sleep(0.002)
        most.append(len(inside))
        inside.remove(origin)
        return plain(image, origin)

    monkeypatch.setattr(pictures, "_LARGE", large)
    monkeypatch.setattr(pictures, "_plain", slow)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    stacked([encoded(GREY)] * 300)
    assert max(most) == 1 if together == 1 else max(most) >= together


def test_what_does_not_fit_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr(memory, "free", lambda: 1000)
    assert stacked([encoded(COLOUR)] * 16).shape == (16, 5, 4, 3)
    with pytest.raises(UsageError, match="set must fit into memory, got 17 images of 5x4, which"):
        stacked([encoded(COLOUR)] * 17)
    with pytest.raises(UsageError, match="set must fit into memory, got 20 images of 5x4"):
        stacked([encoded(GREY)] * 19 + [encoded(COLOUR)])
    dataset = Dataset(np.zeros((2, 5, 4, 3), np.uint8), np.array([0, 1], np.int32), 2, "toy")
    with pytest.raises(UsageError, match="toy must fit into memory, got 2 images of 13x13"):
        pictures.resized(dataset, 13)


def test_memory_that_is_free_is_that_of_the_machine():
    assert 2**20 < memory.free() < 2**50


def test_pillow_says_nothing_beside(capfd, recwarn):
    exif = encoded(COLOUR, "jpeg", exif=b"Exif\0\0MM\0\x2a\0\0\0\x08\xff\xff broken")
    stacked([exif, encoded(COLOUR, "tiff"), exif])
    level = logging.getLogger("PIL").level
    with pytest.raises(UsageError):
        stacked([encoded(COLOUR), b"II*\0\x08\0\0\0\x01\0\x15\x01\x03\0\x01\0\0\0\xff\xff\0\0"])
    assert capfd.readouterr() == ("", "") and not recwarn.list
    assert logging.getLogger("PIL").level == level
